"""All examples of a training in clusters, by all processes together."""

from collections.abc import Callable

import numpy as np

from core import distributed
from core.distributed import generator, seed_of
from retrieval.encoders.batches import kmeans

AT_ONCE = 65536
"""Examples whose vectors are in memory at once while clusters are assigned: 100 MB."""

VectorsOf = Callable[[np.ndarray], np.ndarray]
"""Fp32 [examples, dimension] of some examples by their numbers; each process asks for its own."""


def clusters_of(
    vectors_of: VectorsOf, count: int, clusters: int, seed: int, number: int
) -> np.ndarray:
    """The cluster of each of ``count`` examples, int32, the same on all processes.

    Centroids are learned from a sample; of a larger set, examples are assigned block by block,
    each process its share. ``number``: which clustering of a training it is.
    """
    from retrieval.encoders.encoding import agreed, everywhere

    def own(block: np.ndarray) -> np.ndarray:
        return vectors_of(block[distributed.rank() :: distributed.world_size()])

    random = generator(seed, number, "sample")
    sample = random.permutation(count)[: kmeans.LEARNED_FROM * clusters]
    sample.sort()
    vectors = [everywhere(own(block), len(block)) for block in blocks(sample)]
    learned_from = np.concatenate(vectors)
    centroids = np.empty((clusters, learned_from.shape[1]), np.float32)
    if distributed.rank() == 0:
        centroids = kmeans.learn(learned_from, clusters, seed_of(seed, number, "clusters"))
    centroids = agreed(centroids)
    if len(sample) == count:
        return agreed(kmeans.assign(learned_from, centroids))
    parts = []
    for block in blocks(np.arange(count)):
        parts.append(everywhere(kmeans.assign(own(block), centroids), len(block)))
    return np.concatenate(parts)


def blocks(numbers: np.ndarray) -> list[np.ndarray]:
    """Parts of AT_ONCE."""
    return [numbers[start : start + AT_ONCE] for start in range(0, len(numbers), AT_ONCE)]
