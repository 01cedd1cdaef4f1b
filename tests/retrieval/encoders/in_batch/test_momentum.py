"""The momentum encoder: its weights by hand, no gradient, no dropout, and again from a state."""

from types import SimpleNamespace

import little
import pytest
import torch

from core.encoders import Encoder
from core.encoders import Momentum as Settings
from core.errors import InputError
from retrieval.encoder import BiEncoder
from retrieval.encoders.in_batch.momentum import Momentum


def momentum(decay):
    chosen = Encoder(momentum=Settings(decay=decay))
    return Momentum(SimpleNamespace(name="mine", settings=chosen))


def encoder(**more):
    return BiEncoder({"shared": little.body(**more)}, "mean", True)


def fill(model, value):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def values(model):
    """The one value of all weights."""
    (value,) = {parameter.unique().item() for parameter in model.parameters()}
    return value


def begin(link, step, model):
    link.begin(step, SimpleNamespace(model=model))


def test_it_follows_by_hand():
    model, link = encoder(), momentum(0.75)
    assert link.keys() is None and not link.waits(0)
    fill(model, 1.0)
    begin(link, 0, model)
    assert values(link.keys()) == 1.0
    fill(model, 3.0)
    begin(link, 1, model)
    assert values(link.keys()) == 1.5  # .75 · 1 + .25 · 3
    fill(model, 5.0)
    begin(link, 2, model)
    assert values(link.keys()) == 2.375  # .75 · 1.5 + .25 · 5
    assert values(model) == 5.0


def test_its_vectors_are_the_model_s_without_dropout_and_gradient():
    model, link = encoder(hidden_dropout_prob=0.5).train(), momentum(0.999)
    torch.manual_seed(0)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    begin(link, 0, model)
    assert torch.equal(torch.rand(1), drawn), "it takes no random numbers of the training"
    inputs = {
        "input_ids": torch.tensor([[2, 9, 17, 3], [2, 5, 3, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    }
    found = link.keys()("shared", **inputs)
    assert not found.requires_grad and not link.keys().training
    with torch.no_grad():
        assert not torch.equal(found, model("shared", **inputs))
        assert torch.equal(found, model.eval()("shared", **inputs))
    names = set(dict(link.keys().named_parameters()))
    assert names == set(dict(model.named_parameters())), "and no pooler"


def test_in_bf16_its_weights_are_kept_in_fp32():
    """A step of a thousandth is below the last bit of 1 in bf16, which is 1/128."""
    model, link = encoder().to(torch.bfloat16), momentum(0.999)
    fill(model, 1.0)
    begin(link, 0, model)
    fill(model, 2.0)
    for step in range(1, 101):
        begin(link, step, model)
    expected = 2 - 0.999**100  # 1.0952
    for name, parameter in link.keys().named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert torch.allclose(link.weights[name], torch.tensor(expected), atol=1e-5), name
        assert torch.equal(parameter, link.weights[name].to(torch.bfloat16))


def test_a_training_that_goes_on_has_the_same_bits():
    model, link = encoder(), momentum(0.9)
    begin(link, 0, model)
    for step in (1, 2):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
        if step == 2:  # what is saved after a step is from before ``begin`` of the next
            state = {name: tensor.clone() for name, tensor in link.state().items()}
        begin(link, step, model)
    again = momentum(0.9)
    again.restore(state)
    begin(again, 2, model)
    for (name, one), other in zip(
        link.keys().named_parameters(), again.keys().parameters(), strict=True
    ):
        assert torch.equal(one, other), name


def test_two_bodies_are_refused():
    bodies = {"query": little.body(1), "passage": little.body(2)}
    with pytest.raises(InputError) as error:
        begin(momentum(0.9), 0, BiEncoder(bodies, "mean", True))
    assert str(error.value) == (
        "retrieval.encoders.mine: momentum encodes passages without gradient, so a body for "
        "passages alone would never learn; set towers=shared and start from an encoder with one "
        "body, or take momentum out of in_batch"
    )
