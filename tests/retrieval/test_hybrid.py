import pytest

from retrieval.hybrid import grid, tune


def test_grid():
    two = list(grid(["a", "b"]))
    assert len(two) == 19 and two[0] == {"a": 0.05, "b": 0.95} and all(sum(w.values()) == pytest.approx(1) for w in two)
    assert len(list(grid(["a", "b", "c"]))) == 36


def test_the_better_source_gets_the_weight():
    good = {"en": {"1": {"x": 3.0, "y": 2.0, "z": 1.0}}}
    bad = {"en": {"1": {"x": 1.0, "y": 2.0, "z": 3.0}}}
    weights, found = tune({"good": good, "bad": bad}, {"en": {"1": {"x": 1}}}, "minmax", "zero")
    assert weights["good"] > 0.5 and found == 1.0
    assert tune({"bad": bad}, {"en": {"1": {"x": 1}}}, "minmax", "zero") == ({"bad": 1.0}, 0.5)
