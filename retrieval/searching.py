"""New queries to a system that has answered others: what its run was made from, searched again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from core.errors import InputError
from core.records import Query, Ranking
from core.steps import Step
from core.task import Task
from retrieval import bm25, dense, indexes, retrievers


@dataclass(frozen=True)
class Behind:
    """What a run was made from; None where it has no such thing."""

    lucene: Step | None  # BM25's index
    vectors: Step | None
    index: Step | None  # of the vectors
    trained: Step | None  # the encoder, where it is another than the dense source's


def behind(run: Step, language: str) -> Behind:
    """Read off the inputs of a run's step."""
    steps = {source.name: source for source in run.inputs if isinstance(source, Step)}
    vectors = None
    for name, step in steps.items():
        if name.startswith("vectors/"):
            vectors = step
    trained = None
    if vectors is not None and vectors.name != f"vectors/{language}":
        (trained,) = [
            source
            for source in vectors.inputs
            if isinstance(source, Step) and source.name.startswith("encoder/")
        ]
    return Behind(
        lucene=steps.get(f"bm25-index/{language}"),
        vectors=vectors,
        index=steps.get(f"dense-index/{language}"),
        trained=trained,
    )


def encoder(task: Task, made_from: Behind) -> dense.Encoder:
    """That of the vectors behind a run; the last one asked for stays loaded."""
    return retrievers.encoder_of(task, made_from.trained)


def search(
    task: Task, run: Step, language: str, queries: Sequence[Query], depth: int
) -> Iterator[Ranking]:
    """The best ``depth`` passages of each query, by the system that made ``run``.

    Raises InputError for a run that was given: there is nothing to search.
    """
    made_from = behind(run, language)
    if made_from.lucene is not None:
        return search_lucene(task, made_from.lucene, language, queries, depth)
    if made_from.vectors is None:
        raise InputError(
            f"{run.name}: was given as it is, so new queries can't be searched in it; "
            "take its system out of what is searched"
        )
    encoded = encoder(task, made_from).encode_queries([query.text for query in queries])
    passages = task.passages(language)
    if made_from.index is not None:
        loaded = indexes.load(made_from.index.path, task.config.retrieval.dense.index)
        return dense.search_index_each(loaded, passages, queries, encoded, depth)
    stored = retrievers.vectors_of(made_from.vectors)
    return dense.search_each(stored, passages, queries, encoded, depth)


def search_lucene(
    task: Task, index: Step, language: str, queries: Sequence[Query], depth: int
) -> Iterator[Ranking]:
    """By BM25."""
    settings = task.config.retrieval.bm25
    k1, b = retrievers.bm25_parameters(task, language)
    searcher = bm25.open_searcher(language, index.path, k1, b, settings.heap)
    return bm25.search_each(searcher, language, queries, depth, settings.heap, settings.threads)
