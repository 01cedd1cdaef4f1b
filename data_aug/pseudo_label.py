"""Pseudo-labels: a trained system's scores on candidates of unlabelled queries (paper, 4.4.2)."""

from collections.abc import Callable, Iterator, Sequence
from math import exp

from core.recipes import PseudoLabel
from core.records import Run, TrainingPair
from core.runs import ranked

ORIGIN = "pseudo_label"


def sigmoid(scores: Sequence[float]) -> list[float]:
    return [1 / (1 + exp(-max(-60.0, min(60.0, s)))) for s in scores]


def minmax(scores: Sequence[float]) -> list[float]:
    low, high = min(scores), max(scores)
    return [(s - low) / (high - low) if high > low else 0.5 for s in scores]


CALIBRATIONS: dict[str, Callable[[Sequence[float]], list[float]]] = {
    "sigmoid": sigmoid,
    "minmax": minmax,
    "none": list,
}


def pseudo_label(
    language: str, run: Run, s: PseudoLabel, round_: int, random
) -> Iterator[TrainingPair]:
    """Label = alpha × the calibrated score (soft), or alpha where that is at least ``threshold`` and 0 elsewhere (hard), for a random
    ``share`` of the ``depth`` best passages of each query, and at most ``number`` of them. A label outside [0, 1] is refused when the
    groups are written."""
    for qid, scores in run.items():
        best = ranked(scores)[: s.depth]
        values = CALIBRATIONS[s.calibrate]([score for _, score in best]) if best else []
        chances = random.uniform(size=len(best))
        taken = {i for i in chances.argsort()[: s.number] if chances[i] < s.share}
        for i, ((docid, score), value) in enumerate(zip(best, values)):
            if i in taken:
                label = s.alpha * (value if s.labels == "soft" else float(value >= s.threshold))
                yield TrainingPair(
                    language,
                    qid,
                    docid,
                    label,
                    ORIGIN,
                    round_,
                    s.teacher,
                    f"rank {i + 1}, score {score:.4f}",
                )
