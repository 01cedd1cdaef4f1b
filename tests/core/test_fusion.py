import math
import os

import numpy as np
import pytest

from core.fusion import FUSIONS, MISSING, NORMALISERS, PRESETS, align, fuse, normalised, ranks
from core.runs import by_depth

os.environ.setdefault(
    "NUMBA_DISABLE_JIT", "1"
)  # before ranx is imported: compiling takes a minute, these runs are tiny
A = {"1": {"x": 4.0, "y": 2.0, "z": 0.0}}
B = {"1": {"y": 10.0, "w": 5.0}}
ONES = {"a": 1.0, "b": 1.0}


def one(scores, normalise):
    """A single query's scores under a normaliser."""
    aligned = align({"a": {"q": scores}})
    return aligned.run(normalised(aligned.scores, normalise)[0])["q"]


def fused(fusion, normalise="none", missing="zero", weights=ONES):
    return fuse({"a": A, "b": B}, weights, normalise, missing, fusion)["1"]


def test_published_baseline_by_hand():
    preset = PRESETS["miracl-baseline"]
    fused = fuse({"bm25": A, "dense": B}, preset.weights, preset.normalise, preset.missing)
    assert fused["1"] == {"x": 2.0, "y": 6.0, "z": 0.0, "w": 2.5}


def test_minmax_by_hand():
    assert fused("weighted_sum", "minmax", weights={"a": 0.25, "b": 0.75}) == {
        "x": 0.25,
        "y": 0.125 + 0.75,
        "z": 0.0,
        "w": 0.0,
    }


def test_missing_minimum():
    assert fused("weighted_sum", missing="minimum") == pytest.approx(
        {"x": 4.0 + 5.0, "y": 12.0, "z": 0.0 + 5.0, "w": 0.0 + 5.0}
    )


def test_normalisers_by_hand():
    scores = {"x": 2.0, "y": 2.0, "z": -1.0}
    assert one(scores, "rank") == pytest.approx({"y": 1.0, "x": 2 / 3, "z": 1 / 3}), (
        "ties by docid descending"
    )
    assert one(scores, "rrf") == pytest.approx({"y": 1 / 61, "x": 1 / 62, "z": 1 / 63})
    assert one(scores, "sigmoid") == pytest.approx(
        {d: 1 / (1 + math.exp(-s)) for d, s in scores.items()}
    )
    assert one({"x": 2000.0, "y": -2000.0}, "sigmoid") == {"x": 1.0, "y": 0.0}
    parts = {"x": math.e**2, "y": math.e**2, "z": math.e**-1}
    assert one(scores, "softmax") == pytest.approx(
        {d: p / sum(parts.values()) for d, p in parts.items()}
    )
    assert one({"x": 1.0, "y": 3.0}, "zscore") == {"x": -1.0, "y": 1.0}


@pytest.mark.parametrize(
    "normalise, value", [("minmax", 1.0), ("zscore", 0.0), ("softmax", 0.5), ("none", 0.1)]
)
def test_constant_scores(normalise, value):
    assert one({"x": 0.1, "y": 0.1}, normalise) == {"x": value, "y": value}
    assert one({}, normalise) == {}


def test_fusions_by_hand():
    """Ranks: a x 1, y 2, z 3; b y 1, w 2.

    Borda of four passages: a gives 4, 3, 2 and w the one point left; b gives y 4, w 3, x and z 1.5.
    """
    assert fused("combmnz") == {"x": 4.0, "y": 24.0, "z": 0.0, "w": 5.0}
    assert fused("combanz") == {"x": 4.0, "y": 6.0, "z": 0.0, "w": 5.0}
    assert fused("rrf") == pytest.approx(
        {"x": 1 / 61, "y": 1 / 62 + 1 / 61, "z": 1 / 63, "w": 1 / 62}
    )
    assert fused("isr") == pytest.approx({"x": 1.0, "y": 2 * (1 / 4 + 1), "z": 1 / 9, "w": 1 / 4})
    assert fused("borda") == pytest.approx({"x": 4 + 1.5, "y": 3 + 4, "z": 2 + 1.5, "w": 1 + 3})
    assert fused("geometric", weights={"a": 1.0, "b": 3.0})["y"] == pytest.approx(
        (2.0 * 10.0**3) ** 0.25
    )
    assert fused("geometric")["x"] == pytest.approx((4.0 * 1e-6) ** 0.5), (
        "absent: the floor, no veto"
    )


def test_a_query_of_one_run_alone():
    assert fuse(
        {"a": {"1": {"x": 1.0}}, "b": {"2": {"y": 2.0}}}, {"a": 0.5, "b": 0.5}, "none", "zero"
    ) == {"1": {"x": 0.5}, "2": {"y": 1.0}}
    assert fuse({"a": {"1": {"x": 1.0}}, "b": {}}, ONES, "zscore", "minimum") == {"1": {"x": 0.0}}


def test_ranks_break_ties_as_everywhere():
    aligned = align({"a": {"1": {"d1": 1.0, "d10": 1.0, "d2": 1.0, "d3": 2.0}}})
    assert dict(zip(aligned.docids[0], ranks(aligned.scores)[0, 0], strict=True)) == {
        "d3": 1,
        "d2": 2,
        "d10": 3,
        "d1": 4,
    }
    assert list(by_depth({"d1": 1.0, "d10": 1.0, "d2": 1.0, "d3": 2.0})) == [
        "d3",
        "d2",
        "d10",
        "d1",
    ]


def random_runs(random, queries=6, ties=5):
    """Two to four runs over the same queries, with ties and gaps."""
    docs = [f"d{i:02}" for i in range(12)]
    return {
        n: {
            f"q{q}": {
                d: float(random.integers(ties)) + 1
                for d in random.permutation(docs)[: random.integers(1, 11)]
            }
            for q in range(queries)
        }
        for n in "abcd"[: random.integers(2, 5)]
    }


@pytest.mark.parametrize("missing", sorted(MISSING))
@pytest.mark.parametrize("normalise", sorted(NORMALISERS))
def test_weighted_sum_one_passage_at_a_time(normalise, missing):
    random = np.random.default_rng(1)
    for _ in range(5):
        runs = random_runs(random)
        weights = dict(zip(runs, random.random(len(runs)), strict=True))
        found = fuse(runs, weights, normalise, missing)
        for q in found:
            parts = {n: one(runs[n][q], normalise) for n in runs}
            for d in {d for p in parts.values() for d in p}:
                expected = sum(
                    weights[n]
                    * parts[n].get(d, 0.0 if missing == "zero" else min(parts[n].values()))
                    for n in runs
                )
                assert found[q][d] == pytest.approx(expected)


RANX = {
    "weighted_sum": "sum",
    "combmnz": "mnz",
    "combanz": "anz",
    "rrf": "rrf",
    "isr": "isr",
    "borda": "bordafuse",
}
RANX_NORMALISERS = {"minmax": "min-max", "zscore": "zmuv", "rank": "rank"}


@pytest.mark.parametrize("fusion", sorted(RANX))
def test_fusions_against_ranx(fusion):
    """Fusions of ranks get scores without ties, as ranx breaks those in its own way."""
    import ranx

    random = np.random.default_rng(2)
    for _ in range(3):
        runs = random_runs(random)
        if fusion in ("rrf", "isr", "borda"):
            runs = {
                n: {q: by_depth(scores) for q, scores in run.items()} for n, run in runs.items()
            }
        expected = ranx.fuse(
            [ranx.Run(r) for r in runs.values()], norm=None, method=RANX[fusion]
        ).to_dict()
        found = fuse(runs, dict.fromkeys(runs, 1.0), "none", "zero", fusion)
        assert found.keys() == expected.keys()
        for q in found:
            assert found[q] == pytest.approx(expected[q])


@pytest.mark.parametrize("normalise", sorted(RANX_NORMALISERS))
def test_normalisers_against_ranx(normalise):
    import ranx
    from ranx.normalization import min_max_norm, rank_norm, zmuv_norm

    function = {"minmax": min_max_norm, "zscore": zmuv_norm, "rank": rank_norm}[normalise]
    for run in random_runs(np.random.default_rng(3), queries=20, ties=40).values():
        run = {
            q: by_depth(scores) if normalise == "rank" else scores
            for q, scores in run.items()
            if len(set(scores.values())) > 1
        }
        expected = function(ranx.Run(run)).to_dict() if run else {}
        for q in run:
            assert one(run[q], normalise) == pytest.approx(expected[q]), q


def test_tables():
    assert all(p.normalise in NORMALISERS and p.missing in MISSING for p in PRESETS.values())
    assert set(RANX) == set(FUSIONS) - {"geometric"}
