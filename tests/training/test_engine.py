import json

import pytest

from core.errors import InputError
from training import engine


def test_the_rankers_settings_decide(tmp_path):
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 1}}))
    made = engine.settings(tmp_path / "ds.json", 8, 2, 1.0, "bf16")
    assert (
        made["zero_optimization"] == {"stage": 1}
        and made["bf16"] == {"enabled": True}
        and made["managed_gradient_accumulation"] is False
    )
    assert (
        made["train_micro_batch_size_per_gpu"],
        made["gradient_accumulation_steps"],
        made["gradient_clipping"],
    ) == (8, 2, 1.0)


def test_errors(tmp_path):
    with pytest.raises(
        InputError, match="no such DeepSpeed configuration; configs/deepspeed/ holds"
    ):
        engine.settings(tmp_path / "none.json", 1, 1, 1.0, "fp32")
    (tmp_path / "ds.json").write_text('{"optimizer": {}, "train_batch_size": 3}')
    with pytest.raises(
        InputError, match="sets optimizer, train_batch_size, which the ranker's settings decide"
    ):
        engine.settings(tmp_path / "ds.json", 1, 1, 1.0, "fp32")


def test_precision_on_a_cpu(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert engine.precision("auto") == "fp32" and engine.precision("bf16") == "bf16"
    with pytest.raises(InputError, match="found fp16, expected fp32 or bf16"):
        engine.precision("fp16")


@pytest.mark.parametrize(
    "avx512, amx, expected", [(True, False, "bf16"), (False, True, "bf16"), (False, False, "fp32")]
)
def test_half_on_a_cpu_follows_the_processor(monkeypatch, avx512, amx, expected):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert engine.precision("half") == expected and engine.precision("auto") == "fp32"
