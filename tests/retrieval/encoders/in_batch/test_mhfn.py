"""All parts of mHFN within a step: alike on two processes, and with gradient caching."""

import os
import subprocess
import sys
from pathlib import Path

import little
import mhfn
import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of the corpus, and the weights of one process."""
    folder = tmp_path_factory.mktemp("mhfn")
    little.corpus(folder / "texts")
    mhfn.deep.start()
    return folder, mhfn.weights(folder, cached=False)


def difference(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_two_processes_end_as_one(alone):
    folder, expected = alone
    environment = {
        **{name: value for name, value in os.environ.items() if name not in LAUNCHED},
        "PYTHONPATH": f"{HERE.parents[3]}:{HERE.parent}",
        "PYTHONWARNINGS": "ignore",
    }
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [
        sys.executable,
        *launcher,
        HERE.parent / "mhfn.py",
        folder,
        folder / "two.safetensors",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert difference(load_file(folder / "two.safetensors"), expected) < 5e-5
    body = dict(little.body().named_parameters())
    moved = [
        float((expected[f"towers.shared.{n}"] - p.detach()).abs().max()) for n, p in body.items()
    ]
    assert max(moved) > 0.1, "it learned"


def test_gradient_caching_changes_nothing(alone):
    folder, expected = alone
    assert difference(mhfn.weights(folder, cached=True), expected) < 5e-5
    assert torch.isfinite(torch.cat([weight.ravel() for weight in expected.values()])).all()
