"""What the first stage lets through: recall by depth, what the hybrid loses that a source had, and the queries that nobody answers.

What is not among the candidates is lost to every later stage (the paper's Table 2 is R@200 of the hybrid).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from core.evaluate import evaluate, means
from core.records import Qrels, Run
from core.runs import top_k

DEPTHS = (10, 50, 100, 200, 1000)
METRICS = ("nDCG@10", *(f"R@{k}" for k in DEPTHS))


@dataclass(frozen=True)
class Ceiling:
    """One language and split. ``figures``: system -> metric -> mean; ``relevant``: how many passages are; ``lost``: source -> how many
    of them it has among its candidates and the hybrid has not; ``unfound``: queries none of whose relevant passages any source stored."""

    figures: dict[str, dict[str, float]]
    relevant: int
    lost: dict[str, int]
    unfound: list[str]


def ceiling(runs: Mapping[str, Run], qrels: Qrels, candidates: int) -> Ceiling:
    """``runs``: the sources and ``hybrid``, each of full depth."""
    positives = {q: {d for d, gain in judged.items() if gain > 0} for q, judged in qrels.items()}
    found = {
        name: {
            (q, d)
            for q, wanted in positives.items()
            for d in top_k(run.get(q, {}), candidates)
            if d in wanted
        }
        for name, run in runs.items()
    }
    unfound = [
        q
        for q, wanted in positives.items()
        if wanted and not any(d in run.get(q, {}) for run in runs.values() for d in wanted)
    ]
    return Ceiling(
        {name: means(evaluate(run, qrels, METRICS)) for name, run in runs.items()},
        sum(map(len, positives.values())),
        {name: len(pairs - found["hybrid"]) for name, pairs in found.items() if name != "hybrid"},
        unfound,
    )
