"""Pseudo-labels: a trained system's scores on candidates of unlabelled queries (paper, 4.4.2)."""

from collections.abc import Callable, Iterator, Sequence
from math import exp

import numpy as np

from core.recipes import PseudoLabel
from core.records import Run, TrainingPair
from core.runs import ranked

ORIGIN = "pseudo_label"


def sigmoid(scores: Sequence[float]) -> list[float]:
    """Of logits; beyond ±60 they count as that."""
    return [1 / (1 + exp(-score)) for score in np.clip(scores, -60.0, 60.0).tolist()]


def minmax(scores: Sequence[float]) -> list[float]:
    """From 0 for a query's lowest to 1 for its highest; 0.5 where they are equal."""
    low = min(scores)
    high = max(scores)
    if high == low:
        return [0.5 for _ in scores]
    return [(score - low) / (high - low) for score in scores]


CALIBRATIONS: dict[str, Callable[[Sequence[float]], list[float]]] = {
    "sigmoid": sigmoid,
    "minmax": minmax,
    "none": list,
}


def pseudo_label(
    language: str, run: Run, settings: PseudoLabel, round_: int, random: np.random.Generator
) -> Iterator[TrainingPair]:
    """A random ``share`` of each query's ``depth`` best passages, at most ``number`` of them.

    ``run`` holds what the teacher scored and nothing else. Soft labels are alpha * the calibrated
    score; hard ones alpha where that is at least ``threshold``, and 0 elsewhere. A label outside
    [0, 1] is refused when the groups are written.
    """
    for qid, scores in run.items():
        best = ranked(scores)[: settings.depth]
        if not best:
            continue
        values = CALIBRATIONS[settings.calibrate]([score for _, score in best])
        # One number a passage decides both: below ``share``, and among the ``number`` lowest
        chances = random.uniform(size=len(best))
        lowest = chances.argsort()[: settings.number]
        taken = lowest[chances[lowest] < settings.share]
        for place in sorted(taken.tolist()):
            docid, score = best[place]
            value = values[place]
            if settings.labels == "hard":
                value = float(value >= settings.threshold)
            yield TrainingPair(
                language=language,
                qid=qid,
                docid=docid,
                label=settings.alpha * value,
                origin=ORIGIN,
                round=round_,
                teacher=settings.teacher,
                reason=f"rank {place + 1}, score {score:.4f}",
            )
