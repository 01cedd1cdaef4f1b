import numpy as np
import pytest

from core.fusion import FUSIONS, MISSING, NORMALISERS, PRESETS, fuse, normalised

A = {"1": {"x": 4.0, "y": 2.0, "z": 0.0}}
B = {"1": {"y": 10.0, "w": 5.0}}


def test_published_baseline_by_hand():
    preset = PRESETS["miracl-baseline"]
    fused = fuse({"bm25": A, "dense": B}, preset.weights, preset.normalise, preset.missing)
    assert fused["1"] == {"x": 2.0, "y": 6.0, "z": 0.0, "w": 2.5}


def test_minmax_by_hand():
    fused = fuse({"a": A, "b": B}, {"a": 0.25, "b": 0.75}, "minmax", "zero")["1"]
    assert fused == {"x": 0.25, "y": 0.125 + 0.75, "z": 0.0, "w": 0.0}


def test_missing_minimum():
    fused = fuse({"a": A, "b": B}, {"a": 1.0, "b": 1.0}, "none", "minimum")["1"]
    assert fused == pytest.approx({"x": 4.0 + 5.0, "y": 12.0, "z": 0.0 + 5.0, "w": 0.0 + 5.0})


def test_rrf_by_hand():
    fused = fuse({"a": A, "b": B}, {"a": 1.0, "b": 1.0}, "rrf", "zero")["1"]
    assert fused == pytest.approx({"x": 1 / 61, "y": 1 / 62 + 1 / 61, "z": 1 / 63, "w": 1 / 62})


def test_zscore_and_constant_scores():
    assert list(normalised({"x": 1.0, "y": 3.0}, "zscore").values()) == [1.0, -1.0]
    for name, value in (("minmax", 1.0), ("zscore", 0.0)):
        assert set(normalised({"x": 5.0, "y": 5.0}, name).values()) == {value}
    assert normalised({}, "minmax") == {}


def test_a_query_of_one_run_alone():
    assert fuse({"a": {"1": {"x": 1.0}}, "b": {"2": {"y": 2.0}}}, {"a": 0.5, "b": 0.5}, "none", "zero") == {"1": {"x": 0.5}, "2": {"y": 1.0}}


@pytest.mark.parametrize("missing", sorted(MISSING))
@pytest.mark.parametrize("normalise", sorted(NORMALISERS))
def test_against_a_dense_matrix_on_random_runs(normalise, missing):
    random = np.random.default_rng(1)
    for _ in range(20):
        docs = [f"d{i}" for i in range(12)]
        runs = {n: {"q": {d: float(random.integers(5)) for d in random.permutation(docs)[:8]}} for n in "ab"}
        weights = dict(zip("ab", random.random(2)))
        expected = {}
        parts = {n: normalised(runs[n]["q"], normalise) for n in "ab"}
        for d in {d for p in parts.values() for d in p}:
            expected[d] = sum(weights[n] * parts[n].get(d, 0.0 if missing == "zero" else min(parts[n].values())) for n in "ab")
        assert fuse(runs, weights, normalise, missing)["q"] == pytest.approx(expected)


def test_tables():
    assert set(FUSIONS) == {"weighted_sum"} and all(p.normalise in NORMALISERS and p.missing in MISSING for p in PRESETS.values())
