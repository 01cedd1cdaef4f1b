"""Negatives that may be none, each kind with a reason.

Near-duplicates of a relevant passage, passages of its article, and those that a teacher puts above
it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import lru_cache

from core.folds import trigrams
from core.recipes import Filters
from core.records import Qrels, Run

REMEMBERED = 50_000  # passages whose trigrams are kept: they come again for other queries


def near_duplicate(own: Set[str], relevant: Iterable[Set[str]], share: float) -> bool:
    """Whether ``share`` of the trigrams are in common with a relevant passage's (Jaccard)."""
    return any(len(own & other) >= share * len(own | other) for other in relevant)


def same_article(docid: str, relevant: Sequence[str]) -> bool:
    """Whether a passage is of the article of a relevant one."""
    return docid.partition("#")[0] in {other.partition("#")[0] for other in relevant}


def above_teacher(docid: str, relevant: Sequence[str], scores: Mapping[str, float]) -> bool:
    """Whether a teacher scores it above a relevant passage that it scores, too."""
    of_relevant = [scores[other] for other in relevant if other in scores]
    return docid in scores and bool(of_relevant) and scores[docid] > min(of_relevant)


def keeper(
    s: Filters, qrels: Qrels, text: Callable[[str], str], teacher: Run, dropped: Counter
) -> Callable[[str, str], bool]:
    """A function that tells whether (query id, docid) may be a negative.

    It counts in ``dropped`` what it refuses, by the first reason. ``text``: of a docid.
    """

    @lru_cache(REMEMBERED)
    def grams(docid: str) -> set[str]:
        return trigrams(text(docid))

    def reason_against(qid: str, docid: str) -> str | None:
        relevant = [other for other, gain in qrels[qid].items() if gain > 0]
        if s.same_article and same_article(docid, relevant):
            return "same article"
        if s.teacher and above_teacher(docid, relevant, teacher.get(qid, {})):
            return "above the teacher's relevant"
        if s.near_duplicates is not None:
            of_relevant = (grams(other) for other in relevant)
            if near_duplicate(grams(docid), of_relevant, s.near_duplicates):
                return "near-duplicate"
        return None

    def keep(qid: str, docid: str) -> bool:
        reason = reason_against(qid, docid)
        if reason:
            dropped[reason] += 1
        return reason is None

    return keep
