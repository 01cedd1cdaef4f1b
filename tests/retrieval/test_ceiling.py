import pytest

from retrieval.ceiling import METRICS, ceiling

QRELS = {"1": {"a": 1, "b": 1, "n": 0}, "2": {"c": 1}, "3": {"never": 1}, "4": {"n": 0}}
RUNS = {
    "bm25": {"1": {"a": 9.0, "x": 8.0, "b": 1.0}, "2": {"x": 1.0}},
    "dense": {"1": {"b": 2.0, "x": 1.0}, "2": {"y": 3.0, "x": 2.0, "c": 1.0}},
    "hybrid": {"1": {"x": 3.0, "a": 2.0, "b": 1.0}, "2": {"x": 3.0, "y": 2.0, "c": 1.0}},
}


def test_by_hand():
    """Two candidates: BM25 has 1/a, dense 1/b, the hybrid 1/a, which loses 1/b of dense.

    Nobody stores a passage of query 3.
    """
    found = ceiling(RUNS, QRELS, 2)
    assert (
        found.relevant == 4 and found.lost == {"bm25": 0, "dense": 1} and found.unanswered == ["3"]
    )
    assert ceiling(RUNS, QRELS, 10).lost == {"bm25": 0, "dense": 0}
    assert set(found.figures["hybrid"]) == set(METRICS)
    assert found.figures["hybrid"]["R@10"] == pytest.approx(2 / 4) and found.figures["bm25"][
        "R@1000"
    ] == pytest.approx(1 / 4), "every judged query counts"
