"""Negatives that may be none, each kind with a reason.

Near-duplicates of a relevant passage, passages of its article, those that a teacher puts above it,
and those that a judge does not find irrelevant: the judge of ``retrieval.judges``, the same that
reads the negatives of encoders.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from core.folds import trigrams
from core.recipes import Filters
from core.records import Qrels, Run
from retrieval.judges import UNKNOWN, Grades, Question, reason_against

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


Keep = Callable[[str, Sequence[str]], list[str]]
"""(query id, passages) -> those of them that may be its negatives, in their order."""


def keep_all(qid: str, docids: Sequence[str]) -> list[str]:
    """No filter at all."""
    return list(docids)


def first_kept(qid: str, docids: Iterable[str], number: int, keep: Keep) -> list[str]:
    """The first ``number`` of a query's passages that ``keep`` lets pass; no more are asked for."""
    waiting = iter(docids)
    kept: list[str] = []
    while asked := list(islice(waiting, number - len(kept))):
        kept += keep(qid, asked)
    return kept


@dataclass
class Reader:
    """A judge with what it is shown: the texts of queries, and of a relevant passage of each."""

    judge: Grades
    queries: Mapping[str, str]
    reference: Callable[[str], str | None]  # of a query id; None: its relevant ones are not there


class Keeper:
    """The filters of a recipe for one language's queries; called as ``Keep``.

    Counts in ``dropped`` what it refuses, by the first reason. ``text``: of a docid. The judge
    comes last, as it costs most, and reads a query's passages together.
    """

    def __init__(
        self,
        settings: Filters,
        qrels: Qrels,
        text: Callable[[str], str],
        teacher: Run,
        dropped: Counter,
        reader: Reader | None = None,
    ):
        self.settings = settings
        self.qrels = qrels
        self.text = text
        self.teacher = teacher
        self.dropped = dropped
        self.reader = reader
        self.grams = lru_cache(REMEMBERED)(lambda docid: trigrams(text(docid)))

    def __call__(self, qid: str, docids: Sequence[str]) -> list[str]:
        """See ``Keep``."""
        left = self.passed(docids, [self.by_rules(qid, docid) for docid in docids])
        return self.passed(left, self.by_judge(qid, left))

    def by_rules(self, qid: str, docid: str) -> str:
        """Why a passage may be no negative, without reading it; empty where it may."""
        settings = self.settings
        relevant = [other for other, gain in self.qrels[qid].items() if gain > 0]
        if settings.same_article and same_article(docid, relevant):
            return "same article"
        if settings.teacher and above_teacher(docid, relevant, self.teacher.get(qid, {})):
            return "above the teacher's relevant"
        share = settings.near_duplicates
        if share is not None:
            of_relevant = map(self.grams, relevant)
            if near_duplicate(self.grams(docid), of_relevant, share):
                return "near-duplicate"
        return ""

    def by_judge(self, qid: str, docids: Sequence[str]) -> list[str]:
        """The same of each passage, by who reads them."""
        if self.reader is None or self.settings.judge is None:
            return [""] * len(docids)
        reference = self.reader.reference(qid)
        if reference is None:
            return [UNKNOWN] * len(docids)
        query = self.reader.queries[qid]
        questions = [Question(query, reference, self.text(docid)) for docid in docids]
        grades = self.reader.judge.grades(questions)
        return [reason_against(self.settings.judge, grade) for grade in grades]

    def passed(self, docids: Sequence[str], reasons: Sequence[str]) -> list[str]:
        """Those without a reason against them; the others are counted."""
        kept = []
        for docid, reason in zip(docids, reasons, strict=True):
            if reason:
                self.dropped[reason] += 1
            else:
                kept.append(docid)
        return kept
