"""Queries with too few negatives get further ones."""

from types import SimpleNamespace

import pytest

from core.encoders import Encoder
from retrieval.encoders.negatives.generate import at_most, filled
from retrieval.encoders.negatives.pools import Candidate


def candidate(docid, dropped="", origin="from_ensemble"):
    return Candidate(docid, 1, 1.0, origin, dropped)


class Writer:
    def __init__(self, written):
        self.written = written

    def queries(self, qids):
        self.asked = list(qids)
        return {qid: text for qid, text in self.written.items() if qid in qids}


class Ensemble:
    """What is found for a new query: a to h, in this order."""

    def of_new(self, queries, depth):
        self.searched = list(queries)
        for query in queries:
            yield query.qid, {docid: 9.0 - place for place, docid in enumerate("abcdefgh"[:depth])}


def mining(**settings):
    graded = SimpleNamespace(grades=lambda questions: [int(q.candidate == "c") for q in questions])
    return SimpleNamespace(
        settings=Encoder(generate={"number": 3, **settings}),
        relevant=lambda language: {qid: {"a"} for qid in "1234"},
        reference=lambda language, qid: "a",
        queries=lambda language: dict.fromkeys("1234", "?"),
        passages=lambda language: SimpleNamespace(text=lambda docid: docid),
        judge=graded,
    )


POOLS = {
    "1": [candidate("b", "judged 2"), candidate("x")],
    "2": [candidate(docid) for docid in "wxyz"],
    "3": [candidate("a", "relevant")],
    "4": [candidate("x")],
}


def run(own, written=None):
    writer, ensemble = Writer(written or {"1": "one", "3": "three", "4": "  "}), Ensemble()
    found = dict(filled(own, "en", POOLS, writer, ensemble))
    return found, writer, ensemble


def names(candidates, dropped=False):
    return "".join(c.docid for c in candidates if bool(c.dropped) == dropped)


def test_filled_up_to_n():
    found, writer, ensemble = run(mining())
    assert writer.asked == ["1", "3", "4"], "the second has enough"
    assert [query.qid for query in ensemble.searched] == ["1", "3"], "nothing is searched as such"
    # a is relevant, and b was refused by the judge: neither comes back
    assert names(found["1"]) == "xcd" and names(found["1"], dropped=True) == "b"
    assert names(found["3"]) == "bcd" and names(found["4"]) == "x"
    assert [(c.origin, c.place, c.score) for c in found["1"]][2:] == [
        ("generate", 3, 7.0),
        ("generate", 4, 6.0),
    ]
    assert names(found["2"]) == "wxy", "not more than N"
    assert [c.dropped for c in found["2"]] == ["", "", "", "beyond N"]


def test_new_ones_may_be_judged_too():
    found, _, _ = run(mining(judged=True))
    assert names(found["1"]) == "xde" and names(found["1"], dropped=True) == "bc"
    assert {c.docid: c.dropped for c in found["1"]}["c"] == "judged 1"


def test_no_more_than_the_search_finds():
    found, _, _ = run(mining(number=20, depth=4), {"1": "one"})
    assert names(found["1"]) == "xcd"


def test_at_most():
    own = [candidate("a", "relevant"), candidate("b"), candidate("c", origin="generate")]
    assert names(at_most(own, 1)) == "b" and len(at_most(own, 1)) == 2
    assert at_most(own, 5) == own


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"by": "similar", "keywords": 3}, "no keywords, which is of by=keywords, where by=sim"),
        ({"endpoint": {}}, "no endpoint, which is of by=endpoint, where by=keywords"),
    ],
)
def test_settings_of_another_writer(settings, message):
    with pytest.raises(ValueError, match=message):
        Encoder(generate=settings)
