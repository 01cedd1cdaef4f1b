"""Packed forward passes beside the padded ones of plain transformers."""

import copy

import pytest
import tiny
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    RobertaConfig,
    XLMRobertaConfig,
)

from core import distributed
from ranking.adversary import FGM
from ranking.model import CrossEncoder
from ranking.packed import can_pack, pack
from training import engine
from training.loop import Loop

SIZES = dict(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    num_labels=1,
    pad_token_id=1,
    initializer_range=0.2,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
CONFIGS = {
    "bert": BertConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES),
    "xlm-roberta": XLMRobertaConfig(**SIZES),
}
LENGTHS = (9, 3, 1, 6, 9)
LABELS = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])


def inputs(lengths=LENGTHS):
    ids = torch.randint(3, 50, (len(lengths), 9), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    return {"input_ids": ids.where(mask, 1), "attention_mask": mask.long()}


def both(kind="bert", attention="eager"):
    """One model, padded and packed."""
    torch.manual_seed(0)
    padded = AutoModelForSequenceClassification.from_config(
        CONFIGS[kind], attn_implementation=attention
    ).train()
    packed = copy.deepcopy(padded)
    assert can_pack(packed)
    pack(packed)
    return padded, packed


def loss_of(logits):
    return torch.nn.functional.binary_cross_entropy_with_logits(
        logits, LABELS.expand_as(logits), reduction="sum"
    )


def assert_alike(padded, packed):
    """In the gradients that their backward passes left."""
    found = dict(packed.named_parameters())
    for name, parameter in padded.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            torch.testing.assert_close(found[name].grad, parameter.grad, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_logits_and_gradients_are_those_of_the_padded_pass(kind, attention):
    padded, packed = both(kind, attention)
    expected = padded(**inputs()).logits[:, 0]
    found = packed(**inputs()).logits[:, 0]
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    loss_of(expected).backward()
    loss_of(found).backward()
    assert_alike(padded, packed)


@pytest.mark.parametrize("lengths", [(9, 9), (1, 1), (9,)])
def test_batches_without_padding(lengths):
    padded, packed = both()
    batch = inputs(lengths)
    torch.testing.assert_close(packed(**batch).logits, padded(**batch).logits)
    ids = batch["input_ids"]
    torch.testing.assert_close(packed(input_ids=ids).logits, padded(input_ids=ids).logits)


def test_recomputed_activations():
    padded, packed = both()
    packed.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    loss_of(padded(**inputs()).logits[:, 0]).backward()
    loss_of(packed(**inputs()).logits[:, 0]).backward()
    assert_alike(padded, packed)


@pytest.mark.parametrize("norm", ["example", "batch"])
@pytest.mark.parametrize("frozen", [False, True])
def test_samples_of_dropout_and_adversarial_steps(norm, frozen):
    """The head draws what it draws of the padded pass, and the perturbation is pair by pair."""
    logits = []
    bodies = both("xlm-roberta")
    for body in bodies:
        model = CrossEncoder(body, [0.1, 0.5]).train()
        embedding = body.get_input_embeddings()
        embedding.requires_grad_(not frozen)
        fgm = FGM(embedding, 0.5, norm)
        torch.manual_seed(3)
        with fgm.watch():
            clean = model(**inputs())
            loss_of(clean).backward()
        with fgm.perturb():
            adversarial = model(**inputs())
            loss_of(adversarial).backward()
        logits.append(torch.stack([clean, adversarial]))
    assert (logits[0][0] - logits[0][1]).abs().max() > 0.01
    torch.testing.assert_close(logits[1], logits[0], atol=1e-5, rtol=0)
    assert_alike(*bodies)


def test_layers_see_no_padding_and_the_last_one_a_token_a_pair():
    _, packed = both()
    shapes = []

    def note(_module, given):
        shapes.append(tuple(given[0].shape))

    for layer in packed.bert.encoder.layer:
        layer.attention.self.register_forward_pre_hook(note)
        layer.intermediate.register_forward_pre_hook(note)
    packed(**inputs())
    tokens = (1, sum(LENGTHS), 16)
    assert shapes == [tokens, tokens, tokens, (1, len(LENGTHS), 16)]


def test_in_bf16_the_logits_differ_by_rounding():
    padded, packed = both()
    expected = padded(**inputs()).logits
    rough = packed.bfloat16()(**inputs()).logits
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - expected).abs().max() < 0.1 * expected.std()


def test_which_models_are_packed(monkeypatch):
    def made(config, **more):
        return AutoModelForSequenceClassification.from_config(config, **more)

    def with_dropout(name):
        config = copy.deepcopy(CONFIGS["bert"])
        setattr(config, name, 0.1)
        return made(config)

    assert can_pack(made(CONFIGS["bert"]))
    assert can_pack(with_dropout("classifier_dropout")), "the head draws the same either way"
    assert not can_pack(with_dropout("hidden_dropout_prob"))
    assert not can_pack(with_dropout("attention_probs_dropout_prob"))
    assert not can_pack(made(DebertaV2Config(**SIZES)))
    monkeypatch.setattr("ranking.packed.device", lambda: "cuda")
    assert not can_pack(made(CONFIGS["bert"]))


def test_what_is_saved_is_the_plain_model(tmp_path):
    padded, packed = both()
    packed.save_pretrained(tmp_path)
    saved = AutoConfig.from_pretrained(tmp_path)
    assert saved.to_dict() == {**padded.config.to_dict(), "dtype": "float32"} | {
        "architectures": ["BertForSequenceClassification"],
        "_name_or_path": str(tmp_path),
    }
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).train()
    expected = padded(**inputs()).logits
    torch.testing.assert_close(again(**inputs()).logits, expected)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_training_comes_to_the_weights_of_the_padded_one(tmp_path, stage):
    """Six steps with FGM under DeepSpeed, the pairs of unequal lengths."""
    engine.start()
    assert distributed.world_size() == 1
    weights = []
    for name in ("padded", "packed"):
        folder = tmp_path / name
        folder.mkdir()
        settings = tiny.settings(folder, stage, evaluate_every=6, learning_rate=1e-3)
        learner = tiny.learner(settings, dropout=0.0)
        body = learner.model.body
        if name == "packed":
            pack(body)
        Loop(learner, settings, folder).run()
        saved = AutoModelForSequenceClassification.from_pretrained(folder / "model")
        weights.append(saved.state_dict())
    start = tiny.body(0.0).state_dict()
    for name, expected in weights[0].items():
        if "key.bias" in name:  # its gradient is rounding alone, which Adam makes large
            continue
        torch.testing.assert_close(weights[1][name], expected, atol=2e-5, rtol=0)
    assert not torch.equal(weights[0]["classifier.weight"], start["classifier.weight"])
