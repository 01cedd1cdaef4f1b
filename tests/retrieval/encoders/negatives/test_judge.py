"""Candidates that a judge has read."""

from types import SimpleNamespace

import pytest

from core.encoders import Encoder
from core.errors import InputError
from retrieval.encoders.negatives.pools import Candidate
from retrieval.judges import Question

TEXTS = {"en": {"r": "right", "a": "two", "b": "one", "c": "none", "d": "two", "e": "silent"},
         "sw": {"a": "moja"}}  # fmt: skip
VERDICTS = {"two": 2, "one": 1, "none": 0, "moja": 1, "silent": None}


class Toy:
    """Grades by the text; it notes what it is asked."""

    def __init__(self):
        self.asked = []

    def grades(self, questions):
        self.asked.append(list(questions))
        return [VERDICTS[question.candidate] for question in questions]

    def described(self):
        return "3 requests"


def mining(judge, **settings):
    return SimpleNamespace(
        name="mine",
        settings=Encoder(judge=settings),
        judge=judge,
        relevant=lambda language: {"1": {"r"}, "2": {"r"}, "3": {"gone"}},
        reference=lambda language, qid: None if qid == "3" else "r",
        queries=lambda language: {"1": "first?", "2": "second?", "3": "third?"},
        passages=lambda language: SimpleNamespace(text=TEXTS[language].__getitem__),
    )


POOLS = {
    "1": [
        Candidate("a", 1, 5.0, "bm25"),
        Candidate("r", 2, 4.0, "bm25", "relevant"),
        Candidate("b", 3, 3.0, "bm25"),
        Candidate("c", 4, 2.0, "bm25"),
        Candidate("a", 5, 1.0, "other", "", "sw"),
    ],
    "2": [Candidate("c", 1, 9.0, "bm25"), Candidate("d", 2, 8.0, "bm25", "rank")],
    "3": [Candidate("a", 1, 9.0, "bm25")],
}


def run(own):
    from retrieval.encoders.negatives import NEGATIVES

    pools = NEGATIVES["judge"](own, "en", SimpleNamespace(of=POOLS.get))
    return {qid: [(c.docid, c.dropped) for c in found] for qid, found in pools}


def test_only_the_irrelevant_stay(capsys):
    judge = Toy()
    assert run(mining(judge)) == {
        "1": [
            ("a", "judged 2"),
            ("r", "relevant"),
            ("b", "judged 1"),
            ("c", ""),
            ("a", "judged 1"),
        ],
        "2": [("c", ""), ("d", "rank")],
        "3": [("a", "not judged")],  # no relevant passage is there: no example
    }
    (asked,) = judge.asked
    assert asked == [
        Question("first?", "right", "two"),
        Question("first?", "right", "one"),
        Question("first?", "right", "none"),
        Question("first?", "right", "moja"),
        Question("second?", "right", "none"),
    ], "what is dropped already is not read"
    assert "mine: judge, up to en: 3 requests" in capsys.readouterr().out


def test_partially_relevant_ones_may_stay():
    found = run(mining(Toy(), stays=1))
    assert [reason for _, reason in found["1"]] == ["judged 2", "relevant", "", "", ""]


def test_queries_are_judged_in_blocks(monkeypatch):
    import sys

    monkeypatch.setattr(sys.modules["retrieval.encoders.negatives.judge"], "AT_ONCE", 1)
    judge = Toy()
    run(mining(judge))
    assert [len(asked) for asked in judge.asked] == [4, 1, 0]


def test_an_outage_is_no_verdict():
    class Dead(Toy):
        def grades(self, questions):
            raise InputError("endpoint http://x/v1: no answer in 6 tries")

    with pytest.raises(InputError, match="no answer in 6 tries"):
        run(mining(Dead()))
