"""What lies in the folder of a stopped training is not trusted."""

import json
import os
import pickle

import pytest
import torch
import toy

from core.errors import InputError
from training import engine


class Evil:
    """As an unpickled object it makes a file."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (os.mkdir, (str(self.place),))


@pytest.fixture
def stopped(tmp_path):
    """The folder of a training that failed at step 4, with a state of step 2 and one of 4."""
    with pytest.raises(ValueError, match="no batches of step 5"):
        toy.loop(tmp_path, toy.Toy(toy.settings(tmp_path), fail_at=5)).run()
    folder = tmp_path / "t"
    assert (folder / "progress.json").exists()
    return folder


def go_on(tmp_path, **more):
    return toy.loop(tmp_path, toy.Toy(toy.settings(tmp_path, **more))).run()


def test_a_pickle_in_a_state_is_not_run(stopped, tmp_path):
    (state,) = stopped.glob("state/step-*/*.pt")
    content = engine_state(state)
    content["module"]["more"] = Evil(tmp_path / "taken")
    torch.save(content, state)
    with pytest.raises(InputError) as error:
        go_on(tmp_path)
    assert not (tmp_path / "taken").exists(), "foreign code ran"
    assert "holds more than the tensors of a state (found posix.mkdir)" in str(error.value)
    assert f"remove {stopped} to train anew" in str(error.value)


def test_nor_is_a_plain_pickle(stopped, tmp_path):
    (state,) = stopped.glob("state/step-*/*.pt")
    state.write_bytes(pickle.dumps(Evil(tmp_path / "taken"), protocol=2))
    with pytest.raises(InputError, match="state/step-4: holds more than the tensors of a state"):
        go_on(tmp_path)
    assert not (tmp_path / "taken").exists()


def test_nor_where_only_the_weights_are_taken(stopped, tmp_path):
    (state,) = stopped.glob("state/step-*/*.pt")
    state.write_bytes(pickle.dumps(Evil(tmp_path / "taken"), protocol=2))
    with pytest.raises(InputError, match="holds more than the tensors of a state"):
        engine.saved_weights(stopped / "state", "step-4")
    state.rename(state.with_name("zero_pp_rank_0_mp_rank_00_optim_states.pt"))
    with pytest.raises(InputError, match="holds more than the tensors|cannot be read"):
        engine.saved_weights(stopped / "state", "step-4")
    assert not (tmp_path / "taken").exists()
    assert engine.WEIGHTS_ONLY not in os.environ


def engine_state(path):
    return torch.load(path, map_location="cpu", weights_only=False)


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    "damage, message",
    [
        (cut, "state/step-4: (cannot be read|holds more than)"),
        (lambda state: state.unlink(), "state/step-4: cannot be read"),
        (lambda state: state.write_bytes(b""), "state/step-4: (cannot be read|holds more than)"),
    ],
)
def test_damaged_states(damage, message, stopped, tmp_path):
    (state,) = stopped.glob("state/step-*/*.pt")
    damage(state)
    with pytest.raises(InputError, match=f"{message}.*remove .*/t to train anew"):
        go_on(tmp_path)


def test_a_damaged_state_of_the_learner(stopped, tmp_path):
    (state,) = stopped.glob("state/step-*/learner.safetensors")
    cut(state)
    with pytest.raises(InputError, match="t: damaged .learner.safetensors: .*rm -r .*/t. and run"):
        go_on(tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "progress.json, line 1: found text that is not JSON"),
        ("[]", "progress.json holds a list, not an object"),
        ('{"step": 4}', "progress.json lacks world"),
        (
            json.dumps({"step": "4", "best": 1, "best_step": 4, "world": 1, "history": []}),
            "progress.json has other values than numbers of steps",
        ),
    ],
)
def test_damaged_progress(content, message, stopped, tmp_path):
    (stopped / "progress.json").write_text(content)
    with pytest.raises(InputError, match=f"t: damaged .{message}.*rm -r .*/t. and run again"):
        go_on(tmp_path)


def test_a_damaged_outcome(tmp_path):
    go_on(tmp_path)
    (tmp_path / "t" / "training.json").write_text('{"best": ')
    with pytest.raises(InputError, match="t: damaged .training.json, line 1: found text that is n"):
        go_on(tmp_path)


def test_a_damaged_line_of_the_log(stopped, tmp_path):
    log = stopped / "training.jsonl"
    first, *rest = log.read_text().splitlines(keepends=True)
    log.write_text("".join([first, "half\n", *rest]))
    with pytest.raises(InputError, match="training.jsonl, line 2: found text that is not JSON"):
        go_on(tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        ("[]", "ds.json: found a list, expected an object of DeepSpeed's settings"),
        ("{", "ds.json: found text that is not JSON"),
    ],
)
def test_a_file_that_is_no_deepspeed_configuration(content, message, tmp_path):
    (tmp_path / "ds.json").write_text(content)
    with pytest.raises(InputError, match=message):
        engine.settings(tmp_path / "ds.json", 1, 1, 1.0, "fp32")
