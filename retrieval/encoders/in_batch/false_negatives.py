"""The adaptive filter of false negatives (mhfn-2022, 3.4, equations 6 to 8).

Passages that are scored in a step are clustered, and each draws a label among the clusters by its
similarities to their centres. Negatives with the label of a query's positive are false ones. The
set is one for all queries of a batch: a query's positive, what other queries brought, and what is
cached. So there is one clustering a batch.
"""

import math

import numpy as np
import torch

from core.distributed import generator, seed_of
from retrieval.encoders.batch import Batch
from retrieval.encoders.batches import kmeans
from retrieval.encoders.batches.gap import number_of_clusters
from retrieval.encoders.contrastive import Scored
from retrieval.encoders.material import ByNumber, Material

LEAST = 1e-6
"""What a similarity of 0 or below counts: such a cluster is all but never the label."""


class FalseNegatives(ByNumber):
    """False negatives leave the negatives, and from a share of the steps on they are positives.

    Equation 9's loss is of those masks: before that share its first term alone, in whose sum they
    are not. Where the gap statistic finds one cluster there is nothing to tell apart, and the step
    has no false negatives. A query's own negatives are spared, as in the paper (3.3), unless
    ``mined`` is set.
    """

    def __init__(self, material: Material):
        self.settings = material.settings.false_negatives
        self.seed = material.settings.seed
        self.first = math.ceil(self.settings.start * material.settings.steps)

    def keys(self) -> None:
        """The model in training encodes the passages."""

    def score(self, scored: Scored, batch: Batch) -> None:
        """Changes what columns are to the own queries."""
        cached = np.arange(len(batch.columns), len(scored.ids))
        columns = np.concatenate([batch.in_order(), cached])
        vectors = scored.passages.detach().float().cpu().numpy()[columns]
        labels = np.full(len(scored.ids), -1)
        labels[columns] = self.labels(vectors, batch.number, batch.step + 1)
        own = len(batch.own_columns)
        is_alike = np.zeros(scored.negative.shape, bool)
        is_alike[:own] = labels == labels[batch.own_columns][:, None]
        if labels.max(initial=0) == 0:  # one cluster
            is_alike[:] = False
        if not self.settings.mined:
            np.put_along_axis(is_alike[:own], batch.own_negatives(), False, axis=1)
        found = scored.negative & torch.from_numpy(is_alike).to(scored.negative.device)
        scored.negative &= ~found
        if batch.step >= self.first:
            scored.positive |= found

    def after(self, scored: Scored, batch: Batch) -> None:
        """Nothing."""

    def labels(self, vectors: np.ndarray, batch: int, step: int) -> np.ndarray:
        """The label of each passage, int64; all 0 where there is one cluster. ``step`` from 1."""
        own = self.settings
        seed = seed_of(self.seed, batch, "false_negatives")
        if own.clusters is None:
            sample = generator(seed, 0, "sample").permutation(len(vectors))[: own.sample]
            looked_at = vectors[np.sort(sample)]
            clusters = number_of_clusters(looked_at, own.most, own.references, seed)
        else:
            clusters = min(own.clusters, len(vectors))
        if clusters == 1:
            return np.zeros(len(vectors), np.int64)
        centres = kmeans.learn(vectors, clusters, seed)
        middle = vectors.mean(0) if own.centred else 0.0
        shares = shares_of((vectors - middle) @ (centres - middle).T)
        noise = generator(seed, 0, "gumbel").gumbel(size=shares.shape)
        temperature = own.temperature / step
        return soft_labels(shares, noise, temperature, own.labels == "schedule").argmax(1)


def shares_of(similarities: np.ndarray) -> np.ndarray:
    """Equation 6: each cluster's share in a passage's similarities, [passages, clusters].

    Shares are of similarities above 0. What is below counts LEAST, so a passage that is unlike all
    centres has any label, all as likely.
    """
    above = np.maximum(similarities, LEAST)
    return above / above.sum(1, keepdims=True)


def soft_labels(
    shares: np.ndarray, noise: np.ndarray, temperature: float, scheduled: bool
) -> np.ndarray:
    """Equation 7: the weight of each cluster, [passages, clusters], whose greatest is the label.

    As it is written, (log P + g) / tau, the greatest is the same at every tau: labels are drawn by
    P, and equation 8 has no say. ``scheduled`` is what the paper's text asks for, log P / tau + g:
    any label while tau is high, and surer ones as it falls.
    """
    logits = np.log(shares) / temperature + noise
    if not scheduled:
        logits = (np.log(shares) + noise) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
