"""Momentum encoder and queue on two processes, at every way of dividing the weights."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def test_the_weights_of_plain_torch_on_two_processes():
    """A queue of ten that goes round in the third batch of four; plain and gradient caching."""
    environment = {
        **{name: value for name, value in os.environ.items() if name not in LAUNCHED},
        "PYTHONPATH": f"{HERE.parents[3]}:{HERE.parent}",
        "PYTHONWARNINGS": "ignore",
    }
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, str(HERE / "moco.py"), "0", "2", "3"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    cases = [line.split() for line in done.stdout.splitlines() if line.startswith("moco ")]
    assert [(stage, cached) for _, stage, cached, *_ in cases] == [
        (stage, cached) for stage in ("0", "2", "3") for cached in ("False", "True")
    ]
    for _, stage, cached, model, keys, moved in cases:
        assert float(moved) > 0.1, (stage, cached)
        assert float(model) < 5e-6 and float(keys) < 5e-6, (stage, cached)
