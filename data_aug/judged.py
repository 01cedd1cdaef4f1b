"""The judged pairs of training queries."""

from collections.abc import Iterator

from core.records import Qrels, TrainingPair

ORIGIN = "judged"


def judged(language: str, qrels: Qrels, keep: int | None, random) -> Iterator[TrainingPair]:
    """Every relevant pair (any grade above 0 is label 1), and ``keep`` of a query's pairs judged 0, drawn at random; all without it."""
    for qid, relevance in qrels.items():
        wrong = [d for d, r in relevance.items() if r == 0]
        if keep is not None and keep < len(wrong):
            chosen = random.permutation(len(wrong))[:keep]
            wrong = [wrong[i] for i in sorted(chosen)]
        for docid in [d for d, r in relevance.items() if r > 0] + wrong:
            yield TrainingPair(
                language, qid, docid, float(relevance[docid] > 0), ORIGIN, 0, "", "judgment"
            )
