"""What only whole processes show: the same losses however the work is divided, and the same bytes whatever was killed."""
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ENVIRONMENT = {**{k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")},
               "PYTHONPATH": f"{HERE.parents[1]}:{HERE}"}


def run(*command, check=True):
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def losses():
    """(processes, number format and stage) -> losses and weights."""
    found = {}
    for world, launcher in ((1, []), (2, ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"])):
        for line in run(sys.executable, *launcher, str(HERE / "same.py")).stdout.splitlines():
            if line.startswith("{"):
                entry = json.loads(line)
                found[world, entry["of"]] = entry
    assert len(found) == 16
    return found


@pytest.mark.parametrize("precision, tolerance", [("fp32", 2e-5), ("bf16", 0.03)])
def test_the_same_losses_for_every_division_of_the_work(losses, precision, tolerance):
    expected = losses[1, f"{precision} 0"]
    assert len(expected["losses"]) == 6 and expected["losses"][0] != expected["losses"][5]
    for (world, of), entry in losses.items():
        if of.startswith(precision):
            for step, pair in enumerate(entry["losses"]):
                assert pair == pytest.approx(expected["losses"][step], rel=tolerance), (world, of, step)
            assert entry["weights"] == pytest.approx(expected["weights"], rel=tolerance / 10), (world, of)


def whole(folder, stage):
    run(sys.executable, str(HERE / "killed.py"), str(folder), "never", stage)
    return (folder / "model" / "model.safetensors").read_bytes(), (folder / "training.jsonl").read_bytes()


@pytest.mark.parametrize("stage", ["0", "2"])
def test_killed_anywhere_it_ends_with_the_same_bytes(tmp_path, stage):
    expected = whole(tmp_path / "whole", stage)
    points = ["step:1", "step:4", "best:1", "files:2", "state:1", "state:3", "finish:1"] if stage == "0" else ["step:4", "files:2"]
    for number, point in enumerate(points):
        folder = tmp_path / f"killed-{number}"
        done = run(sys.executable, str(HERE / "killed.py"), str(folder), point, stage, check=False)
        assert done.returncode == -signal.SIGKILL, (point, done.stderr[-2000:])
        assert whole(folder, stage) == expected, point
        assert sorted(p.name for p in folder.iterdir()) == ["model", "training.json", "training.jsonl"], point


def test_a_state_that_is_cut_off(tmp_path):
    run(sys.executable, str(HERE / "killed.py"), str(tmp_path / "t"), "step:4", "0", check=False)
    (state,) = (tmp_path / "t" / "state").glob("step-*/mp_rank_00_model_states.pt")
    state.write_bytes(state.read_bytes()[:1000])
    done = run(sys.executable, str(HERE / "killed.py"), str(tmp_path / "t"), "never", "0", check=False)
    assert "cannot be read: remove" in done.stderr, done.stderr[-2000:]
    shutil.rmtree(tmp_path / "t")
