"""The retrievers: the steps of each source's index, vectors and runs. RETRIEVERS is the table; ``retrieval.search`` puts them together."""

from pathlib import Path

import numpy as np

from core import backbones
from core.artefacts import RankedRun
from core.console import say
from core.distributed import seed_of
from core.errors import InputError
from core.passages import Passages
from core.records import Run
from core.runs import read_run, run_file, top_k, write_run
from core.steps import Plan, Step
from core.task import Task, once
from retrieval import bm25, dense, indexes

PASSAGE_BYTES = 170  # of a compressed corpus, a passage: for estimates before anything is counted


def expected(task: Task, language: str) -> float:
    """Passages of a language, guessed from the size of its files."""
    return sum(p.stat().st_size for p in task.collection.corpus_files(language)) / PASSAGE_BYTES


def bm25_parameters(task: Task, language: str) -> tuple[float, float]:
    """(k1, b) of a language: its own or the general ones."""
    s = task.config.retrieval.bm25
    own = s.per_language.get(language)
    return (
        (s.k1, s.b)
        if own is None
        else (s.k1 if own.k1 is None else own.k1, s.b if own.b is None else own.b)
    )


def add_bm25(task: Task, steps: Plan) -> None:
    s = task.config.retrieval.bm25
    for language in task.languages:
        k1, b = bm25_parameters(task, language)
        store = steps[f"passages/{language}"]
        index = steps.add(
            f"bm25-index/{language}",
            1,
            {"analyser": bm25.analyser(language)},
            [store],
            lambda folder, la=language, st=store: bm25.build_index(
                la, Passages(st.path), folder, s.heap
            ),
            seconds=3 + expected(task, language) / 4000,
            disk=expected(task, language) * 600,
            memory=heap_bytes(s.heap),
        )

        def build(folder, la, split, index=index, k1=k1, b=b):
            searcher = bm25.open_searcher(la, index.path, k1, b, s.heap)
            run = bm25.search(
                searcher,
                la,
                task.queries(la, split),
                task.config.retrieval.depth,
                s.heap,
                s.threads,
            )
            bm25.check_matches(run, la, split)
            write_run(folder / "run.trec", run, "bm25")

        for split in task.splits(language):
            add_run(task, steps, "bm25", language, split, 1, {"k1": k1, "b": b}, [index], build)


def heap_bytes(text: str) -> float:
    return float(text[:-1]) * {"m": 1e6, "g": 1e9}[text[-1].lower()]


def add_dense(task: Task, steps: Plan) -> None:
    s = task.config.retrieval.dense
    settings = {
        **s.model_dump(include={"backbone", "layers", "max_length", "precision"}),
        **s.model_dump(include={"backend"}, exclude_defaults=True),
        **s.overrides,
        "weights": backbones.fingerprint(s.backbone, task.config.models),
    }

    for language in task.languages:
        store = steps[f"passages/{language}"]
        vectors = steps.add(
            f"vectors/{language}",
            1,
            settings,
            [store],
            lambda folder, la=language, st=store: dense.encode_corpus(
                encoder_of(task), Passages(st.path), folder, la
            ),
            resumes=True,
            seconds=expected(task, language) / 25,
            disk=expected(task, language) * 768,
            memory=2e9,
        )

        made = [vectors]
        if s.index.kind != "exact":
            topics = [task.topics_input(language, split) for split in task.splits(language)]
            made.append(
                steps.add(
                    f"dense-index/{language}",
                    1,
                    {**s.index.model_dump(), "seed": task.config.seed},
                    [vectors, *topics],
                    lambda folder, la=language, st=store, v=vectors: build_dense_index(
                        task, encoder_of(task), la, Passages(st.path), v, folder
                    ),
                    seconds=expected(task, language) / 5000,
                )
            )

        def build(folder, la, split, made=made, store=store):
            queries = task.queries(la, split)
            encoded = encoder_of(task).encode_queries([q.text for q in queries])
            if len(made) > 1:
                found = dense.search_index(
                    indexes.load(made[-1].path, s.index),
                    Passages(store.path),
                    queries,
                    encoded,
                    task.config.retrieval.depth,
                )
            else:
                found = dense.search(
                    vectors_of(made[0]),
                    Passages(store.path),
                    queries,
                    encoded,
                    task.config.retrieval.depth,
                )
            write_run(folder / "run.trec", found, "dense")

        for split in task.splits(language):
            searched = s.index.model_dump(include={"probes", "ef"}) if len(made) > 1 else {}
            add_run(task, steps, "dense", language, split, 1, searched, made, build)


@once
def encoder_of(task: Task) -> dense.Encoder:
    s = task.config.retrieval.dense
    return dense.Encoder(
        s.backbone,
        task.config.models,
        s.layers,
        s.max_length,
        s.batch_tokens,
        s.precision,
        s.overrides,
        s.backend,
    )


def vectors_of(step: Step) -> np.ndarray:
    return np.load(step.path / "vectors.npy", mmap_mode="r")


def build_dense_index(
    task: Task,
    encoder: dense.Encoder,
    language: str,
    passages: Passages,
    vectors: Step,
    folder: Path,
) -> None:
    """The index, and its recall@100 against exact search on up to a hundred queries."""
    s, stored = task.config.retrieval.dense.index, vectors_of(vectors)
    indexes.build(
        stored, s, folder, language, seed_of(task.config.seed, 0, "index", language) % 2**31
    )
    queries = task.queries(language, task.splits(language)[0])[:100]
    encoded, depth = encoder.encode_queries([q.text for q in queries]), min(100, len(stored))
    exact = dense.search(stored, passages, queries, encoded, depth)
    found = dense.search_index(indexes.load(folder, s), passages, queries, encoded, depth)
    say(
        indexes.report(
            folder,
            s,
            language,
            indexes.recall(
                [set(exact[q.qid]) for q in queries], [set(found[q.qid]) for q in queries]
            ),
            depth,
            len(queries),
        )
    )


def add_given(task: Task, steps: Plan) -> None:
    """The source ``run``: TREC files LANG-SPLIT.trec of a folder, as the paper started from supplied runs."""
    if not task.config.retrieval.run:
        raise InputError(
            "retrieval.run is not set; the source 'run' reads DIR/LANG-SPLIT.trec (retrieval.run=DIR)"
        )

    def build(folder, la, split):
        run = given_run(task, Passages(steps[f"passages/{la}"].path), given(la, split), la, split)
        write_run(
            folder / "run.trec",
            {
                q.qid: top_k(run.get(q.qid, {}), task.config.retrieval.depth)
                for q in task.queries(la, split)
            },
            "run",
        )

    def given(la, split):
        return run_file(
            task.config.retrieval.run,
            la,
            split,
            "the source 'run' needs a run for every language and split",
        )

    for la, split in task.pairs():
        add_run(
            task,
            steps,
            "run",
            la,
            split,
            1,
            {},
            [task.file_input(f"given/{la}-{split}", given(la, split))],
            build,
        )


def given_run(task: Task, passages: Passages, path: Path, language: str, split: str) -> Run:
    """A run from outside, its queries and passages checked against the collection's."""
    run, wanted = read_run(path), {q.qid for q in task.collection.queries(language, split)}
    strangers = [qid for qid in run if qid not in wanted]
    if strangers:
        raise InputError(
            f"{path}: queries without a topic in {language}-{split}: {len(strangers)}, first {', '.join(strangers[:5])}; is it a run of this collection, language and split?"
        )
    passages.rows(sorted({d for scores in run.values() for d in scores}))
    return run


def add_run(
    task: Task,
    steps: Plan,
    system: str,
    language: str,
    split: str,
    version: int,
    settings: dict,
    inputs: list,
    build,
) -> Step:
    return steps.add(
        RankedRun(system, language, split),
        version,
        {**settings, "depth": task.config.retrieval.depth},
        [*inputs, steps[f"passages/{language}"], task.topics_input(language, split)],
        lambda folder: build(folder, language, split),
        seconds=1 + len(task.queries(language, split)) / 100,
    )


RETRIEVERS = {"bm25": add_bm25, "dense": add_dense, "run": add_given}
