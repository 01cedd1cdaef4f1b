"""Gathering with gradient: two processes against one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import toy

from training import engine

ROOT = Path(__file__).parents[2]


def test_two_processes_have_the_gradients_of_one(tmp_path):
    environment = {
        k: v
        for k, v in os.environ.items()
        if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    }
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, "--nproc-per-node", "2", toy.__file__, str(tmp_path / "two.json")],
        capture_output=True,
        text=True,
        env={**environment, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    world, every, gradients = json.loads((tmp_path / "two.json").read_text())
    assert world == 2

    engine.start()
    expected_rows, expected = toy.gathered_gradients()
    assert every == expected_rows
    for two, one in zip(gradients, expected, strict=True):
        assert two == pytest.approx(one, rel=1e-6)
    # by hand, without torch's autograd: d/dx_k of sum w_i (x_i · x_j)² is
    # 2 sum over j of (w_k + w_j)(x_k · x_j) x_j
    rows = [[(3 * i + j) / 10 for j in range(3)] for i in range(4)]
    for k, row in enumerate(rows):
        by_hand = [0.0, 0.0, 0.0]
        for j, other in enumerate(rows):
            dot = sum(a * b for a, b in zip(row, other, strict=True))
            for axis in range(3):
                by_hand[axis] += 2 * (k + 1 + j + 1) * dot * other[axis]
        assert gradients[k] == pytest.approx(by_hand, rel=1e-5)
