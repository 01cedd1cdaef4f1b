"""Negatives from the whole corpus: the paper's weaker variant (4.3 and 5)."""

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from core.passages import Passages
from core.records import Qrels, TrainingPair
from data_aug.filters import Keep, first_kept, keep_all

if TYPE_CHECKING:
    from numpy.random import Generator

ORIGIN = "corpus_negatives"


def corpus_negatives(
    language: str,
    passages: Passages,
    qrels: Qrels,
    taken: Mapping[str, Collection[str]],
    k: int,
    random: "Generator",
    keep: Keep = keep_all,
) -> Iterator[TrainingPair]:
    """``k`` passages a judged query, each once, neither judged relevant nor ``taken``.

    Fewer where the corpus has no more. ``keep`` is asked before a passage is taken.
    """
    for qid, gains in qrels.items():
        excluded = {docid for docid, gain in gains.items() if gain > 0}
        excluded |= set(taken.get(qid, ()))
        drawn = map(passages.docid, distinct(len(passages), random))
        others = (docid for docid in drawn if docid not in excluded)
        for docid in first_kept(qid, others, k, keep):
            yield TrainingPair(
                language=language,
                qid=qid,
                docid=docid,
                label=0.0,
                origin=ORIGIN,
                round=0,
                teacher="",
                reason="random",
            )


def distinct(count: int, random: "Generator") -> Iterator[int]:
    """All of range(count) in a random order, without laying it out for a large count."""
    # Up to a half, a number that was drawn comes again rarely; then the rest is laid out
    seen: set[int] = set()
    while len(seen) < count // 2:
        row = int(random.integers(count))
        if row not in seen:
            seen.add(row)
            yield row
    rest = [row for row in range(count) if row not in seen]
    for i in random.permutation(len(rest)):
        yield rest[i]
