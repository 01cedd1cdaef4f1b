"""What only whole processes show.

The gradients of plain torch however the work is divided, and the same bytes whatever was killed.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in LAUNCHED},
    "PYTHONPATH": f"{HERE.parents[2]}:{HERE}",
    "PYTHONWARNINGS": "ignore",
}


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.parametrize("world", [1, 2])
def test_the_weights_of_plain_torch_for_every_division_of_the_work(world):
    """Two negatives a query; ZeRO 0 to 3; one body and two; plain and with gradient caching."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    done = run(sys.executable, *(launcher if world > 1 else []), str(HERE / "alike.py"))
    cases = {}
    for line in done.stdout.splitlines():
        words = line.split()
        if len(words) == 5 and words[2] in ("shuffled", "by_language"):
            cases[" ".join(words[:3])] = (float(words[3]), float(words[4]))
    assert len(cases) == 12, done.stdout
    for case, (difference, moved) in cases.items():
        assert moved > 0.2 and difference < 5e-6, case


@pytest.mark.parametrize(
    "stage, points",
    [
        (0, ["step:4", "best:2", "files:1", "state:3", "finish:1"]),
        (3, ["step:4"]),
    ],
)
def test_killed_anywhere_it_ends_with_the_same_bytes(tmp_path, stage, points):
    done = run(
        sys.executable, str(HERE / "stopped.py"), str(tmp_path), str(stage), "never", *points
    )
    ends = {}
    for line in done.stdout.splitlines():
        point, _, codes = line.partition(" ")
        if point in ("never", *points):
            ends[point] = codes
    killed = f"{-signal.SIGKILL} 0"
    assert ends == {"never": "0 0", **dict.fromkeys(points, killed)}, done.stderr[-3000:]
    folders = sorted(tmp_path.glob("[0-9]*"))
    assert len(folders) == len(points) + 1
    for folder in folders:
        names = sorted(path.name for path in folder.iterdir())
        assert names == ["model", "training.json", "training.jsonl"], folder
        for name in ("model/model.safetensors", "training.jsonl"):
            assert (folder / name).read_bytes() == (folders[0] / name).read_bytes(), (folder, name)
