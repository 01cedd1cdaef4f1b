"""Number formats of the back ends: the head's last product is in fp32 in each."""

import json

import pytest
import torch

from core import backbones
from core.errors import InputError
from ranking import backends

PAIRS = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import small

    return small.write(tmp_path_factory.mktemp("backends"))


@pytest.fixture(scope="module")
def inputs():
    ids = torch.randint(3, 130, (PAIRS, 12), generator=torch.Generator().manual_seed(0))
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_logits_in_bf16_are_as_fine_as_in_fp32(folder, inputs, name):
    """200 pairs, 200 values: with a last product in bf16 many pairs would share theirs."""
    exact, _, _ = backends.BACKENDS[name](folder, "fp32")
    rough, _, _ = backends.BACKENDS[name](folder, "bf16")
    with torch.inference_mode():
        expected, logits = exact(inputs), rough(inputs)
    assert logits.dtype == torch.float32
    assert len(expected.unique()) == PAIRS
    assert len(logits.unique()) == PAIRS
    assert not torch.equal(logits, expected), "all but the last product is in bf16"
    assert (logits - expected).abs().max() < 0.1 * expected.std()


@pytest.mark.parametrize("number_format, attention", [("fp32", "sdpa"), ("bf16", "eager")])
def test_which_attention_learns_on_a_cpu_and_which_scores(folder, number_format, attention):
    learning = backbones.load_cross_encoder(str(folder), number_format=number_format)
    scoring = backends.load_model(folder, number_format)
    assert learning.config._attn_implementation == attention
    assert scoring.config._attn_implementation == "sdpa"
    asked = backbones.load_cross_encoder(str(folder), None, "sdpa", number_format)
    assert asked.config._attn_implementation == "sdpa"


def test_on_a_gpu_transformers_chooses_the_attention(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert backbones.attention_of("bf16") == {}


def test_fp32_is_the_plain_model_to_the_last_bit(folder, inputs):
    from transformers import AutoModelForSequenceClassification

    plain = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    forward, _, known_as = backends.torch_backend(folder, "fp32")
    with torch.inference_mode():
        assert torch.equal(forward(inputs), plain(**inputs).logits[:, 0])
    assert known_as == "fp32", "scores of before are used on"


def test_a_head_that_is_not_known_in_bf16(tmp_path):
    from transformers import AutoModelForSequenceClassification, DistilBertConfig

    config = DistilBertConfig(
        vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=32, num_labels=2
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    message = "no scoring in bf16 for the architecture 'distilbert': found 0 linear layers"
    with pytest.raises(InputError, match=message):
        backends.torch_backend(tmp_path, "bf16")


@pytest.mark.parametrize(
    "model_type, bears", [("deberta-v2", False), ("bert", True), ("xlm-roberta", True)]
)
def test_what_bears_fp16(tmp_path, model_type, bears):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert backends.bears_half(tmp_path) is bears


@pytest.mark.parametrize(
    "native, half, expected", [(True, True, "bf16"), (False, True, "fp16"), (False, False, "fp32")]
)
def test_bf16_that_a_gpu_only_emulates_is_not_chosen(monkeypatch, native, half, expected):
    """As of a T4, which torch calls able of bf16 when emulation counts."""
    from training.engine import precision

    def is_bf16_supported(including_emulation=True):
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert precision("auto", half) == expected
