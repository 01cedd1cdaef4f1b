"""Synthetic hard negatives between a query and two of its own (mhfn-2022, 3.2, equations 4 and 5).

After Kalantidis et al. 2020. A query's share is below a half, so that a mixture is more passages
than query.
"""

import numpy as np
import torch
from torch.nn.functional import normalize

from core import distributed
from core.distributed import generator
from retrieval.encoders.batch import Batch
from retrieval.encoders.contrastive import Scored
from retrieval.encoders.material import ByNumber, Material
from training.order import share

LARGEST = 0.5
"""That a query's share in a mixture stays below."""


class Interpolate(ByNumber):
    """Each query gets negatives that it alone sees; gradients go on to all three vectors.

    They are unit vectors, as in the paper: with dot products of longer ones they score low. What
    counts as a negative is what does so before this link, so relevant passages are never mixed. A
    query with fewer than two negatives of its own gets none.
    """

    def __init__(self, material: Material):
        self.number = material.settings.interpolate.number
        self.seed = material.settings.seed

    def keys(self) -> None:
        """The model in training encodes the passages."""

    def score(self, scored: Scored, batch: Batch) -> None:
        """Adds the mixtures of the own queries."""
        columns = batch.own_negatives()
        own, negatives = columns.shape
        if own == 0 or negatives < 2:
            return
        device = scored.queries.device
        places = torch.from_numpy(columns).to(device)
        is_negative = scored.negative[:own].gather(1, places).cpu().numpy()
        drawn = self.drawn(batch, is_negative)
        first, second = (torch.from_numpy(chosen).to(device) for chosen in drawn.chosen)
        shares = torch.from_numpy(drawn.shares).to(device, scored.queries.dtype)
        mixed = mixtures(
            scored.queries[:own],
            scored.passages[places.gather(1, first)],
            scored.passages[places.gather(1, second)],
            shares,
        )
        empty = len(scored.queries) - own  # places of a short batch
        is_there = torch.zeros(len(scored.queries), self.number, dtype=torch.bool, device=device)
        is_there[:own] = torch.from_numpy(is_negative.sum(1) >= 2).to(device)[:, None]
        scored.add_own(torch.nn.functional.pad(mixed, (0, 0, 0, 0, 0, empty)), is_there)

    def after(self, scored: Scored, batch: Batch) -> None:
        """Nothing."""

    def drawn(self, batch: Batch, is_negative: np.ndarray) -> "Drawn":
        """Two different negatives and three shares for each mixture of the own queries."""
        random = generator(self.seed, batch.number, "interpolate")
        negatives = is_negative.shape[1]
        # of all queries of the batch, so that the division of the work changes nothing
        keys = random.random((batch.count, self.number, negatives))
        parts = random.random((batch.count, self.number, 2))
        rank, world = distributed.rank(), distributed.world_size()
        keys, parts = share(keys, rank, world), share(parts, rank, world)
        keys = np.where(is_negative[:, None, :], keys, 2.0)  # what is none stands behind
        in_order = np.argsort(keys, axis=2)
        return Drawn((in_order[:, :, 0], in_order[:, :, 1]), shares_of(parts))


class Drawn:
    """What mixtures are made of: which two negatives, and the shares of query and both."""

    def __init__(self, chosen: tuple[np.ndarray, np.ndarray], shares: np.ndarray):
        self.chosen = chosen  # int64 [queries, mixtures] each
        self.shares = shares  # float64 [queries, mixtures, 3]


def shares_of(parts: np.ndarray) -> np.ndarray:
    """Shares alpha in (0, .5), beta, gamma, which add up to 1, of two numbers from [0, 1) each."""
    alpha = LARGEST * parts[..., 0]
    beta = (1 - alpha) * parts[..., 1]
    return np.stack([alpha, beta, 1 - alpha - beta], axis=-1)


def mixtures(
    queries: torch.Tensor, first: torch.Tensor, second: torch.Tensor, shares: torch.Tensor
) -> torch.Tensor:
    """The sums alpha q + beta p_i + gamma p_j at unit length: [queries, mixtures, dimension].

    ``queries`` [queries, dimension]; ``first`` and ``second`` [queries, mixtures, dimension].
    """
    alpha, beta, gamma = shares[..., None].unbind(2)
    mixed = alpha * queries[:, None, :] + beta * first + gamma * second
    return normalize(mixed, dim=-1)
