"""Weights of the hybrid, chosen on dev."""
from collections.abc import Iterator, Mapping, Sequence
from heapq import nlargest
from itertools import product
from statistics import fmean

from core.evaluate import score
from core.fusion import normalised, weighted_sum
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
    if len(names) == 1:
        return {names[0]: 1.0}, fmean(score(runs[names[0]][la], qrels[la]) for la in qrels)
    prepared = {la: {q: [normalised(runs[n][la].get(q, {}), normalise) for n in names] for q in judged} for la, judged in qrels.items()}
    best: tuple[dict[str, float], float] = ({}, -1.0)
    for weights in grid(names):
        values = list(weights.values())
        found = fmean(score({q: top10(weighted_sum(parts, values, missing)) for q, parts in prepared[la].items()}, qrels[la]) for la in qrels)
        if found > best[1] + 1e-12:
            best = (weights, found)
    return best


def top10(scores: Mapping[str, float]) -> dict[str, float]:
    """The ten best in the one order: enough for nDCG@10."""
    return {d: s for s, d in nlargest(10, ((s, d) for d, s in scores.items()))}
