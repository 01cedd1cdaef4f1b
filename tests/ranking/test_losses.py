"""Losses by hand, against plain torch on whole groups, and with groups of unequal size."""

import math

import pytest
import torch

from ranking.losses import (
    LOSSES,
    Groups,
    binary_cross_entropy,
    kl_divergence,
    listwise_softmax,
    margin_mse,
    pairwise_logistic,
)

LOGITS = torch.tensor(
    [[[2.0, 0.0, 1.0], [0.5, -1.0, 9.0]]]
)  # one sample, two groups; the last of the second is not there
G = Groups(
    torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]),
    torch.tensor([[1.0, 1, 1], [1, 1, 0]]),
    torch.tensor([[4.0, 1.0, 0.0], [2.0, 2.0, 7.0]]),
)


def softplus(x):
    return math.log1p(math.exp(x))


def test_pairs_by_themselves():
    logits, labels = torch.tensor([[[0.0], [2.0]], [[0.0], [-2.0]]]), torch.tensor([[1.0], [0.25]])

    def soft(x, y):
        p = 1 / (1 + math.exp(-x))
        return -(y * math.log(p) + (1 - y) * math.log(1 - p))

    g = Groups(labels, torch.ones(2, 1))
    assert float(binary_cross_entropy(logits, g)) == pytest.approx(
        (2 * soft(0.0, 1.0) + soft(2.0, 0.25) + soft(-2.0, 0.25)) / 4, rel=1e-5
    )
    assert float(
        binary_cross_entropy(
            logits[:, :1], Groups(labels[:1], torch.ones(1, 1), positive_weight=3.0)
        )
    ) == pytest.approx(3 * soft(0.0, 1.0), rel=1e-5)


def test_listwise_is_localized_contrastive_estimation():
    first = -math.log(math.exp(2) / (math.exp(2) + 1 + math.exp(1)))
    second = -math.log(math.exp(0.5) / (math.exp(0.5) + math.exp(-1)))
    assert float(listwise_softmax(LOGITS, G)) == pytest.approx((first + second) / 2, rel=1e-5)


def test_listwise_with_soft_labels_is_torchs_cross_entropy():
    logits, labels = (
        torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)),
        torch.rand(4, 5, generator=torch.Generator().manual_seed(1)),
    )
    target = labels / labels.sum(1, keepdim=True)
    expected = torch.stack(
        [torch.nn.functional.cross_entropy(sample, target) for sample in logits]
    ).mean()
    assert torch.allclose(listwise_softmax(logits, Groups(labels, torch.ones(4, 5))), expected)


def test_pairwise_over_pairs_of_unequal_labels():
    assert float(pairwise_logistic(LOGITS, G)) == pytest.approx(
        ((softplus(-2) + softplus(-1)) / 2 + softplus(-1.5)) / 2, rel=1e-5
    )


def test_margins_follow_the_teacher():
    assert float(margin_mse(LOGITS, G)) == pytest.approx(
        (((2 - 3) ** 2 + (1 - 4) ** 2) / 2 + (1.5 - 0) ** 2) / 2, rel=1e-5
    )


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distributions_follow_the_teacher(temperature):
    def softmax(values):
        powers = [math.exp(v / temperature) for v in values]
        return [p / sum(powers) for p in powers]

    def kl(teacher, own):
        return temperature**2 * sum(
            t * math.log(t / o) for t, o in zip(softmax(teacher), softmax(own), strict=True)
        )

    expected = (kl([4, 1, 0], [2, 0, 1]) + kl([2, 2], [0.5, -1])) / 2
    assert float(kl_divergence(LOGITS, G._replace(temperature=temperature))) == pytest.approx(
        expected, rel=1e-5
    )
    assert float(kl_divergence(G.teacher.unsqueeze(0), G)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_not_there_has_no_gradient_and_says_nothing(name):
    logits = LOGITS.clone().requires_grad_()
    value = LOSSES[name](logits, G)
    value.backward()
    assert (
        logits.grad[0, 1, 2] == 0
        and logits.grad[0, 0].abs().sum() > 0
        and torch.isfinite(logits.grad).all()
    )
    other = LOGITS.clone()
    other[0, 1, 2] = -40.0
    assert LOSSES[name](other, G) == value


@pytest.mark.parametrize("name", [n for n in LOSSES if n != "binary_cross_entropy"])
def test_only_differences_count(name):
    assert torch.allclose(LOSSES[name](LOGITS + 5, G), LOSSES[name](LOGITS, G), atol=1e-5)
