"""Losses on logits [samples, pairs] and labels [pairs]."""
import torch
from torch.nn.functional import binary_cross_entropy_with_logits


def binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, positive_weight: float = 1.0) -> torch.Tensor:
    """Mean over dropout samples and pairs; labels may be soft. ``positive_weight`` weighs the positive part of the loss."""
    weight = None if positive_weight == 1.0 else torch.tensor(positive_weight, device=logits.device)
    return binary_cross_entropy_with_logits(logits.float(), labels.float().expand_as(logits), pos_weight=weight)
