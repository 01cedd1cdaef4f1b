"""Negatives from the whole corpus: the paper's weaker variant (4.3 and 5)."""

from collections.abc import Callable, Collection, Iterator, Mapping

from core.passages import Passages
from core.records import Qrels, TrainingPair

ORIGIN = "corpus_negatives"


def corpus_negatives(
    language: str,
    passages: Passages,
    qrels: Qrels,
    taken: Mapping[str, Collection[str]],
    k: int,
    random,
    keep: Callable[[str, str], bool] = lambda qid, docid: True,
) -> Iterator[TrainingPair]:
    """``k`` passages a judged query, each once, neither judged relevant nor ``taken``; fewer where the corpus has no more."""
    for qid, relevance in qrels.items():
        out = {d for d, r in relevance.items() if r > 0} | set(taken.get(qid, ()))
        left = k
        for row in distinct(len(passages), random):
            if not left:
                break
            docid = passages.docid(row)
            if docid not in out and keep(qid, docid):
                left -= 1
                yield TrainingPair(language, qid, docid, 0.0, ORIGIN, 0, "", "random")


def distinct(count: int, random) -> Iterator[int]:
    """All of range(count) in a random order, without laying it out for a large count."""
    seen: set[int] = set()
    while len(seen) < count // 2:
        row = int(random.integers(count))
        if row not in seen:
            seen.add(row)
            yield row
    rest = [row for row in range(count) if row not in seen] if len(seen) < count else []
    yield from (rest[i] for i in random.permutation(len(rest)))
