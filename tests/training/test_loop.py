"""The loop with a learner that is no ranker."""

import json
import math

import pytest
import torch
import toy

from core.errors import InputError
from training.checkpoints import Checkpoints
from training.learner import Measured
from training.loop import Loop
from training.order import Ahead


def log_of(folder):
    return (folder / "t" / "training.jsonl").read_text()


def test_a_training_of_anything(tmp_path, capsys):
    learner = toy.Toy(toy.settings(tmp_path, steps=40, evaluate_every=10))
    state = toy.loop(tmp_path, learner).run()
    assert (state["zero"], state["best_step"]) == (-2.0, 40) and state["base"] < -1 < state["best"]
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == [
        "model",
        "training.json",
        "training.jsonl",
    ]
    entries = [json.loads(line) for line in log_of(tmp_path).splitlines()]
    assert len(entries) == 40 and set(entries[0]) == {"step", "error", "lr"}
    assert [e["step"] for e in entries if "closeness" in e] == [10, 20, 30, 40]
    made = json.loads((tmp_path / "t" / "training.json").read_text())
    assert (made["precision"], made["per_step"]) == ("fp32", 4)
    assert made["settings"] == learner.settings.model_dump()
    out = capsys.readouterr().out
    assert "toy: step 40 of 40, dev closeness" in out and "numbers/s with its dev scores" in out
    assert learner.calls[-1] == ("report", 40)
    assert Loop(learner, learner.settings, tmp_path / "t").run() == made, "it is not trained again"


def test_going_on_gives_the_same_bytes_and_the_learners_own_state(tmp_path):
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    toy.loop(tmp_path / "whole", toy.Toy(toy.settings(tmp_path / "whole"))).run()
    stopped = toy.Toy(toy.settings(tmp_path / "stopped"), fail_at=5)
    with pytest.raises(ValueError, match="no batches of step 5"):
        toy.loop(tmp_path / "stopped", stopped).run()
    again = toy.Toy(stopped.settings)
    loop = toy.loop(tmp_path / "stopped", again)
    assert loop.state["step"] == 4 and again.queue.any()
    loop.run()
    assert log_of(tmp_path / "stopped") == log_of(tmp_path / "whole")
    one, two = (
        torch.load(tmp_path / name / "t" / "model" / "weights.pt", weights_only=True)
        for name in ("whole", "stopped")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_next_step_is_made_ahead_unless_it_waits(tmp_path):
    learner = toy.Toy(toy.settings(tmp_path, steps=3), waiting=[2])
    loop, ahead = toy.loop(tmp_path, learner), Ahead(learner.batches)
    loop.step(0, ahead)
    assert list(ahead.made) == [1], "begun while step 0 was learnt"
    ahead.made[1].result()
    loop.step(1, ahead)
    assert not ahead.made and ("batches", 2) not in learner.calls
    loop.step(2, ahead)
    ahead.close()
    assert learner.calls.index(("batches", 1)) < learner.calls.index(("begin", 1))
    assert learner.calls.index(("begin", 2)) < learner.calls.index(("batches", 2))
    assert max(step for name, step in learner.calls if name == "batches") == 2


def test_another_number_of_processes_names_the_callers_setting(tmp_path):
    (tmp_path / "progress.json").write_text('{"step": 2, "world": 4, "per_step": 8}')
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(InputError, match="has 1; go on with as many, set my.key=weights to go on"):
        checkpoints.stopped(8, "refuse", "my.key")
    assert checkpoints.stopped(8, "weights", "my.key")["world"] == 4


def test_steps_of_another_size_do_not_go_on(tmp_path):
    """Before batch_size was that of all processes, four of them took four times as many."""
    learner = toy.Toy(toy.settings(tmp_path))
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "progress.json").write_text('{"step": 2, "world": 4}')
    with pytest.raises(
        InputError,
        match="was begun by 4 processes when batch_size was counted for each of them",
    ):
        toy.loop(tmp_path, learner)
    note = {"step": 2, "world": 4, "per_step": 4}
    (tmp_path / "t" / "progress.json").write_text(json.dumps(note))
    with pytest.raises(
        InputError, match="was begun with 4 processes, this run has 1; .*the order of data goes on"
    ):
        toy.loop(tmp_path, learner)


def test_weights_that_are_no_numbers_are_not_kept(tmp_path):
    """After a step at much too high a rate; the loss of the last step does not show it any more."""

    class Diverging(toy.Toy):
        def learn(self, engine, batch, step):
            losses = super().learn(engine, batch, step)
            if step == 1:
                self.model.weight.data.fill_(math.inf)
            return losses

    message = r"toy: the weights are not finite at step 2 \(first weight\): training has diverged; "
    with pytest.raises(InputError, match=message):
        toy.loop(tmp_path, Diverging(toy.settings(tmp_path))).run()
    assert not list((tmp_path / "t").glob("model*"))


def test_a_metric_that_is_no_number(tmp_path):
    class Blind(toy.Toy):
        def measure(self, engine, step):
            return Measured(math.nan if step else 0.0, None)

    with pytest.raises(InputError, match="toy: dev closeness is nan at step 2; lower learning"):
        toy.loop(tmp_path, Blind(toy.settings(tmp_path))).run()
