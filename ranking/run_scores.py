"""The scores of training pairs in runs: those of the first stage, or a folder's LANG-SPLIT.trec."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from core.artefacts import RankedRun
from core.errors import InputError
from core.records import Ranking
from core.runs import read_rankings
from core.settings import Ranker
from core.steps import Files, Step
from core.task import Task
from ranking.distinct import DistinctPairs

if TYPE_CHECKING:
    import numpy


class Runs(NamedTuple):
    """Rankings of the queries that a ranker learns from."""

    source: Task  # of the ranker's data
    ranker: Ranker
    system: str  # one of the first stage, or a folder of runs
    role: str  # for messages, as "teacher"

    def splits(self) -> list[tuple[str, str]]:
        """(language, split) of the queries that the ranker's pairs may be of; train comes first."""
        config = self.source.config
        recipe = config.data_aug[self.ranker.recipe]
        found = []
        for split in (config.splits.train, *recipe.targets):
            for language, _ in self.source.pairs(split):
                if not self.ranker.languages or language in self.ranker.languages:
                    found.append((language, split))
        return found

    @property
    def of_first_stage(self) -> bool:
        """Whether retrieval makes them."""
        return self.system in self.source.config.retrieval.systems

    def file(self, language: str, split: str) -> Path:
        """Where one of them is."""
        if self.of_first_stage:
            return self.source.step(RankedRun(self.system, language, split)).path / "run.trec"
        return Path(self.system) / f"{language}-{split}.trec"

    def inputs(self) -> list[Step | Files]:
        """The steps or files that they are, for the step of the training."""
        inputs: list[Step | Files] = []
        for language, split in self.splits():
            if self.of_first_stage:
                inputs.append(self.source.step(RankedRun(self.system, language, split)))
            else:
                name = f"{self.role}/{language}-{split}"
                inputs.append(self.source.file_input(name, self.file(language, split)))
        return inputs

    def rankings(self, language: str) -> Iterator[Ranking]:
        """Those of a language's queries, those of train first.

        Raises InputError for a run with queries that the split has not.
        """
        for of, split in self.splits():
            if of != language:
                continue
            path = self.file(language, split)
            topics = {query.qid for query in self.source.collection.queries(language, split)}
            for qid, run in read_rankings(path):
                if qid not in topics:
                    raise InputError(
                        f"{path}: query {qid} is no topic of {language}-{split}; "
                        "is it a run of this collection, language and split?"
                    )
                yield qid, run


class Found(NamedTuple):
    """Of distinct pairs: fp32 scores, and how many of them are not in the runs."""

    scores: "numpy.ndarray"
    lacking: int

    def __str__(self) -> str:
        share = self.lacking / max(1, len(self.scores))
        return (
            f"{len(self.scores)} pairs; {self.lacking} of them ({share:.1%}) are not in the runs "
            "and have their query's lowest score there"
        )


def scores_in_runs(runs: Runs, name: str, distinct: DistinctPairs) -> Found:
    """The scores of a ranker's pairs in runs, which are read once, query by query.

    A passage that the run of its query lacks has the lowest score there; runs lack all of another
    language than the query. Raises InputError where the runs of a language lack a query of the
    pairs, or all passages of the language.
    """
    import numpy as np

    values = np.empty(len(distinct), np.float32)
    found = 0
    for language, span in distinct.by_language():
        queries = distinct.by_query(span)
        of_language = 0
        for qid, run in runs.rankings(language):
            for part in queries.pop(qid, ()):
                of_language += put_scores(values, distinct, part, run)
        refuse_unanswered(runs, language, queries)
        if not of_language and not distinct.is_foreign(span):
            raise InputError(
                f"{runs.role} {runs.system}: the runs of {language} have none of the passages that "
                f"{name} learns from; are they runs of this collection?"
            )
        found += of_language
    return Found(values, len(distinct) - found)


def put_scores(
    values: "numpy.ndarray", distinct: DistinctPairs, part: range, run: dict[str, float]
) -> int:
    """Puts the scores of a query's pairs into their places; how many of them the run has."""
    lowest = min(run.values())
    if distinct.is_foreign(part):
        values[part.start : part.stop] = lowest
        return 0
    docids = distinct.docids(part)
    values[part.start : part.stop] = [run.get(docid, lowest) for docid in docids]
    return sum(docid in run for docid in docids)


def refuse_unanswered(runs: Runs, language: str, queries: dict[str, list[range]]) -> None:
    """Raises InputError where there are queries of the pairs that the runs lack."""
    if queries:
        raise InputError(
            f"{runs.role} {runs.system}: the runs of {language} lack {len(queries)} queries of the "
            f"training pairs, first {', '.join(list(queries)[:5])}; expected a ranking of each: "
            "add them, or take a system that answers all, such as hybrid"
        )
