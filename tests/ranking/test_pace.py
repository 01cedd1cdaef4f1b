"""What is measured of a ranker: scoring and training of the real body, for a moment."""

import pytest
import small

import core.pace
from core.pace import Pace, known, measure
from core.settings import Ranker
from core.task import Task
from ranking import pace, rank


@pytest.fixture
def model(tmp_path, tiny_body):
    """A tiny body with a tokenizer; pairs are made of pieces' numbers."""
    folder = tmp_path / "model"
    tiny_body.save_pretrained(folder)
    small.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def shortly(monkeypatch):
    monkeypatch.setattr(core.pace, "SECONDS", 0.02)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_scoring_is_measured(model, backend):
    known_by = {"layers": None, "tokens": 20, "precision": "fp32", "backend": backend}
    measured = pace.measure_scoring(str(model), known_by)
    assert 0 < measured.seconds < 1 and measured.memory > 1e7
    assert (measured.step_seconds, measured.gpu_memory) == (0, 0)


def test_training_is_measured(model):
    known_by = {"layers": 1, "tokens": 20, "precision": "fp32"}
    ranker = Ranker(lora={}, gradient_checkpointing=True)
    measured = pace.measure_training(str(model), known_by, ranker, 4)
    assert 0 < measured.seconds < 1 and 0 < measured.step_seconds < 1


def test_the_plan_counts_with_what_was_measured(config, monkeypatch):
    """100 steps of 8 pairs, each forward and backward twice with FGM: 1,600 passes of .5 s."""
    ranker = {"steps": 100, "batch_size": 8, "backbone": "embedded"}
    own = config(ranking={"rankers": {"base": ranker}}, retrieval={"sources": ["bm25"]})
    task = Task(own)
    assert known(own.work, pace.training_known_by(task, "base")) is None
    guessed = rank.plan(task)["ranker/base"].seconds
    paces = {
        "training": (pace.training_known_by(task, "base"), Pace(0.5, 2.0, 7e9)),
        "scoring": (pace.scoring_known_by(task, "base"), Pace(0.25)),
    }
    for name, (known_by, made) in paces.items():
        text = f"__import__('core.pace', fromlist=['e']).{made!r}"
        measure(own.work, [core.pace.Measurement(name, known_by, eval, (text,))])
    steps = rank.plan(Task(own))
    assert guessed != steps["ranker/base"].seconds == 1600 * 0.5 + 100 * 2
    assert steps["ranker/base"].memory == 7e9
    assert steps["base/en-dev"].seconds == 200 * 0.25, "one query, 200 candidates"


def test_rankers_of_one_kind_are_measured_once(config, models, embedded_folder):
    other = {"backbone": "embedded", "steps": 7, "seed": 3}
    rankers = {"base": {"backbone": "embedded"}, "other": other}
    own = config(work=str(models.parent), ranking={"rankers": rankers})
    wanted = pace.measurements(Task(own), ["base", "other"], ["base"])
    assert [one.name for one in wanted] == [
        "training of base",
        "training of other",
        "scoring by base",
    ]
    assert wanted[0].known_by == wanted[1].known_by != wanted[2].known_by
