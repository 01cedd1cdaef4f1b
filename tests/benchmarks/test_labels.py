"""The quality of augmented labels, by hand."""

import pytest

from benchmarks.labels import quality
from core.records import TrainingPair


def test_labels_by_hand():
    pairs = [
        TrainingPair("en", "1", docid, label, "q2q2d", 0, "", "")
        for docid, label in (("a", 0.9), ("b", 0.5), ("c", 0.5), ("d", 0.1))
    ]
    found = quality(pairs, {("en", "1", "a"), ("en", "1", "b"), ("en", "1", "x"), ("sw", "1", "c")})
    assert (
        (found["relevant"], found["others"]) == (2, 2)
        and found["label of relevant"] == pytest.approx(0.7)
        and found["label of others"] == pytest.approx(0.3)
    )
    assert found["AUC"] == pytest.approx((2 + 1.5) / 4) and found["reached"] == pytest.approx(2 / 4)
