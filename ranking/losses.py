"""Losses of a cross-encoder. LOSSES is the table.

Each takes logits [samples, groups, size] (the samples of multi-sample dropout) and the Groups that
they belong to, and gives the mean over samples and groups.
"""

import math
from typing import NamedTuple

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax, softplus


class Groups(NamedTuple):
    """A row a group, the passages of one query: fp32 [groups, size].

    ``mask`` is 0 where a group has fewer. ``teacher``: its logits.
    """

    labels: torch.Tensor
    mask: torch.Tensor
    teacher: torch.Tensor | None = None
    temperature: float = 1.0
    positive_weight: float = 1.0


def mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Over a group's own entries, then over samples and groups.

    ``values`` [samples, groups, …], ``mask`` [groups, …].
    """
    values, mask = values.flatten(2), mask.flatten(1)
    return ((values * mask).sum(2) / mask.sum(1).clamp_min(1)).mean()


def binary_cross_entropy(logits: torch.Tensor, g: Groups) -> torch.Tensor:
    """The paper's: each pair by itself, labels may be soft.

    ``positive_weight`` weighs the positive part.
    """
    weight = None
    if g.positive_weight != 1.0:
        weight = torch.tensor(g.positive_weight, device=logits.device)
    return mean(
        binary_cross_entropy_with_logits(
            logits, g.labels.expand_as(logits), pos_weight=weight, reduction="none"
        ),
        g.mask,
    )


def listwise_softmax(logits: torch.Tensor, g: Groups) -> torch.Tensor:
    """Cross-entropy of the labels, made to sum to one, against the softmax over a group.

    With one relevant passage a group this is localized contrastive estimation (Gao et al. 2021,
    Rethink training of BERT rerankers).
    """
    target = g.labels / g.labels.sum(1, keepdim=True).clamp_min(1e-9)
    return -(target * log_softmax(masked(logits, g.mask), 2)).sum(2).mean()


def pairwise_logistic(logits: torch.Tensor, g: Groups) -> torch.Tensor:
    """log(1 + exp(s_j − s_i)) over the pairs of a group where label i is above label j.

    RankNet, Burges et al. 2005.
    """
    return mean(softplus(-differences(logits)), above(g))


MU = 10.0
"""Of NDCG-Loss2++: how much more the gap between two ranks counts than the ranks themselves."""


def lambda_loss(logits: torch.Tensor, g: Groups) -> torch.Tensor:
    """RankNet, each pair weighed by what it matters to nDCG: NDCG-Loss2++ of Wang et al. 2018.

    The LambdaLoss framework for ranking metric optimization. A pair where label i is above label j
    costs log2(1 + exp(s_j − s_i)), times |G_i − G_j|, times
    |d(r_i) − d(r_j)| + MU·(d(n) − d(n + 1)) with n = |r_i − r_j|. G: 2^label − 1 in parts of the
    group's best DCG; r: the rank that the logits give now, of equal ones the first in the group
    above; d: the discount at a rank. There is no cut-off, and sigma is 1.

    That is sentence-transformers' LambdaLoss without settings, but for one thing: it takes the mean
    over all pairs of a batch, this over a group's own, so that batches can be divided.
    """
    best_first = masked(logits.detach(), g.mask).argsort(dim=2, descending=True, stable=True)
    rank = best_first.argsort(dim=2) + 1  # [samples, groups, size], from 1
    by_discount = differences(discount(rank)).abs()
    gap = differences(rank).abs().clamp_min(1)  # 0 between a passage and itself, which is no pair
    by_gap = discount(gap) - discount(gap + 1)
    by_gain = differences(gains(g)).abs()
    weights = (by_discount + MU * by_gap) * by_gain
    return mean(weights * softplus(-differences(logits)) / math.log(2), above(g))


def discount(rank: torch.Tensor) -> torch.Tensor:
    """What a gain counts at a rank, from 1, in DCG."""
    return 1 / torch.log2(1.0 + rank)


def gains(g: Groups) -> torch.Tensor:
    """2^label − 1, divided by the group's best DCG: [groups, size], 0 where none is there."""
    gain = (torch.exp2(g.labels) - 1) * g.mask
    rank = torch.arange(1, gain.shape[1] + 1, device=gain.device)
    best_first = gain.sort(1, descending=True).values
    best = (best_first * discount(rank)).sum(1, keepdim=True)
    return gain / best.clamp_min(1e-9)


def list_mle(logits: torch.Tensor, g: Groups) -> torch.Tensor:
    """−log likelihood of the labels' order, by position: p-ListMLE of Lan et al. 2014.

    The passage at place i, from 1, is drawn from those that are left, by the softmax of their
    logits; its logarithm is weighed by 2^(n − i) − 1, made to sum to one over the n passages of
    the group. Equal labels stand in the order of the group, so that is learnt, too.

    sentence-transformers' PListMLELoss on passages in order of their labels.
    """
    best_first = masked(g.labels, g.mask).argsort(dim=1, descending=True, stable=True)
    left = masked(logits, g.mask).gather(2, best_first.expand_as(logits))
    log_total = left.flip(2).logcumsumexp(2).flip(2)  # over a place and all below
    place = torch.arange(1, left.shape[2] + 1, device=left.device)
    count = g.mask.sum(1, keepdim=True)
    # 2^-n times the paper's, which would overflow in groups of 128
    weights = (torch.exp2(-place) - torch.exp2(-count)).clamp_min(0)
    weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-9)
    return -(weights * (left - log_total)).sum(2).mean()


def margin_mse(logits: torch.Tensor, g: Groups) -> torch.Tensor:
    """Squared difference of the margins s_i − s_j to the teacher's (Hofstätter et al. 2020).

    Over the pairs of a group where label i is above label j.
    """
    assert g.teacher is not None
    return mean((differences(logits) - differences(g.teacher)).square(), above(g))


def kl_divergence(logits: torch.Tensor, g: Groups) -> torch.Tensor:
    """KL(teacher ‖ ranker) of the softmaxes over a group at a temperature, times its square.

    Hinton et al. 2015.
    """
    assert g.teacher is not None
    teacher = log_softmax(masked(g.teacher, g.mask) / g.temperature, -1)
    own = log_softmax(masked(logits, g.mask) / g.temperature, -1)
    return g.temperature**2 * (teacher.exp() * (teacher - own) * g.mask).sum(2).mean()


def masked(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """So low outside the group that the softmax is 0 there.

    And finite, so that 0 times its logarithm is 0.
    """
    return logits.masked_fill(mask == 0, -1e9)


def differences(scores: torch.Tensor) -> torch.Tensor:
    """[…, i, j] = s_i − s_j."""
    return scores.unsqueeze(-1) - scores.unsqueeze(-2)


def above(g: Groups) -> torch.Tensor:
    """[groups, i, j]: 1 where both are there and label i is above label j."""
    return (differences(g.labels) > 0) * g.mask.unsqueeze(-1) * g.mask.unsqueeze(-2)


LOSSES = {
    loss.__name__: loss
    for loss in (
        binary_cross_entropy,
        listwise_softmax,
        pairwise_logistic,
        lambda_loss,
        list_mle,
        margin_mse,
        kl_divergence,
    )
}
