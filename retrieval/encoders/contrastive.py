"""The contrastive loss by a mask of positives, and what is scored in a step.

A column (a passage) is a positive of a query, a negative, or neither: then it is left out of that
query's loss. So any passage that may be relevant is left out by clearing both masks.
"""

import numpy as np
import torch


def contrastive(
    scores: torch.Tensor,
    positive: torch.Tensor,
    negative: torch.Tensor,
    weights: torch.Tensor,
    count: float,
) -> torch.Tensor:
    """The sum over queries of weight times loss, divided by ``count``.

    ``scores`` [queries, columns] are divided by the temperature already; ``positive`` and
    ``negative`` are masks of the same shape; ``weights`` [queries]. A query's loss is the sum over
    its positives j of -log(exp(s_j) / (exp(s_j) + sum over its negatives of exp(s_k))): equation 9
    of mhfn-2022 with both terms where false negatives are among the positives; with one positive
    equation 2 of negative-sampling-2024. Without negatives it is 0.
    """
    lowest = torch.finfo(scores.dtype).min  # infinities would give gradients that are no numbers
    of_negatives = scores.masked_fill(~negative, lowest).logsumexp(1)
    rows, columns = positive.nonzero(as_tuple=True)
    of_positives = scores[rows, columns]
    losses = torch.logaddexp(of_positives, of_negatives[rows]) - of_positives
    return (losses * weights[rows]).sum() / count


class Scored:
    """The vectors that are scored against each other in a step, on one process.

    ``queries`` [queries, dimension] are this process's, ``passages`` [columns, dimension] those
    of all; ``ids`` int64 [columns] names the passages, -1 for a place that holds none.
    ``positive`` and ``negative`` [queries, columns] say what a column is to a query. Links of
    ``in_batch`` add columns and change the masks in place.
    """

    def __init__(
        self,
        queries: torch.Tensor,
        passages: torch.Tensor,
        ids: np.ndarray,
        positive: torch.Tensor,
        negative: torch.Tensor,
    ):
        self.queries = queries
        self.passages = passages
        self.ids = ids
        self.positive = positive
        self.negative = negative
        # columns that one query alone sees: [queries, m, dimension], with their masks
        self.own: list[torch.Tensor] = []
        self.own_negative: list[torch.Tensor] = []

    def add(self, passages: torch.Tensor, ids: np.ndarray, negative: torch.Tensor) -> None:
        """More passages for all queries; ``negative`` [queries, new columns]."""
        self.passages = torch.cat([self.passages, passages])
        self.ids = np.concatenate([self.ids, ids])
        self.positive = torch.cat([self.positive, torch.zeros_like(negative)], 1)
        self.negative = torch.cat([self.negative, negative], 1)

    def add_own(self, passages: torch.Tensor, negative: torch.Tensor) -> None:
        """More negatives of each query: [queries, m, dimension], and which of them count."""
        self.own.append(passages)
        self.own_negative.append(negative)

    def loss(self, temperature: float, weights: torch.Tensor, count: float) -> torch.Tensor:
        """The contrastive loss of all columns. See ``contrastive``."""
        scores = [self.queries @ self.passages.T]
        positive = [self.positive]
        negative = [self.negative]
        for passages, is_negative in zip(self.own, self.own_negative, strict=True):
            scores.append(torch.einsum("qd,qmd->qm", self.queries, passages))
            positive.append(torch.zeros_like(is_negative))
            negative.append(is_negative)
        return contrastive(
            torch.cat(scores, 1) / temperature,
            torch.cat(positive, 1),
            torch.cat(negative, 1),
            weights,
            count,
        )
