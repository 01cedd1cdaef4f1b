"""Runs to one run: tables of pure functions, and named presets with explicit choices.

NORMALISERS, MISSING and FUSIONS work on arrays [run, query, passage] in which NaN marks a passage
that a run lacks. The passages of a query lie by docid, descending, so that a stable sort by score
breaks ties in the one order.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.records import Run

RRF_K = 60  # Cormack et al. 2009
FLOOR = 1e-6  # the least factor of a geometric mean, so that one zero is no veto

AnyRun = Mapping[Any, Mapping[str, float]]  # query id, or (language, query id) -> docid -> score


@dataclass(frozen=True)
class Aligned:
    """Runs over one list of queries.

    ``scores`` is [run, query, passage], padded with NaN to the longest query; ``docids`` are each
    query's passages, descending. ``queries`` are query ids or (language, query id), as in the runs.
    """

    names: tuple[str, ...]
    queries: tuple[Any, ...]
    docids: list[list[str]]
    scores: np.ndarray

    @property
    def present(self) -> np.ndarray:
        """[query, passage]: whether any run has it; False is padding."""
        return ~np.isnan(self.scores).all(0)

    def run(self, values: np.ndarray) -> dict[Any, dict[str, float]]:
        """``values`` [query, passage] as a run; its keys are ``queries``, whatever they are."""
        run = {}
        for query, docids, row in zip(self.queries, self.docids, values, strict=True):
            run[query] = dict(zip(docids, row[: len(docids)].tolist(), strict=True))
        return run


def align(runs: Mapping[str, AnyRun], queries: Sequence[Hashable] | None = None) -> Aligned:
    """Runs by name as one array.

    ``queries``: those to hold, in this order; without it all that some run answers, in the order
    in which they are first seen.
    """
    if queries is None:
        seen: dict[Hashable, None] = {}
        for run in runs.values():
            seen |= dict.fromkeys(run)
        queries = list(seen)
    docids = []
    for query in queries:
        of_query: set[str] = set()
        for run in runs.values():
            of_query.update(run.get(query, ()))
        docids.append(sorted(of_query, reverse=True))
    longest = max(map(len, docids), default=0)
    scores = np.full((len(runs), len(queries), longest), np.nan)
    for of_run, run in zip(scores, runs.values(), strict=True):
        for row, query, in_order in zip(of_run, queries, docids, strict=True):
            own = run.get(query)
            if own:
                row[: len(in_order)] = [own.get(docid, np.nan) for docid in in_order]
    return Aligned(tuple(runs), tuple(queries), docids, scores)


# Figures of each query of each run, over the last axis, which stays, with length 1.


def lowest(values: np.ndarray) -> np.ndarray:
    """The least score; infinite where there is none."""
    return np.min(values, -1, keepdims=True, where=~np.isnan(values), initial=np.inf)


def highest(values: np.ndarray) -> np.ndarray:
    """The greatest score; minus infinite where there is none."""
    return np.max(values, -1, keepdims=True, where=~np.isnan(values), initial=-np.inf)


def total(values: np.ndarray) -> np.ndarray:
    """The sum of the scores; 0 where there is none."""
    return np.nansum(values, -1, keepdims=True)


def count(values: np.ndarray) -> np.ndarray:
    """How many passages the run has."""
    return (~np.isnan(values)).sum(-1, keepdims=True)


def ranks(values: np.ndarray) -> np.ndarray:
    """1 for the best of a query; what a run lacks comes last. As large as ``values``."""
    order = np.argsort(-values, -1, kind="stable")
    places = np.broadcast_to(np.arange(1, values.shape[-1] + 1), values.shape)
    rank_of = np.empty(values.shape, np.int64)
    np.put_along_axis(rank_of, order, places, -1)
    return rank_of


# Normalisers: of scores as they are, to what is fused. What they give for NaN is not used.


def none(values: np.ndarray) -> np.ndarray:
    """Raw scores."""
    return values


def minmax(values: np.ndarray) -> np.ndarray:
    """(s - min) / (max - min) over a query's scores; all 1 where they are equal."""
    low, high = lowest(values), highest(values)
    return np.divide(values - low, high - low, out=np.ones_like(values), where=high > low)


def zscore(values: np.ndarray) -> np.ndarray:
    """(s - mean) / standard deviation; all 0 where they are equal."""
    n = np.maximum(count(values), 1)
    centred = values - total(values) / n
    deviation = np.sqrt(total(centred**2) / n)
    uneven = (deviation > 0) & (highest(values) > lowest(values))
    return np.divide(centred, deviation, out=np.zeros_like(values), where=uneven)


def rank(values: np.ndarray) -> np.ndarray:
    """1 - (rank - 1) / n: the best 1, the last of n passages 1 / n."""
    return 1.0 - (ranks(values) - 1) / np.maximum(count(values), 1)


def reciprocal_rank(values: np.ndarray) -> np.ndarray:
    """1 / (60 + rank) (Cormack et al. 2009)."""
    return 1.0 / (RRF_K + ranks(values))


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Of logits: a probability if they are calibrated (``ensemble.calibration``)."""
    return 0.5 * (1.0 + np.tanh(0.5 * values))


def softmax(values: np.ndarray) -> np.ndarray:
    """Shares of a query's passages in the sum of exp(s)."""
    powers = np.exp(values - highest(values))
    return powers / np.maximum(total(powers), 1e-300)


NORMALISERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": none,
    "minmax": minmax,
    "zscore": zscore,
    "rank": rank,
    "rrf": reciprocal_rank,
    "sigmoid": sigmoid,
    "softmax": softmax,
}


def normalised(scores: np.ndarray, normalise: str) -> np.ndarray:
    """Every run's scores of a query under a normaliser; what a run lacks stays NaN."""
    return np.where(np.isnan(scores), np.nan, NORMALISERS[normalise](scores))


# What a passage counts in a run that lacks it, of each query, with a last axis of length 1.


def zero(values: np.ndarray) -> np.ndarray:
    """Nothing."""
    return np.zeros_like(values[..., :1])


def minimum(values: np.ndarray) -> np.ndarray:
    """The run's lowest score of the query; 0 if it does not answer the query."""
    low = lowest(values)
    return np.where(np.isfinite(low), low, 0.0)


MISSING: dict[str, Callable[[np.ndarray], np.ndarray]] = {"zero": zero, "minimum": minimum}


def filled(values: np.ndarray, missing: str) -> np.ndarray:
    """``values`` with the ``missing`` value in place of NaN."""
    return np.where(np.isnan(values), MISSING[missing](values), values)


# Fusions: scores [run, query, passage] and a weight a run to values [query, passage].


def weighted_sum(scores: np.ndarray, weights: Sequence[float], missing: str) -> np.ndarray:
    """sum_i w_i s_i(d), where run i lacks d with its ``missing`` value.

    CombSUM (Fox and Shaw 1993) is the case of weights 1.
    """
    values = np.zeros(scores.shape[1:])
    for weight, own in zip(weights, scores, strict=True):
        values += weight * filled(own, missing)
    return values


def combmnz(scores: np.ndarray, weights: Sequence[float], missing: str) -> np.ndarray:
    """The sum times the number of runs that have the passage (Fox and Shaw 1993)."""
    return weighted_sum(scores, weights, missing) * runs_with(scores)


def combanz(scores: np.ndarray, weights: Sequence[float], missing: str) -> np.ndarray:
    """The sum divided by the number of runs that have the passage (Fox and Shaw 1993)."""
    return weighted_sum(scores, weights, missing) / np.maximum(runs_with(scores), 1)


def runs_with(scores: np.ndarray) -> np.ndarray:
    """[query, passage]: how many runs have the passage."""
    return (~np.isnan(scores)).sum(0)


def rrf(scores: np.ndarray, weights: Sequence[float], missing: str) -> np.ndarray:
    """sum_i w_i / (60 + rank_i(d)) (Cormack et al. 2009).

    A run that lacks d adds its ``missing`` value.
    """
    return weighted_sum(normalised(scores, "rrf"), weights, missing)


def isr(scores: np.ndarray, weights: Sequence[float], missing: str) -> np.ndarray:
    """Number of runs that have d times sum_i w_i / rank_i(d)^2 (Mourao et al. 2015)."""
    squares = np.where(np.isnan(scores), np.nan, 1.0 / ranks(scores) ** 2)
    return combmnz(squares, weights, missing)


def borda(scores: np.ndarray, weights: Sequence[float], _missing: str) -> np.ndarray:
    """Of n passages that any run has, the first gets n points, the next n - 1, …

    Those that a run lacks share what is left of its points (Aslam and Montague 2001), whatever
    ``missing`` says.
    """
    n = (~np.isnan(scores).all(0)).sum(-1, keepdims=True)
    left_over = (n - count(scores) + 1) / 2
    points = np.where(np.isnan(scores), left_over, n - ranks(scores) + 1)
    return weighted_sum(points, weights, "zero")


def geometric(scores: np.ndarray, weights: Sequence[float], missing: str) -> np.ndarray:
    """prod_i max(s_i, 1e-6)^(w_i / sum w): for normalised scores, which are not negative."""
    shares = np.asarray(weights, float) / max(float(np.sum(weights)), 1e-300)
    logarithms = np.zeros(scores.shape[1:])
    for share, own in zip(shares, scores, strict=True):
        logarithms += share * np.log(np.maximum(filled(own, missing), FLOOR))
    return np.exp(logarithms)


FUSIONS: dict[str, Callable[[np.ndarray, Sequence[float], str], np.ndarray]] = {
    "weighted_sum": weighted_sum,
    "combmnz": combmnz,
    "combanz": combanz,
    "rrf": rrf,
    "isr": isr,
    "borda": borda,
    "geometric": geometric,
}


@dataclass(frozen=True)
class Preset:
    """How runs are fused, all choices named.

    ``weights``: fixed ones by source; without them the configuration's. ``alpha``: the first run
    counts 1, the second a tuned alpha.
    """

    normalise: str
    missing: str
    weights: dict[str, float] | None = None
    alpha: bool = False


PRESETS = {
    "minmax": Preset("minmax", "zero"),
    "zscore": Preset("zscore", "minimum"),
    "rrf": Preset("rrf", "zero"),
    # s_sparse + alpha s_dense (mHFN 2022, 4.2; Pyserini's HybridSearcher)
    "sparse-dense": Preset("minmax", "minimum", alpha=True),
    # the published hybrid (Pyserini's interpolation)
    "miracl-baseline": Preset("none", "zero", weights={"bm25": 0.5, "dense": 0.5}),
}


def shrunk(
    own: Mapping[str, float], overall: Mapping[str, float], count: int, strength: float
) -> dict[str, float]:
    """(n v + strength w) / (n + strength): weights v from n queries, drawn to the overall w.

    As if the overall ones were from ``strength`` queries.
    """
    drawn = {}
    for name, weight in own.items():
        drawn[name] = (count * weight + strength * overall[name]) / (count + strength)
    return drawn


def fuse(
    runs: Mapping[str, Run],
    weights: Mapping[str, float],
    normalise: str,
    missing: str,
    fusion: str = "weighted_sum",
) -> Run:
    """Normalised runs under one of FUSIONS; a query that some run lacks is fused from the others.

    Queries in first-seen order.
    """
    aligned = align(runs)
    scores = normalised(aligned.scores, normalise)
    in_order = [weights[name] for name in aligned.names]
    return aligned.run(FUSIONS[fusion](scores, in_order, missing))
