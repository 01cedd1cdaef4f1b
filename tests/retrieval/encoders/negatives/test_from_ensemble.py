"""Several systems' scores as one."""

from types import SimpleNamespace

import numpy as np
import pytest

from core.encoders import Encoder
from core.records import Query
from retrieval.encoders.negatives.from_ensemble import Ensemble, best_and, fused, projection, unit

LEXICAL = {"1": {"a": 10.0, "b": 5.0, "c": 0.0}, "2": {"d": 1.0}}
DENSE = {"1": {"b": 0.9, "d": 0.5, "a": 0.1}, "2": {}}


def ensemble(**settings):
    chosen = {"systems": ["bm25", "dense"], **settings}
    mining = SimpleNamespace(
        settings=Encoder(negatives=["from_ensemble"], from_ensemble=chosen),
        runs={("bm25", "en"): None, ("dense", "en"): None},
        relevant=lambda language: {"1": {"c"}, "2": {"z"}},
        queries=lambda language: {"1": "first?", "2": "second?", "9": "not judged?"},
        run=lambda system, language: {"bm25": LEXICAL, "dense": DENSE}[system],
    )
    return Ensemble(mining, "en")


def test_a_fusion_of_the_best_by_hand():
    found = dict(ensemble(reach=2).of_training())
    # bm25: a 1, b .5 and the relevant c 0; dense: b 1, d 0; each counts a half
    assert found["1"] == pytest.approx({"a": 0.5, "b": 0.75, "c": 0.0, "d": 0.0})
    assert list(found["2"]) == ["d"] and "9" not in found


def test_ranks_as_a_fusion():
    found = dict(ensemble(combine="rrf").of_training())["1"]
    assert found["a"] == pytest.approx((1 / 61 + 1 / 63) / 2)
    assert found["b"] == pytest.approx((1 / 62 + 1 / 61) / 2)


def test_queries_that_nothing_answers():
    assert fused({"bm25": {}, "dense": {}}, "minmax") == {}


def test_the_best_and_some_others():
    scores = {"a": 3.0, "b": 2.0, "c": 1.0}
    assert best_and(scores, 1, {"c", "a", "unknown"}) == {"a": 3.0, "c": 1.0}


def test_the_link_marks_relevant_passages_and_cuts():
    from retrieval.encoders.negatives import NEGATIVES

    own = ensemble(reach=9, depth=2).mining
    found = dict(NEGATIVES["from_ensemble"](own, "en", None))
    assert [(c.docid, c.place, c.dropped) for c in found["1"]] == [
        ("b", 1, ""),
        ("a", 2, ""),
        ("c", 4, "relevant"),
    ]
    assert {c.origin for c in found["1"]} == {"from_ensemble"}


# ---- Features


def test_a_projection_keeps_the_strongest_directions():
    random = np.random.default_rng(0)
    strong = random.normal(size=(500, 2)) @ [[9, 0, 0, 0], [0, 0, 5, 0]]
    vectors = (strong + random.normal(size=(500, 4)) / 100).astype(np.float16)
    found = projection(vectors, 2)
    assert found.shape == (4, 2) and found.T @ found == pytest.approx(np.eye(2), abs=1e-5)
    assert np.abs(found) == pytest.approx(np.array([[1, 0], [0, 0], [0, 1], [0, 0]]), abs=1e-2)
    assert projection(vectors, 9).shape == (4, 4), "no larger than the vectors"


def test_unit_vectors():
    assert unit(np.array([[3.0, 4.0], [0.0, 0.0]])) == pytest.approx(
        np.array([[0.6, 0.8], [0.0, 0.0]])
    )


def test_a_query_of_its_own(monkeypatch):
    """New queries are searched in every system."""
    searched = []

    def search(task, step, language, queries, depth):
        searched.append((step, language, [query.text for query in queries], depth))
        return iter([(query.qid, {"a": 1.0, "b": 0.5}) for query in queries])

    own = ensemble(reach=99)
    own.steps = {"bm25": "lucene's", "dense": "the vectors'"}
    own.mining.task = None
    monkeypatch.setattr("retrieval.searching.search", search)
    assert dict(own.of_new([Query("1", "new?")], 7)) == {"1": {"a": 1.0, "b": 0.0}}
    assert searched == [("lucene's", "en", ["new?"], 7), ("the vectors'", "en", ["new?"], 7)]
