"""Negatives that may be none: near-duplicates of a relevant passage, passages of its article, those that a teacher puts above it."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import lru_cache

from core.folds import trigrams
from core.recipes import Filters
from core.records import Qrels, Run

REMEMBERED = 50_000  # passages whose trigrams are kept


def near_duplicate(own: Set[str], relevant: Iterable[Set[str]], share: float) -> bool:
    """Whether at least ``share`` of the trigrams are in common with a relevant passage's (Jaccard)."""
    return any(len(own & other) >= share * len(own | other) for other in relevant)


def same_article(docid: str, relevant: Sequence[str]) -> bool:
    return docid.partition("#")[0] in {d.partition("#")[0] for d in relevant}


def above_teacher(docid: str, relevant: Sequence[str], scores: Mapping[str, float]) -> bool:
    """Whether a teacher scores it above a relevant passage that it scores, too."""
    known = [scores[d] for d in relevant if d in scores]
    return docid in scores and bool(known) and scores[docid] > min(known)


def keeper(
    s: Filters, qrels: Qrels, text: Callable[[str], str], teacher: Run, dropped: Counter
) -> Callable[[str, str], bool]:
    """A function that tells whether (query id, docid) may be a negative, and counts in ``dropped`` what it refuses, by the first reason."""
    grams = lru_cache(REMEMBERED)(
        lambda docid: trigrams(text(docid))
    )  # passages come again for other queries

    def keep(qid: str, docid: str) -> bool:
        relevant = [d for d, gain in qrels[qid].items() if gain > 0]
        if s.same_article and same_article(docid, relevant):
            reason = "same article"
        elif s.teacher and above_teacher(docid, relevant, teacher.get(qid, {})):
            reason = "above the teacher's relevant"
        elif s.near_duplicates is not None and near_duplicate(
            grams(docid), map(grams, relevant), s.near_duplicates
        ):
            reason = "near-duplicate"
        else:
            return True
        dropped[reason] += 1
        return False

    return keep
