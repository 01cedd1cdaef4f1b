"""Weights of an ensemble's members, from their dev runs."""
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from core.evaluate import score
from core.fusion import normalised
from core.records import Qrels, Run

Runs = Mapping[str, Mapping[str, Run]]      # system -> language -> run


def correlations(runs: Runs, normalise: str) -> dict[str, dict[str, float]]:
    """Mean over queries of the Pearson correlation of two members' normalised scores, on the passages that both scored. A query
    with fewer than three such passages, or with constant scores, says nothing and is left out; no query left: 0."""
    names = list(runs)
    table = {a: {b: 1.0 for b in names} for a in names}
    for i, a in enumerate(names):
        for b in names[i + 1:]:
            found = [r for la in runs[a] for qid, scores in runs[a][la].items()
                     if (r := query_correlation(scores, runs[b][la].get(qid, {}), normalise)) is not None]
            table[a][b] = table[b][a] = fmean(found) if found else 0.0
    return table


def query_correlation(a: Mapping[str, float], b: Mapping[str, float], normalise: str) -> float | None:
    a, b = normalised(a, normalise), normalised(b, normalise)
    shared = sorted(a.keys() & b.keys())
    if len(shared) < 3:
        return None
    x, y = (np.array([run[d] for d in shared]) for run in (a, b))
    return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else None


def paper(scores: Mapping[str, float], table: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The paper's rule (4.5): weights follow the scores, lowered for members whose predictions correlate with the others'.

        w_i = (s_i - min_j s_j) (1 - max(0, mean_{j != i} r_ij)),  scaled to sum 1

    s: dev nDCG@10; r: mean per-query correlation. The worst member has weight 0; members of equal scores get equal s-parts.
    """
    low = min(scores.values())
    names = list(scores)
    spread = max(scores.values()) - low
    raw = {n: (scores[n] - low if spread > 0 else 1.0) * (1 - max(0.0, fmean([table[n][m] for m in names if m != n] or [0.0]))) for n in names}
    total = sum(raw.values())
    return {n: value / total for n, value in raw.items()} if total > 0 else uniform(scores)


def uniform(scores: Mapping[str, float], _table=None) -> dict[str, float]:
    return {n: 1 / len(scores) for n in scores}


RULES = {"paper": paper, "uniform": uniform}


def dev_scores(runs: Runs, qrels: Mapping[str, Qrels]) -> dict[str, float]:
    """nDCG@10 a member, mean over languages."""
    return {name: fmean(score(run, qrels[la]) for la, run in by_language.items()) for name, by_language in runs.items()}


def matrix_rows(table: Mapping[str, Mapping[str, float]]) -> Sequence[Sequence[str]]:
    return [["", *table], *([a, *(f"{r:.3f}" for r in row.values())] for a, row in table.items())]
