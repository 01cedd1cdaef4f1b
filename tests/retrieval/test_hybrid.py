from types import SimpleNamespace

import numpy as np
import pytest

from core.errors import InputError
from core.fusion import PRESETS, fuse
from retrieval.hybrid import alphas, grid, tune, tune_languages


def test_grid():
    two = list(grid(["a", "b"]))
    assert (
        len(two) == 19
        and two[0] == {"a": 0.05, "b": 0.95}
        and all(sum(w.values()) == pytest.approx(1) for w in two)
    )
    assert len(list(grid(["a", "b", "c"]))) == 36


def test_the_better_source_gets_the_weight():
    good = {"en": {"1": {"x": 3.0, "y": 2.0, "z": 1.0}}}
    bad = {"en": {"1": {"x": 1.0, "y": 2.0, "z": 3.0}}}
    weights, found = tune({"good": good, "bad": bad}, {"en": {"1": {"x": 1}}}, PRESETS["minmax"])
    assert weights["good"] > 0.5 and found == 1.0
    assert tune({"bad": bad}, {"en": {"1": {"x": 1}}}, PRESETS["minmax"]) == ({"bad": 1.0}, 0.5)


def random_runs(seed):
    """Two runs with ties and gaps."""
    random, docs = np.random.default_rng(seed), [f"d{i:02}" for i in range(15)]
    return {
        n: {
            f"q{q}": {
                d: float(random.integers(6)) + 1
                for d in random.permutation(docs)[: random.integers(2, 12)]
            }
            for q in range(5)
        }
        for n in ("bm25", "dense")
    }


@pytest.mark.parametrize("seed", range(3))
def test_miracl_baseline_is_pyserinis_interpolation(seed, tmp_path, monkeypatch):
    from core.runs import write_run
    from retrieval import jvm

    jvm.start("512m")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    from pyserini.fusion import interpolation
    from pyserini.trectools import TrecRun

    runs = random_runs(seed)
    for name, run in runs.items():
        write_run(tmp_path / name, run, name)
    theirs = interpolation([TrecRun(str(tmp_path / name)) for name in runs], alpha=0.5).run_data
    preset = PRESETS["miracl-baseline"]
    ours = fuse(runs, preset.weights, preset.normalise, preset.missing)
    expected = {}
    for topic, docid, score in zip(theirs["topic"], theirs["docid"], theirs["score"], strict=True):
        expected.setdefault(str(topic), {})[docid] = pytest.approx(score)
    assert ours == expected


@pytest.mark.parametrize("seed", range(3))
def test_sparse_dense_is_pyserinis_hybrid_searcher(seed, monkeypatch):
    """Its normalised scores lie half a point lower in each run, which changes no order."""
    from retrieval import jvm

    jvm.start("512m")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    from pyserini.search.hybrid import HybridSearcher

    runs, alpha, preset = random_runs(seed), 0.7, PRESETS["sparse-dense"]
    ours = fuse(runs, {"bm25": 1.0, "dense": alpha}, preset.normalise, preset.missing)
    for q, scores in ours.items():
        hits = {n: [SimpleNamespace(docid=d, score=s) for d, s in runs[n][q].items()] for n in runs}
        if any(len(set(runs[n][q].values())) == 1 for n in runs):
            continue  # it divides by zero
        theirs = HybridSearcher._hybrid_results(
            hits["dense"], hits["bm25"], alpha, 100, normalization=True, weight_on_dense=True
        )
        assert {hit.docid: hit.score + 0.5 + 0.5 * alpha for hit in theirs} == {
            d: pytest.approx(s) for d, s in scores.items()
        }


def test_alphas():
    found = list(alphas(["bm25", "dense"]))
    assert (
        found[0] == {"bm25": 1.0, "dense": 0.1}
        and found[-1] == {"bm25": 1.0, "dense": 3.0}
        and len(found) == 30
    )
    with pytest.raises(
        InputError, match="sparse-dense fuses two sources, found bm25; choose another preset"
    ):
        alphas(["bm25"])
    good, bad = {"en": {"1": {"x": 3.0, "y": 1.0}}}, {"en": {"1": {"x": 1.0, "y": 3.0}}}
    assert (
        tune({"bm25": bad, "dense": good}, {"en": {"1": {"x": 1}}}, PRESETS["sparse-dense"])[0][
            "dense"
        ]
        > 1.0
    )


def test_weights_of_a_language_are_drawn_to_the_global_ones():
    """en alone would take the first grid point (.05, .95).

    Two queries of en against two of the global weights: the mean of both.
    """
    good, bad = (
        {"1": {"x": 3.0, "y": 2.0, "z": 1.0}, "2": {"x": 3.0, "y": 1.0}},
        {"1": {"x": 1.0, "y": 2.0, "z": 3.0}, "2": {"x": 1.0, "y": 3.0}},
    )
    runs, qrels = (
        {"bm25": {"en": bad}, "dense": {"en": good}},
        {"en": {"1": {"x": 1}, "2": {"x": 1}}},
    )
    found = tune_languages(runs, qrels, PRESETS["minmax"], {"bm25": 0.5, "dense": 0.5}, 2.0)
    assert found == {"en": pytest.approx({"bm25": 0.275, "dense": 0.725})}
