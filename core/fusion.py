"""Runs to one run: NORMALISERS, MISSING and FUSIONS as tables of pure functions, and named presets with explicit choices.

All work on arrays [run, query, passage] in which NaN marks a passage that a run lacks. The passages of a query lie by docid, descending,
so that a stable sort by score breaks ties in the one order.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from core.records import Run

RRF_K = 60  # Cormack et al. 2009
FLOOR = 1e-6  # the least factor of a geometric mean, so that one zero is no veto


@dataclass(frozen=True)
class Aligned:
    """Runs over one list of queries. ``scores`` is [run, query, passage], padded with NaN to the longest query."""

    names: tuple[str, ...]
    queries: tuple[Hashable, ...]
    docids: list[list[str]]
    scores: np.ndarray

    @property
    def present(self) -> np.ndarray:
        """[query, passage]: whether any run has it; False is padding."""
        return ~np.isnan(self.scores).all(0)

    def run(self, values: np.ndarray) -> Run:
        """``values`` [query, passage] as a run."""
        return {
            q: dict(zip(docids, row[: len(docids)].tolist()))
            for q, docids, row in zip(self.queries, self.docids, values)
        }


def align(runs: Mapping[str, Run], queries: Sequence[Hashable] | None = None) -> Aligned:
    """``queries``: those to hold, in this order; without it all that some run answers, in first-seen order."""
    queries = (
        tuple(dict.fromkeys(q for run in runs.values() for q in run))
        if queries is None
        else tuple(queries)
    )
    docids = [
        sorted(set().union(*(run.get(q, ()) for run in runs.values())), reverse=True)
        for q in queries
    ]
    scores = np.full((len(runs), len(queries), max(map(len, docids), default=0)), np.nan)
    for layer, run in zip(scores, runs.values()):
        for row, q, names in zip(layer, queries, docids):
            if found := run.get(q):
                row[: len(names)] = list(map(found.get, names, repeat(np.nan)))
    return Aligned(tuple(runs), queries, docids, scores)


def lowest(values: np.ndarray) -> np.ndarray:
    return np.min(values, -1, keepdims=True, where=~np.isnan(values), initial=np.inf)


def highest(values: np.ndarray) -> np.ndarray:
    return np.max(values, -1, keepdims=True, where=~np.isnan(values), initial=-np.inf)


def total(values: np.ndarray) -> np.ndarray:
    return np.nansum(values, -1, keepdims=True)


def count(values: np.ndarray) -> np.ndarray:
    return (~np.isnan(values)).sum(-1, keepdims=True)


def ranks(values: np.ndarray) -> np.ndarray:
    """1 for the best of a query; what a run lacks comes last."""
    order = np.argsort(-values, -1, kind="stable")
    found = np.empty(values.shape, np.int64)
    np.put_along_axis(
        found, order, np.broadcast_to(np.arange(1, values.shape[-1] + 1), values.shape), -1
    )
    return found


def none(values: np.ndarray) -> np.ndarray:
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
    return np.divide(
        centred,
        deviation,
        out=np.zeros_like(values),
        where=(deviation > 0) & (highest(values) > lowest(values)),
    )


def rank(values: np.ndarray) -> np.ndarray:
    """1 - (rank - 1) / n: the best 1, the last of n passages 1 / n."""
    return 1.0 - (ranks(values) - 1) / np.maximum(count(values), 1)


def reciprocal_rank(values: np.ndarray) -> np.ndarray:
    return 1.0 / (RRF_K + ranks(values))


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Of logits: a probability if they are calibrated (``ensemble.calibration``)."""
    return 0.5 * (1.0 + np.tanh(0.5 * values))


def softmax(values: np.ndarray) -> np.ndarray:
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


def zero(values: np.ndarray) -> np.ndarray:
    return np.zeros_like(values[..., :1])


def minimum(values: np.ndarray) -> np.ndarray:
    """The run's lowest score of the query; 0 if it does not answer the query."""
    low = lowest(values)
    return np.where(np.isfinite(low), low, 0.0)


MISSING: dict[str, Callable[[np.ndarray], np.ndarray]] = {"zero": zero, "minimum": minimum}


def filled(values: np.ndarray, missing: str) -> np.ndarray:
    return np.where(np.isnan(values), MISSING[missing](values), values)


def weighted_sum(scores: np.ndarray, weights: Sequence[float], missing: str) -> np.ndarray:
    """sum_i w_i s_i(d), where run i lacks d with its ``missing`` value. CombSUM (Fox and Shaw 1993) is the case of weights 1."""
    return sum(w * filled(s, missing) for w, s in zip(weights, scores))


def combmnz(scores: np.ndarray, weights: Sequence[float], missing: str) -> np.ndarray:
    """The sum times the number of runs that have the passage (Fox and Shaw 1993)."""
    return weighted_sum(scores, weights, missing) * (~np.isnan(scores)).sum(0)


def combanz(scores: np.ndarray, weights: Sequence[float], missing: str) -> np.ndarray:
    """The sum divided by the number of runs that have the passage (Fox and Shaw 1993)."""
    return weighted_sum(scores, weights, missing) / np.maximum((~np.isnan(scores)).sum(0), 1)


def rrf(scores: np.ndarray, weights: Sequence[float], missing: str) -> np.ndarray:
    """sum_i w_i / (60 + rank_i(d)) (Cormack et al. 2009); a run that lacks d adds its ``missing`` value."""
    return weighted_sum(normalised(scores, "rrf"), weights, missing)


def isr(scores: np.ndarray, weights: Sequence[float], missing: str) -> np.ndarray:
    """Number of runs that have d times sum_i w_i / rank_i(d)^2 (Mourao et al. 2015)."""
    return combmnz(np.where(np.isnan(scores), np.nan, 1.0 / ranks(scores) ** 2), weights, missing)


def borda(scores: np.ndarray, weights: Sequence[float], _missing: str) -> np.ndarray:
    """Of n passages that any run has, the first gets n points, the next n - 1, ...; those that a run lacks share what is left of its
    points (Aslam and Montague 2001), whatever ``missing`` says."""
    n = (~np.isnan(scores).all(0)).sum(-1, keepdims=True)
    points = np.where(np.isnan(scores), (n - count(scores) + 1) / 2, n - ranks(scores) + 1)
    return weighted_sum(points, weights, "zero")


def geometric(scores: np.ndarray, weights: Sequence[float], missing: str) -> np.ndarray:
    """prod_i max(s_i, 1e-6)^(w_i / sum w): for normalised scores, which are not negative."""
    share = np.asarray(weights, float) / max(float(np.sum(weights)), 1e-300)
    return np.exp(
        sum(w * np.log(np.maximum(filled(s, missing), FLOOR)) for w, s in zip(share, scores))
    )


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
    normalise: str
    missing: str
    weights: dict[str, float] | None = None  # fixed ones; otherwise the configuration's
    alpha: bool = False  # the first run counts 1, the second a tuned alpha


PRESETS = {
    "minmax": Preset("minmax", "zero"),
    "zscore": Preset("zscore", "minimum"),
    "rrf": Preset("rrf", "zero"),
    "sparse-dense": Preset(
        "minmax", "minimum", alpha=True
    ),  # s_sparse + alpha s_dense (mHFN 2022, 4.2; Pyserini's HybridSearcher)
    "miracl-baseline": Preset(
        "none", "zero", {"bm25": 0.5, "dense": 0.5}
    ),  # the published hybrid (Pyserini's interpolation)
}


def shrunk(
    own: Mapping[str, float], overall: Mapping[str, float], count: int, strength: float
) -> dict[str, float]:
    """(n v + strength w) / (n + strength): weights v from n queries, drawn to the overall w as if those were ``strength`` queries."""
    return {
        name: (count * own[name] + strength * overall[name]) / (count + strength) for name in own
    }


def fuse(
    runs: Mapping[str, Run],
    weights: Mapping[str, float],
    normalise: str,
    missing: str,
    fusion: str = "weighted_sum",
) -> Run:
    """Normalised runs under one of FUSIONS; a query that some run lacks is fused from the others. Queries in first-seen order."""
    aligned = align(runs)
    return aligned.run(
        FUSIONS[fusion](
            normalised(aligned.scores, normalise), [weights[n] for n in aligned.names], missing
        )
    )
