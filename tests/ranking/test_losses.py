"""Losses by hand, against plain torch on whole groups, and with groups of unequal size."""

import math
from typing import get_args

import pytest
import torch

from core.settings import Ranker
from ranking.losses import (
    LOSSES,
    Groups,
    binary_cross_entropy,
    kl_divergence,
    lambda_loss,
    list_mle,
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


def test_the_setting_knows_every_loss():
    assert set(get_args(Ranker.model_fields["loss"].annotation)) == set(LOSSES)


# ---- LambdaLoss and ListMLE by position


def dcg(rank):
    """What a gain counts at a rank."""
    return 1 / math.log2(1 + rank)


def test_lambda_loss_by_hand():
    """First group: relevant at rank 1, others at 3 and 2. Second: relevant at 1, another at 2."""

    def pair(rank, other, logit_difference):
        by_discount = abs(dcg(rank) - dcg(other))
        gap = abs(rank - other)
        weight = by_discount + 10 * (dcg(gap) - dcg(gap + 1))  # the gain is 1, the best DCG, too
        return weight * softplus(-logit_difference) / math.log(2)

    first = (pair(1, 3, 2.0) + pair(1, 2, 1.0)) / 2
    assert float(lambda_loss(LOGITS, G)) == pytest.approx((first + pair(1, 2, 1.5)) / 2, rel=1e-5)


def test_lambda_loss_with_graded_labels_by_hand():
    """Logits turn the labels 1, .5, 0 round; three pairs, gains 1 and sqrt(2) - 1."""
    half = math.sqrt(2) - 1
    best = 1 + half * dcg(2)

    def pair(gain, rank, other):
        gap = abs(rank - other)
        weight = abs(dcg(rank) - dcg(other)) + 10 * (dcg(gap) - dcg(gap + 1))
        return gain / best * weight * softplus(gap) / math.log(2)

    expected = (pair(1 - half, 3, 2) + pair(1, 3, 1) + pair(half, 2, 1)) / 3
    g = Groups(torch.tensor([[1.0, 0.5, 0.0]]), torch.ones(1, 3))
    assert float(lambda_loss(torch.tensor([[[-1.0, 0.0, 1.0]]]), g)) == pytest.approx(expected)


def test_list_mle_by_hand():
    """Weights of places 1, 2, 3: 3, 1, 0 of 4; of places 1, 2: 1, 0 of 1."""
    total = math.exp(2) + 1 + math.exp(1)
    first = 3 / 4 * (math.log(total) - 2) + 1 / 4 * (math.log(1 + math.exp(1)) - 0)
    second = math.log(math.exp(0.5) + math.exp(-1)) - 0.5
    assert float(list_mle(LOGITS, G)) == pytest.approx((first + second) / 2, rel=1e-5)


def test_list_mle_takes_equal_labels_in_the_order_of_the_group():
    def of(logits, labels):
        g = Groups(torch.tensor([labels]), torch.ones(1, 3))
        return list_mle(torch.tensor([[logits]]), g)

    assert of([2.0, 0.0, 1.0], [1.0, 0.0, 0.0]) == of([0.0, 2.0, 1.0], [0.0, 1.0, 0.0])
    assert of([2.0, 0.0, 1.0], [1.0, 0.0, 0.0]) > of([2.0, 1.0, 0.0], [1.0, 0.0, 0.0])


def test_list_mle_of_a_long_group_is_finite():
    """2^(n - 1) is none in fp32 for more than 128; the weights halve from place to place."""
    count = 300
    logits = torch.zeros(1, 1, count, requires_grad=True)
    labels = torch.arange(count, 0.0, -1.0)[None] / count
    loss = list_mle(logits, Groups(labels, torch.ones(1, count)))
    loss.backward()
    expected = sum(math.log(count - place) / 2 ** (place + 1) for place in range(100))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert torch.isfinite(logits.grad).all() and logits.grad[0, 0, 0] < -0.4


class Echo(torch.nn.Module):
    """For sentence-transformers' CrossEncoder: a passage's text is the place of its logit."""

    num_labels, device = 1, "cpu"

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def preprocess(self, pairs, **_):
        return {"places": torch.tensor([int(passage) for _, passage in pairs])}

    def forward(self, inputs):
        return {"scores": self.logits[inputs["places"]]}


def reference(loss, logits, labels, order=lambda labels: range(len(labels))):
    """sentence-transformers' loss of one group: value and gradient by passage."""
    logits = torch.tensor(logits, requires_grad=True)
    texts = [str(place) for place in order(labels)]
    in_order = torch.tensor([labels[place] for place in order(labels)])
    value = loss(Echo(logits))([["query"], [texts]], [in_order])
    value.backward()
    return value.item(), logits.grad.tolist()


def by_label(labels):
    """Places, the highest label first; equal ones as they stand."""
    return sorted(range(len(labels)), key=lambda place: -labels[place])


GROUPS = [  # logits and labels of unequal groups, with equal labels and equal logits
    ([0.3, 1.2, -0.7, 2.5, 0.3], [1.0, 0.0, 0.0, 0.0, 0.0]),
    ([-1.0, 0.5, 0.4], [0.0, 1.0, 1.0]),
    ([0.0, 0.0, 0.0, 0.0], [0.0, 0.25, 1.0, 0.5]),
    ([30.0, -30.0], [0.0, 1.0]),
]


@pytest.fixture(scope="module")
def theirs():
    from sentence_transformers.cross_encoder import losses

    return {
        "lambda_loss": (losses.LambdaLoss, lambda labels: range(len(labels))),
        "list_mle": (losses.PListMLELoss, by_label),  # as it is, it wants passages in order
    }


@pytest.mark.parametrize("ours", [lambda_loss, list_mle])
def test_values_and_gradients_are_those_of_sentence_transformers(theirs, ours):
    """Two samples, the second with the logits halved."""
    loss, order = theirs[ours.__name__]
    size = max(len(logits) for logits, _ in GROUPS)
    logits = torch.full((2, len(GROUPS), size), 7.0)  # what is not there is not looked at
    labels = torch.zeros(len(GROUPS), size)
    mask = torch.zeros(len(GROUPS), size)
    for number, (values, of_values) in enumerate(GROUPS):
        count = len(values)
        logits[0, number, :count] = torch.tensor(values)
        logits[1, number, :count] = torch.tensor(values) / 2
        labels[number, :count] = torch.tensor(of_values)
        mask[number, :count] = 1
    logits.requires_grad_()
    value = ours(logits, Groups(labels, mask))
    value.backward()

    total = 0.0
    share = 1 / (2 * len(GROUPS))
    for sample in (0, 1):
        for number, (values, of_values) in enumerate(GROUPS):
            halved = [logit / (1 + sample) for logit in values]
            expected, gradient = reference(loss, halved, of_values, order)
            total += share * expected
            found = logits.grad[sample, number, : len(values)] / share
            assert found.tolist() == pytest.approx(gradient, rel=1e-5, abs=1e-6)
    assert value.item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("ours", [lambda_loss, list_mle])
def test_a_whole_batch_of_groups_of_one_shape_is_that_of_sentence_transformers(theirs, ours):
    """One relevant passage a group, as many others in each: then its mean over pairs is ours."""
    loss, _ = theirs[ours.__name__]
    logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(3, 8)
    labels[:, 0] = 1
    texts = [[str(8 * group + place) for place in range(8)] for group in range(3)]
    expected = loss(Echo(logits.flatten()))([["a", "b", "c"], texts], list(labels))
    found = ours(logits[None], Groups(labels, torch.ones(3, 8)))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
