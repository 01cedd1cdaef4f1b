"""Candidates that a judge has read (data-utilization-2025, 3.3)."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from core.console import say
from retrieval.judges import Question, reason_against

if TYPE_CHECKING:
    from retrieval.encoders.negatives.mining import Mining
    from retrieval.encoders.negatives.pools import Candidate, Pool, Pools

AT_ONCE = 256  # queries whose candidates are judged together


def judge(mining: "Mining", language: str, before: "Pools") -> Iterator["Pool"]:
    """A link of the chain: drops what the judge does not find irrelevant.

    ``judged 1`` and ``judged 2`` are the reasons, and ``not judged`` where there is no verdict.
    What earlier links dropped is not read.
    """
    for pools in in_blocks(mining, language, before):
        yield from judged(mining, language, pools)
    if text := mining.judge.described():
        say(f"  {mining.name}: judge, up to {language}: {text}")


def in_blocks(mining: "Mining", language: str, before: "Pools") -> Iterator[list["Pool"]]:
    """The queries with their candidates, AT_ONCE together."""
    queries = iter(mining.relevant(language))
    while qids := list(islice(queries, AT_ONCE)):
        yield [(qid, before.of(qid)) for qid in qids]


def judged(mining: "Mining", language: str, pools: Sequence["Pool"]) -> Iterator["Pool"]:
    """Queries with their candidates, those that the judge refuses dropped."""
    questions = questions_of(mining, language, pools)
    grades = mining.judge.grades(list(questions.values()))
    grade_of = dict(zip(questions, grades, strict=True))
    for qid, candidates in pools:
        kept = []
        for place, candidate in enumerate(candidates):
            reason = candidate.dropped
            if not reason:
                reason = reason_against(mining.settings.judge, grade_of.get((qid, place)))
            kept.append(candidate._replace(dropped=reason))
        yield qid, kept


def questions_of(
    mining: "Mining", language: str, pools: Sequence["Pool"]
) -> Mapping[tuple[str, int], Question]:
    """(query id, place in its pool) -> what the judge is asked, of candidates not dropped.

    A query whose relevant passages are all missing from the collection, where that is allowed, is
    no example, and nothing is asked.
    """
    queries = mining.queries(language)
    questions = {}
    for qid, candidates in pools:
        docid = mining.reference(language, qid)
        if docid is None:
            continue
        reference = mining.passages(language).text(docid)
        for place, candidate in enumerate(candidates):
            if not candidate.dropped:
                text = text_of(mining, language, candidate)
                questions[qid, place] = Question(queries[qid], reference, text)
    return questions


def text_of(mining: "Mining", language: str, candidate: "Candidate") -> str:
    """Title and text of a candidate, which may be of another language than its query."""
    passages = mining.passages(candidate.passage_language or language)
    return passages.text(candidate.docid)
