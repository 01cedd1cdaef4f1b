"""Weights of the hybrid, chosen on dev."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from statistics import fmean

import numpy as np

from core.errors import InputError
from core.evaluate import ndcg, relevant
from core.fusion import Preset, align, normalised, shrunk, weighted_sum
from core.records import Qrels, Run

STEP = 0.05
ALPHAS = tuple(round(0.1 * i, 1) for i in range(1, 31))


def alphas(names: Sequence[str]) -> Iterator[dict[str, float]]:
    """1 for the first source, alpha from 0.1 to 3 for the second."""
    if len(names) != 2:
        raise InputError(
            f"retrieval.hybrid.preset=sparse-dense fuses two sources, found {', '.join(names)}; choose another preset"
        )
    return ({names[0]: 1.0, names[1]: alpha} for alpha in ALPHAS)


def grid(names: Sequence[str]) -> Iterator[dict[str, float]]:
    """All weights in steps of 0.05 (0.1 from three sources on) that add up to 1, each source above 0."""
    parts = round(1 / STEP) if len(names) < 3 else 10
    for counts in product(range(1, parts), repeat=len(names) - 1):
        if sum(counts) < parts:
            yield dict(zip(names, (c / parts for c in (*counts, parts - sum(counts)))))


def tune(
    runs: Mapping[str, Mapping[str, Run]], qrels: Mapping[str, Qrels], preset: Preset
) -> tuple[dict[str, float], float]:
    """One global weight a source: the best mean nDCG@10 over the languages of ``qrels``; the first of equals (least weight on the
    first source). ``runs``: source -> language -> run. Returns the weights and their score."""
    names = list(runs)
    prepared = []
    for la, judged in qrels.items():
        aligned = align({n: runs[n][la] for n in names}, list(judged))
        prepared.append(
            (
                normalised(aligned.scores, preset.normalise),
                aligned.present,
                relevant(aligned, judged),
            )
        )
    best: tuple[dict[str, float], float] = ({}, -1.0)
    for weights in (
        alphas(names) if preset.alpha else grid(names) if len(names) > 1 else [{names[0]: 1.0}]
    ):
        values = list(weights.values())
        found = fmean(
            ndcg(
                np.where(present, weighted_sum(scores, values, preset.missing), np.nan), judged
            ).mean()
            for scores, present, judged in prepared
        )
        if found > best[1] + 1e-12:
            best = (weights, float(found))
    return best


def tune_languages(
    runs: Mapping[str, Mapping[str, Run]],
    qrels: Mapping[str, Qrels],
    preset: Preset,
    overall: Mapping[str, float],
    strength: float,
) -> dict[str, dict[str, float]]:
    """Each language's own choice, shrunk to the global weights."""
    return {
        la: shrunk(tune(runs, {la: judged}, preset)[0], overall, len(judged), strength)
        for la, judged in qrels.items()
    }
