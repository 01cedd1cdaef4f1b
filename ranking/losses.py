"""Losses of a cross-encoder. LOSSES is the table.

Each takes logits [samples, groups, size] (the samples of multi-sample dropout) and the Groups that
they belong to, and gives the mean over samples and groups.
"""

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
        margin_mse,
        kl_divergence,
    )
}
