"""Candidates from several retrievers together (data-utilization-2025, 3.3)."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from core.fusion import PRESETS, fuse
from core.records import Query, Ranking, RunByQuery
from core.runs import top_k
from retrieval import retrievers, searching
from retrieval.encoders.negatives.from_run import candidates_of

if TYPE_CHECKING:
    from core.steps import Step
    from retrieval.dense import Stored
    from retrieval.encoders.negatives.mining import Mining
    from retrieval.encoders.negatives.pools import Pool, Pools

LEARNED_FROM = 16384  # passages, evenly among all, that a projection is learned from


def from_ensemble(mining: "Mining", language: str, before: "Pools | None") -> Iterator["Pool"]:
    """A link that begins a chain. Relevant passages are there, dropped, as in ``from_run``."""
    relevant = mining.relevant(language)
    depth = mining.settings.from_ensemble.depth
    for qid, scores in Ensemble(mining, language).of_training():
        yield qid, candidates_of(scores, relevant[qid], depth, "from_ensemble")


class Ensemble:
    """The systems of ``from_ensemble`` on a language, whose scores become one."""

    def __init__(self, mining: "Mining", language: str):
        self.mining = mining
        self.language = language
        self.settings = mining.settings.from_ensemble
        self.steps = {name: mining.runs[name, language] for name in self.settings.systems}

    def of_training(self) -> Iterator[Ranking]:
        """Each training query that has a relevant passage, by the runs that there are."""
        texts = self.mining.queries(self.language)
        relevant = self.mining.relevant(self.language)
        runs = {name: self.mining.run(name, self.language) for name in self.steps}
        queries = [Query(qid, texts[qid]) for qid in relevant]
        return self.together(queries, runs, relevant, self.settings.reach)

    def of_new(self, queries: Sequence[Query], depth: int) -> Iterator[Ranking]:
        """Queries that no run has: each system is searched, and its best ``depth`` are taken."""
        runs = {}
        for name, step in self.steps.items():
            rankings = searching.search(self.mining.task, step, self.language, queries, depth)
            runs[name] = dict(rankings)
        return self.together(queries, runs, {}, depth)

    def together(
        self,
        queries: Sequence[Query],
        runs: Mapping[str, RunByQuery],
        relevant: Mapping[str, Collection[str]],
        reach: int,
    ) -> Iterator[Ranking]:
        """Each query with the scores of each system's best ``reach``, and of its relevant ones."""
        features = None
        if self.settings.combine == "features":
            features = Features(self.mining, self.language, self.steps, self.settings.size)
            encoded = features.of_queries(queries)
        for place, query in enumerate(queries):
            own: dict[str, dict[str, float]] = {}
            for name, run in runs.items():
                scores = run.get(query.qid, {})
                own[name] = best_and(scores, reach, relevant.get(query.qid, ()))
            if features is None:
                yield query.qid, fused(own, self.settings.combine)
                continue
            docids = sorted({docid for scores in own.values() for docid in scores})
            known = sorted(set(relevant.get(query.qid, ())) - set(docids))
            yield query.qid, features.scores(encoded[place], [*docids, *known])


def best_and(scores: Mapping[str, float], depth: int, also: Collection[str]) -> dict[str, float]:
    """The best of a query's scores, and those of some passages wherever they stand."""
    best = top_k(scores, depth)
    for docid in also:
        if docid in scores:
            best.setdefault(docid, scores[docid])
    return best


def fused(scores: Mapping[str, dict[str, float]], preset: str) -> dict[str, float]:
    """One query's scores by system as one, each system with the same weight."""
    chosen = PRESETS[preset]
    runs = {name: {"": own} if own else {} for name, own in scores.items()}
    if not any(runs.values()):
        return {}
    weights = dict.fromkeys(runs, 1 / len(runs))
    return fuse(runs, weights, chosen.normalise, chosen.missing)[""]


class Features:
    """Queries and passages as the vectors of several encoders, brought to one size and joined.

    E of the paper, which does not say what it is: here a vector's products with the strongest
    directions of its encoder's passages (singular vectors, of which ``size`` keep scores best), at
    length 1, so that no encoder has more say than another. Two joined vectors' product over the
    number of systems is the score: the mean of the cosines.
    """

    def __init__(self, mining: "Mining", language: str, steps: "Mapping[str, Step]", size: int):
        self.task = mining.task
        self.passages = mining.passages(language)
        self.behind = {name: searching.behind(step, language) for name, step in steps.items()}
        self.stored: dict[str, Stored] = {}
        self.projections: dict[str, np.ndarray] = {}
        for name, made_from in self.behind.items():
            assert made_from.vectors is not None, "the plan has refused systems without vectors"
            self.stored[name] = retrievers.vectors_of(made_from.vectors)
            self.projections[name] = projection(self.stored[name], size)

    def of_queries(self, queries: Sequence[Query]) -> np.ndarray:
        """Fp32 [queries, size of all systems]."""
        texts = [query.text for query in queries]
        parts = []
        for name, made_from in self.behind.items():
            vectors = searching.encoder(self.task, made_from).encode_queries(texts)
            parts.append(unit(vectors @ self.projections[name]))
        return np.concatenate(parts, axis=1)

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        """Fp32 [rows, size of all systems], of sorted rows of passages."""
        parts = []
        for name, stored in self.stored.items():
            vectors = stored[rows].astype(np.float32)
            parts.append(unit(vectors @ self.projections[name]))
        return np.concatenate(parts, axis=1)

    def scores(self, query: np.ndarray, docids: Sequence[str]) -> dict[str, float]:
        """Of passages, those that the collection lacks left out."""
        rows = self.passages.rows(docids, strict=False)
        of_row = {row: docid for row, docid in zip(rows.tolist(), docids, strict=True) if row >= 0}
        in_order = np.array(sorted(of_row), np.int64)
        products = self.of_rows(in_order) @ query / len(self.stored)
        scores = {}
        for row, score in zip(in_order.tolist(), products.tolist(), strict=True):
            scores[of_row[row]] = score
        return scores


def projection(stored: "Stored", size: int) -> np.ndarray:
    """Fp32 [dimension, size or the dimension where that is less], with orthogonal columns."""
    every = max(1, len(stored) // LEARNED_FROM)
    rows = np.arange(0, len(stored), every)
    sample = stored[rows].astype(np.float32)
    moments = (sample.T @ sample).astype(np.float64)
    _, directions = np.linalg.eigh(moments)  # the weakest first
    return np.ascontiguousarray(directions[:, ::-1][:, :size], np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    """At length 1; a vector of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
