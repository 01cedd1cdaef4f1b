import subprocess
import sys
from pathlib import Path

import pytest

from core.compiled import compiled, converted, package
from core.errors import InputError


def test_the_same_numbers_as_torch_for_any_shape(tiny_body):
    import torch

    forward = compiled(converted(tiny_body.eval(), ["input_ids", "attention_mask"]))
    for rows, tokens in ((1, 3), (4, 9), (2, 40)):
        ids = torch.randint(0, 50, (rows, tokens), generator=torch.Generator().manual_seed(0))
        mask = torch.ones_like(ids)
        mask[0, tokens // 2 + 1 :] = 0
        with torch.inference_mode():
            assert torch.allclose(
                forward({"input_ids": ids, "attention_mask": mask}),
                tiny_body(input_ids=ids, attention_mask=mask).logits,
                atol=1e-5,
            )


def test_nothing_is_reported_to_anybody():
    code = (
        "import sys; from core.compiled import package; package('openvino'), package('nncf'); "
        "print(sys.modules['openvino_telemetry'])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        == "None"
    )


def test_a_package_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(
        InputError,
        match="openvino and int8 need the package nncf; install requirements.txt, "
        "or set backend=torch",
    ):
        package("nncf")
