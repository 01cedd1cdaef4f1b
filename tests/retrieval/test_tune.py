import pytest

from core.building import run_steps
from core.config import load_config
from core.errors import InputError
from core.task import Task
from retrieval import search
from retrieval.tune import best, held_out_gain, layer, tune

D = (0.9, 0.4)
VALUES = {
    D: {"1": 0.5, "2": 0.5, "3": 0.5, "4": 0.5},
    (1.2, 0.4): {"1": 0.9, "2": 0.9, "3": 0.3, "4": 0.3},
    (2.0, 0.4): {"1": 0.1, "2": 0.1, "3": 0.8, "4": 0.8},
}


def test_the_best_point_and_the_default_where_nothing_is_better():
    assert best(VALUES, ["1", "2"], D) == (1.2, 0.4) and best(VALUES, ["3", "4"], D) == (2.0, 0.4)
    assert best({D: {"1": 0.5}, (1.2, 0.4): {"1": 0.5}}, ["1"], D) == D


def test_the_gain_is_measured_on_the_other_half():
    """The best for 1 and 2 costs 3 and 4 .2 each; the best for 3 and 4 costs 1 and 2 .4 each."""
    assert held_out_gain(VALUES, (["1", "2"], ["3", "4"]), D) == pytest.approx(
        (-0.2 * 2 - 0.4 * 2) / 4
    )
    assert held_out_gain(VALUES, (["1", "3"], ["2", "4"]), D) == pytest.approx((0.4 - 0.2) / 2)


def test_a_layer_that_a_configuration_can_extend(config, tmp_path):
    task = Task(config(retrieval={"sources": ["bm25"], "bm25": {"heap": "512m"}, "depth": 10}))
    run_steps(
        [s for n, s in search.plan(task).items() if n.startswith(("passages/", "bm25-index/"))],
        task.config.folder,
    )
    found = tune(task, "dev", "RR@100")
    assert set(found) == {"de", "en", "sw"} and all(
        v["after"] >= v["before"] and v["queries"] == 1 for v in found.values()
    )
    (tmp_path / "bm25.yaml").write_text(layer(found, "RR@100", "dev"))
    (tmp_path / "mine.yaml").write_text("extends: bm25.yaml\ncollection: {source: atlas}\n")
    loaded = load_config(tmp_path / "mine.yaml")
    assert loaded.retrieval.bm25.per_language["en"].model_dump() == {
        "k1": found["en"]["point"][0],
        "b": found["en"]["point"][1],
    }
    with pytest.raises(
        InputError, match="--split testA: test judgments choose nothing; expected train or dev"
    ):
        tune(task, "testA", "nDCG@10")


def test_without_bm25_there_is_nothing_to_tune(config):
    task = Task(config(retrieval={"sources": ["dense"]}))
    with pytest.raises(InputError, match="retrieval.sources: found dense, but what is tuned here"):
        tune(task, "dev", "nDCG@10")
