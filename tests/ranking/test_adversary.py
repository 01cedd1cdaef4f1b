"""The Fast Gradient Method under DeepSpeed: the case that a usual snippet gets wrong in silence."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.errors import InputError
from ranking.adversary import FGM
from training import engine

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("oracle", Path(__file__).with_name("oracle.py"))
oracle = importlib.util.module_from_spec(spec)
spec.loader.exec_module(oracle)


@pytest.mark.parametrize(
    "stage, norm, frozen",
    [
        (0, "example", False),
        (0, "batch", False),
        (0, "example", True),
        (1, "example", False),
        (1, "example", True),
        (2, "example", False),
        (2, "batch", True),
        (3, "example", False),
        (3, "example", True),
    ],
)
def test_one_process_equals_plain_torch(stage, norm, frozen, tmp_path):
    engine.start()
    assert oracle.difference(stage, norm, frozen, tmp_path) < 1e-6


def test_two_processes_equal_plain_torch():
    environment = {
        k: v
        for k, v in os.environ.items()
        if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    }
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(Path(__file__).with_name("oracle.py")),
    ]
    out = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    found = dict(re.findall(r"stage (\d) difference (\S+)", out.stdout))
    assert set(found) == {"0", "1", "2", "3"}, out.stderr[-2000:]
    assert all(float(value) < 1e-6 for value in found.values()), found


def test_delta_by_hand():
    fgm = FGM(torch.nn.Embedding(2, 2), 0.5, "example")
    fgm.gradient = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]])
    assert torch.equal(fgm.delta(), torch.tensor([[[0.3, 0.4]], [[0.0, 0.0]]])), (
        "an example without a gradient is left as it is"
    )
    fgm.norm = "batch"
    fgm.gradient = torch.tensor([[[3.0, 0.0]], [[0.0, 4.0]]])
    assert torch.allclose(fgm.delta(), torch.tensor([[[0.3, 0.0]], [[0.0, 0.4]]]))


def test_refuses_to_go_on_when_nothing_fires(tiny_body):
    fgm = FGM(tiny_body.get_input_embeddings(), 1.0, "example")
    with (
        pytest.raises(InputError, match="FGM: no gradient reached the input embeddings"),
        fgm.perturb(),
    ):
        pass
    ids = torch.ones(2, 5, dtype=torch.long)
    with fgm.watch():
        tiny_body(input_ids=ids).logits.sum().backward()
    with (
        pytest.raises(InputError, match="FGM: the model did not pass through its input embeddings"),
        fgm.perturb(),
    ):
        tiny_body(inputs_embeds=torch.zeros(2, 5, 16))


def test_the_hooks_are_gone_afterwards(tiny_body):
    embedding, ids = tiny_body.get_input_embeddings(), torch.ones(2, 5, dtype=torch.long)
    before = tiny_body(input_ids=ids).logits
    fgm = FGM(embedding, 5.0, "example")
    with fgm.watch():
        tiny_body(input_ids=ids).logits.sum().backward()
    with fgm.perturb():
        perturbed = tiny_body(input_ids=ids).logits
    assert (
        torch.equal(tiny_body(input_ids=ids).logits, before)
        and not torch.allclose(perturbed, before)
        and not embedding._forward_hooks
    )
