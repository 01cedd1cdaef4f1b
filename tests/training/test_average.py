"""Averaged weights by hand, and that what goes on training knows nothing of them."""

import json

import pytest
import torch
import toy

from core.parts import Average
from training import engine
from training.average import share_of_newest
from training.loop import Loop

HALF = Average(decay=0.5)
LAST = Average(last=3)


@pytest.mark.parametrize(
    "settings, shares",
    [
        # 10 / (step + 9), and 1 - decay where that is more
        (Average(decay=0.9), {1: 1.0, 2: 10 / 11, 11: 0.5, 91: 0.1, 92: 0.1, 1000: 0.1}),
        (HALF, {1: 1.0, 2: 10 / 11, 10: 10 / 19, 11: 0.5, 12: 0.5}),
        # a mean over steps 998, 999 and 1000
        (LAST, {1: 0.0, 997: 0.0, 998: 1.0, 999: 1 / 2, 1000: 1 / 3}),
        # over all steps, where there are fewer
        (Average(last=5000), {1: 1.0, 2: 1 / 2, 1000: 1 / 1000}),
    ],
)
def test_what_a_step_is_of_the_average(settings, shares):
    found = {step: share_of_newest(settings, step, 1000) for step in shares}
    assert found == pytest.approx(shares)


def values(loop):
    """Weight and bias as the model holds them, in fp32."""
    with engine.gathered(loop.engine.module):
        model = loop.engine.module
        return [float(p.detach().float()) for p in (model.weight, model.bias)]


def course(folder, average):
    """Six steps; after each the weights, and those that a measurement would see."""
    folder.mkdir()
    loop = toy.loop(folder, toy.Toy(toy.settings(folder, average=average)))
    own, seen = [], []
    for step in range(6):
        loop.step(step)
        own.append(values(loop))
        if loop.average:
            with loop.average.in_place():
                seen.append(values(loop))
            assert values(loop) == own[-1]  # bit by bit
    loop.engine.destroy()
    return own, seen


def test_an_exponential_average_by_hand(tmp_path):
    plain, _ = course(tmp_path / "plain", None)
    own, seen = course(tmp_path / "averaged", HALF)
    assert own == plain and own[0] != own[5], "the weights that train are not touched"
    expected = own[0]
    for step, newest in enumerate(own[1:], 2):
        share = 10 / (step + 9)  # above a half in all six
        expected = [e + share * (n - e) for e, n in zip(expected, newest, strict=True)]
        assert seen[step - 1] == pytest.approx(expected, rel=1e-6)
    assert seen[0] == own[0] and seen[5] != own[5]


def test_a_mean_over_the_last_steps_by_hand(tmp_path):
    own, seen = course(tmp_path / "averaged", LAST)
    assert seen[:4] == own[:4], "before them there is none, and at the first it is the weights"
    for step in (5, 6):
        of_steps = own[3:step]
        expected = [sum(column) / len(of_steps) for column in zip(*of_steps, strict=True)]
        assert seen[step - 1] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_at_every_stage_and_in_half_precision(tmp_path, stage, precision):
    """In bf16 the average is of rounded weights, and is itself rounded where it is looked at."""
    settings = toy.settings(tmp_path, average=HALF, precision=precision)
    (tmp_path / "ds.json").write_text(f'{{"zero_optimization": {{"stage": {stage}}}}}')
    engine.start()
    loop = Loop(toy.Toy(settings), settings, tmp_path, precision)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    expected = torch.zeros(2)
    for step in range(1, 5):
        loop.step(step - 1)
        own = values(loop)
        expected = expected.lerp(torch.tensor(own), 10 / (step + 9))
        with loop.average.in_place():
            seen = values(loop)
        assert seen == pytest.approx(expected.to(dtype).tolist(), rel=1e-6)
        assert values(loop) == own
    assert seen != own and loop.average.parts["weight"].dtype == torch.float32
    loop.engine.destroy()


def test_frozen_parameters_cost_nothing(tmp_path):
    learner = toy.Toy(toy.settings(tmp_path, average=HALF))
    learner.model.bias.requires_grad_(False)
    loop = toy.loop(tmp_path, learner)
    loop.step(0)
    assert set(loop.average.parts) == set(loop.average.state()) == {"weight"}


def finished(folder):
    return torch.load(folder / "t" / "model" / "weights.pt", weights_only=True)


def log_of(folder):
    return (folder / "t" / "training.jsonl").read_text()


def test_the_average_is_what_is_measured_and_kept(tmp_path):
    """The toy's metric is how near its weight is to 2, so the log tells the weight."""
    own, seen = course(tmp_path / "by_hand", HALF)
    logs = {}
    for name, average in (("plain", None), ("averaged", HALF)):
        folder = tmp_path / name
        folder.mkdir()
        toy.loop(folder, toy.Toy(toy.settings(folder, average=average))).run()
        logs[name] = [json.loads(line) for line in log_of(folder).splitlines()]
    assert [e["error"] for e in logs["plain"]] == [e["error"] for e in logs["averaged"]]
    for name, weights in (("plain", own), ("averaged", seen)):
        for step in (2, 4, 6):
            expected = -abs(weights[step - 1][0] - 2)
            assert logs[name][step - 1]["closeness"] == pytest.approx(expected, rel=1e-5)
        assert float(finished(tmp_path / name)["weight"]) == pytest.approx(weights[5][0], rel=1e-6)


@pytest.mark.parametrize("average", [HALF, Average(last=4)])
def test_going_on_gives_the_same_bytes(tmp_path, average):
    """It stops in step 6 and goes on at 4, where the mean over the last four has two in it."""
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    settings = toy.settings(tmp_path / "whole", average=average)
    toy.loop(tmp_path / "whole", toy.Toy(settings)).run()
    stopped = toy.Toy(toy.settings(tmp_path / "stopped", average=average), fail_at=5)
    with pytest.raises(ValueError, match="no batches of step 5"):
        toy.loop(tmp_path / "stopped", stopped).run()
    assert (tmp_path / "stopped" / "t" / "state" / "step-4" / "average.safetensors").exists()
    toy.loop(tmp_path / "stopped", toy.Toy(stopped.settings)).run()
    one, two = (finished(tmp_path / name) for name in ("whole", "stopped"))
    assert torch.equal(one["weight"], two["weight"]) and torch.equal(one["bias"], two["bias"])
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "stopped")


def test_another_number_of_processes_goes_on_with_the_average(tmp_path):
    learner = toy.Toy(toy.settings(tmp_path, average=HALF))
    loop = toy.loop(tmp_path, learner)
    for step in (0, 1):
        loop.step(step)
    loop.evaluate(2)
    with loop.average.in_place():
        expected = values(loop)
    note = tmp_path / "t" / "progress.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"world": 4}))
    again = toy.Toy(learner.settings)
    going_on = Loop(again, again.settings, tmp_path / "t", other_world="weights")
    with going_on.average.in_place():
        assert values(going_on) == expected
