"""The hybrid: its weights, chosen on dev, and its runs, fused a query at a time."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from statistics import fmean

import numpy as np

from core.errors import InputError
from core.evaluate import ndcg, relevant
from core.fusion import Preset, align, fuse, normalised, shrunk, weighted_sum
from core.records import Qrels, Ranking, Run
from core.runs import top_k

STEP = 0.05
ALPHAS = tuple(round(0.1 * tenths, 1) for tenths in range(1, 31))

RunsOfSources = Mapping[str, Mapping[str, Run]]
"""Source -> language -> run."""


def alphas(names: Sequence[str]) -> Iterator[dict[str, float]]:
    """1 for the first source, alpha from 0.1 to 3 for the second."""
    if len(names) != 2:
        raise InputError(
            "retrieval.hybrid.preset=sparse-dense fuses two sources, "
            f"found {', '.join(names)}; choose another preset"
        )
    first, second = names
    return ({first: 1.0, second: alpha} for alpha in ALPHAS)


def grid(names: Sequence[str]) -> Iterator[dict[str, float]]:
    """All weights that add up to 1, each source above 0.

    In steps of 0.05, from three sources on of 0.1.
    """
    parts = round(1 / STEP) if len(names) < 3 else 10
    for counts in product(range(1, parts), repeat=len(names) - 1):
        left_for_last = parts - sum(counts)
        if left_for_last > 0:
            shares = [count / parts for count in (*counts, left_for_last)]
            yield dict(zip(names, shares, strict=True))


def choices(names: Sequence[str], preset: Preset) -> Iterator[dict[str, float]]:
    """The weights that are tried, the one that stands among equals first."""
    if preset.alpha:
        return alphas(names)
    if len(names) == 1:
        return iter([{names[0]: 1.0}])
    return grid(names)


def tune(
    runs: RunsOfSources, qrels: Mapping[str, Qrels], preset: Preset
) -> tuple[dict[str, float], float]:
    """One global weight a source: the best mean nDCG@10 over the languages of ``qrels``.

    The first of equals, which is least weight on the first source. Returns the weights and their
    score.
    """
    prepared = []
    for language, judged in qrels.items():
        own_runs = {name: by_language[language] for name, by_language in runs.items()}
        aligned = align(own_runs, list(judged))
        scores = normalised(aligned.scores, preset.normalise)
        prepared.append((scores, aligned.present, relevant(aligned, judged)))

    best: dict[str, float] = {}
    best_mean = -1.0
    for weights in choices(list(runs), preset):
        means = []
        for scores, present, judged_passages in prepared:
            fused = weighted_sum(scores, list(weights.values()), preset.missing)
            without_padding = np.where(present, fused, np.nan)
            means.append(ndcg(without_padding, judged_passages).mean())
        mean = float(fmean(means))
        if mean > best_mean + 1e-12:
            best, best_mean = weights, mean
    return best, best_mean


def tune_languages(
    runs: RunsOfSources,
    qrels: Mapping[str, Qrels],
    preset: Preset,
    overall: Mapping[str, float],
    strength: float,
) -> dict[str, dict[str, float]]:
    """Each language's own choice, shrunk to the global weights."""
    by_language = {}
    for language, judged in qrels.items():
        own, _ = tune(runs, {language: judged}, preset)
        by_language[language] = shrunk(own, overall, len(judged), strength)
    return by_language


def fused(
    runs: Mapping[str, Mapping[str, Mapping[str, float]]],
    weights: Mapping[str, float],
    preset: Preset,
    depth: int,
) -> Iterator[Ranking]:
    """(query id, the ``depth`` best) of runs by source, queries in first-seen order.

    A query that some source does not answer is fused from the others. Normalisation is by query,
    so each is read and fused alone, and 100,000 of them take no more memory than one.
    """
    qids: dict[str, None] = {}
    for run in runs.values():
        qids |= dict.fromkeys(run)
    for qid in qids:
        of_query: dict[str, Run] = {}
        for source, run in runs.items():
            of_query[source] = {qid: dict(run[qid])} if qid in run else {}
        scores = fuse(of_query, weights, preset.normalise, preset.missing)[qid]
        yield qid, top_k(scores, depth)
