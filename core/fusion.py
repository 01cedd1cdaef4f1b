"""Runs to one run: NORMALISERS and FUSIONS as tables of pure functions, and named presets with explicit choices."""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.records import Run

Scores = Mapping[str, float]


def none(values: np.ndarray) -> np.ndarray:
    return values


def minmax(values: np.ndarray) -> np.ndarray:
    """(s - min) / (max - min) over a query's scores; all 1 where they are equal."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.ones_like(values)


def zscore(values: np.ndarray) -> np.ndarray:
    """(s - mean) / standard deviation; all 0 where they are equal."""
    deviation = values.std()
    return (values - values.mean()) / deviation if deviation > 0 else np.zeros_like(values)


def reciprocal_rank(values: np.ndarray) -> np.ndarray:
    """1 / (60 + rank) (Cormack et al. 2009); the values come in rank order."""
    return 1.0 / (60.0 + np.arange(1, len(values) + 1))


NORMALISERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"none": none, "minmax": minmax, "zscore": zscore, "rrf": reciprocal_rank}


def absent_zero(values: np.ndarray) -> float:
    return 0.0


def absent_minimum(values: np.ndarray) -> float:
    return float(values.min()) if len(values) else 0.0


MISSING: dict[str, Callable[[np.ndarray], float]] = {"zero": absent_zero, "minimum": absent_minimum}


@dataclass(frozen=True)
class Preset:
    normalise: str
    missing: str
    weights: dict[str, float] | None = None     # fixed ones; otherwise the configuration's


PRESETS = {
    "minmax": Preset("minmax", "zero"),
    "zscore": Preset("zscore", "minimum"),
    "rrf": Preset("rrf", "zero"),
    "miracl-baseline": Preset("none", "zero", {"bm25": 0.5, "dense": 0.5}),   # the published hybrid (Pyserini's interpolation)
}


def normalised(scores: Scores, normalise: str) -> dict[str, float]:
    """A query's scores under a normaliser; order of equal scores as everywhere (it matters to ``rrf`` alone)."""
    if not scores:
        return {}
    order = sorted(scores, key=lambda d: (scores[d], d), reverse=True)
    values = NORMALISERS[normalise](np.array([scores[d] for d in order], float))
    return dict(zip(order, values.tolist()))


def weighted_sum(parts: Sequence[Scores], weights: Sequence[float], missing: str = "zero") -> dict[str, float]:
    """sum_i w_i s_i(d) over the union of passages; where run i lacks d, its ``missing`` value stands in."""
    absent = [w * MISSING[missing](np.array(list(p.values()))) for p, w in zip(parts, weights)]
    fused = dict.fromkeys((d for part in parts for d in part), sum(absent))
    for part, weight, instead in zip(parts, weights, absent):
        for docid, value in part.items():
            fused[docid] += weight * value - instead
    return fused


FUSIONS = {"weighted_sum": weighted_sum}


def fuse(runs: Mapping[str, Run], weights: Mapping[str, float], normalise: str, missing: str) -> Run:
    """Weighted sum of normalised runs; a query that some run lacks is fused from the others. Queries in first-seen order."""
    names = list(runs)
    queries = dict.fromkeys(qid for run in runs.values() for qid in run)
    return {qid: weighted_sum([normalised(runs[n].get(qid, {}), normalise) for n in names], [weights[n] for n in names], missing)
            for qid in queries}
