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
    for other in relevant:
        if len(own & other) >= share * len(own | other):
            return True
    return False


def same_article(docid: str, relevant: Sequence[str]) -> bool:
    """Whether a passage is of the article of a relevant one."""
    return article_of(docid) in map(article_of, relevant)


def article_of(docid: str) -> str:
    """A passage's id is its article's, then # and its number there."""
    article, _, _ = docid.partition("#")
    return article


def above_teacher(docid: str, relevant: Sequence[str], scores: Mapping[str, float]) -> bool:
    """Whether a teacher scores it above a relevant passage that it scores, too."""
    of_relevant = [scores[other] for other in relevant if other in scores]
    if docid not in scores or not of_relevant:
        return False
    return scores[docid] > min(of_relevant)


def keeper(
    settings: Filters, qrels: Qrels, text: Callable[[str], str], teacher: Run, dropped: Counter
) -> Callable[[str, str], bool]:
    """A function that tells whether (query id, docid) may be a negative.

    It counts in ``dropped`` what it refuses, by the first reason. ``text``: of a docid.
    """

    @lru_cache(REMEMBERED)
    def grams(docid: str) -> set[str]:
        return trigrams(text(docid))

    def reason_against(qid: str, docid: str) -> str | None:
        relevant = [other for other, gain in qrels[qid].items() if gain > 0]
        if settings.same_article and same_article(docid, relevant):
            return "same article"
        if settings.teacher and above_teacher(docid, relevant, teacher.get(qid, {})):
            return "above the teacher's relevant"
        share = settings.near_duplicates
        if share is not None and near_duplicate(grams(docid), map(grams, relevant), share):
            return "near-duplicate"
        return None

    def keep(qid: str, docid: str) -> bool:
        reason = reason_against(qid, docid)
        if reason:
            dropped[reason] += 1
        return reason is None

    return keep
