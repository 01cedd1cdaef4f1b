"""Weights of the hybrid, chosen on dev."""
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from statistics import fmean

import numpy as np

from core.evaluate import ndcg, relevant
from core.fusion import align, normalised, weighted_sum
from core.records import Qrels, Run

STEP = 0.05


def grid(names: Sequence[str]) -> Iterator[dict[str, float]]:
    """All weights in steps of 0.05 (0.1 from three sources on) that add up to 1, each source above 0."""
    parts = round(1 / STEP) if len(names) < 3 else 10
    for counts in product(range(1, parts), repeat=len(names) - 1):
        if sum(counts) < parts:
            yield dict(zip(names, (c / parts for c in (*counts, parts - sum(counts)))))


def tune(runs: Mapping[str, Mapping[str, Run]], qrels: Mapping[str, Qrels], normalise: str, missing: str) -> tuple[dict[str, float], float]:
    """One global weight a source: the best mean nDCG@10 over the languages of ``qrels``; the first of equals (least weight on the
    first source). ``runs``: source -> language -> run. Returns the weights and their score."""
    names = list(runs)
    prepared = []
    for la, judged in qrels.items():
        aligned = align({n: runs[n][la] for n in names}, list(judged))
        prepared.append((normalised(aligned.scores, normalise), aligned.present, relevant(aligned, judged)))
    best: tuple[dict[str, float], float] = ({}, -1.0)
    for weights in grid(names) if len(names) > 1 else [{names[0]: 1.0}]:
        values = list(weights.values())
        found = fmean(ndcg(np.where(present, weighted_sum(scores, values, missing), np.nan), judged).mean() for scores, present, judged in prepared)
        if found > best[1] + 1e-12:
            best = (weights, float(found))
    return best
