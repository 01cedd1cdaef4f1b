"""The judged pairs of training queries."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core.records import Qrels, TrainingPair

if TYPE_CHECKING:
    from numpy.random import Generator

ORIGIN = "judged"


def judged(
    language: str, qrels: Qrels, keep: int | None, random: "Generator"
) -> Iterator[TrainingPair]:
    """Every relevant pair, and ``keep`` of a query's pairs judged 0, drawn at random.

    Any grade above 0 is label 1. All pairs judged 0 where ``keep`` is None.
    """
    for qid, gains in qrels.items():
        relevant = [docid for docid, gain in gains.items() if gain > 0]
        wrong = [docid for docid, gain in gains.items() if gain == 0]
        if keep is not None and keep < len(wrong):
            drawn = random.permutation(len(wrong))[:keep]
            wrong = [wrong[place] for place in sorted(drawn)]
        for docid in relevant + wrong:
            yield TrainingPair(
                language=language,
                qid=qid,
                docid=docid,
                label=float(gains[docid] > 0),
                origin=ORIGIN,
                round=0,
                teacher="",
                reason="judgment",
            )
