"""What only whole processes show.

The same losses however the work is divided, and the same bytes whatever was killed.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ENVIRONMENT = {
    **{
        k: v
        for k, v in os.environ.items()
        if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    },
    "PYTHONPATH": f"{HERE.parents[1]}:{HERE}",
}


def run(*command, check=True):
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def losses():
    """(processes, number format or "lora", and stage) -> losses and weights."""
    found = {}
    for world, launcher in (
        (1, []),
        (2, ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]),
    ):
        for line in run(sys.executable, *launcher, str(HERE / "same.py")).stdout.splitlines():
            if line.startswith("{"):
                entry = json.loads(line)
                found[world, entry["of"]] = entry
    assert len(found) == 20
    return found


@pytest.mark.parametrize("kind, tolerance", [("fp32", 2e-5), ("bf16", 0.03), ("lora", 2e-5)])
def test_the_same_losses_for_every_division_of_the_work(losses, kind, tolerance):
    expected = losses[1, f"{kind} 0"]
    assert len(expected["losses"]) == 6 and expected["losses"][0] != expected["losses"][5]
    for (world, of), entry in losses.items():
        if of.startswith(kind):
            for step, pair in enumerate(entry["losses"]):
                assert pair == pytest.approx(expected["losses"][step], rel=tolerance), (
                    world,
                    of,
                    step,
                )
            assert entry["weights"] == pytest.approx(expected["weights"], rel=tolerance / 10), (
                world,
                of,
            )


def killed(folder, stage, *points):
    done = run(sys.executable, str(HERE / "killed.py"), str(folder), str(stage), *points)
    return dict(
        line.split(" ", 1) for line in done.stdout.splitlines() if line.split(" ")[0] in points
    ), done.stderr


@pytest.mark.parametrize(
    "stage, points",
    [
        (
            0,
            [
                "step:1",
                "step:4",
                "best:1",
                "best:2",
                "files:1",
                "files:2",
                "state:1",
                "state:3",
                "finish:1",
            ],
        ),
        (3, ["step:4", "files:2"]),
        ("3:lora", ["step:4"]),
    ],
)
def test_killed_anywhere_it_ends_with_the_same_bytes(tmp_path, stage, points):
    ends, stderr = killed(tmp_path, stage, "never", *points)
    assert ends == {"never": "0 0", **dict.fromkeys(points, f"{-signal.SIGKILL} 0")}, stderr[-3000:]
    folders = sorted(p for p in tmp_path.iterdir() if p.is_dir())
    assert len(folders) == len(points) + 1
    for folder in folders:
        assert sorted(p.name for p in folder.iterdir()) == [
            "model",
            "training.json",
            "training.jsonl",
        ], folder
        for name in ("model/model.safetensors", "training.jsonl"):
            assert (folder / name).read_bytes() == (folders[0] / name).read_bytes(), (folder, name)


def test_a_state_that_is_cut_off(tmp_path):
    import tiny

    from core.errors import InputError
    from training import engine

    engine.start()
    s, folder = tiny.settings(tmp_path), tmp_path / "t"
    folder.mkdir()
    loop = tiny.loop(s, folder)
    loop.step(0)
    loop.evaluate(1)
    (state,) = (folder / "state").glob("step-1/mp_rank_00_model_states.pt")
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(InputError, match="step-1: cannot be read: remove .*/t to train anew"):
        tiny.loop(s, folder)
