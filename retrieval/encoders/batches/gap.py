"""How many clusters there are: the gap statistic (Tibshirani, Walther and Hastie 2001).

mhfn-2022, 3.4, takes K from it. What k-means leaves of the distances within clusters is compared
with what it leaves of data that have none: K is right where the gap between both stops growing.
"""

import numpy as np

from core.distributed import generator, seed_of
from retrieval.encoders.batches import kmeans

SMALLEST = 1e-12
"""What a dispersion is at least, of that of one cluster: equal vectors have none, and no log."""

LEAST = 1e-30
"""That of one cluster."""


def number_of_clusters(vectors: np.ndarray, most: int, references: int, seed: int) -> int:
    """The smallest K with Gap(K) >= Gap(K + 1) - s(K + 1); the largest that is tried without one.

    ``vectors`` float32 [passages, dimension]. References are uniform over the box of the vectors
    along their principal axes (the paper's choice b, 4); ``references``: how many there are.
    """
    most = min(most, len(vectors) - 1)
    if most < 2:
        return 1
    centred = vectors - vectors.mean(0)
    # k-means minds no rotation, so all of it happens along the principal axes
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    rotated = (centred @ axes.T).astype(np.float32)
    random = generator(seed, 0, "references")
    low, high = rotated.min(0), rotated.max(0)
    uniform = []
    for _ in range(references):
        uniform.append(random.uniform(low, high, rotated.shape).astype(np.float32))
    gaps, errors = [], []
    for clusters in range(1, most + 1):
        of_uniform = [log_dispersion(reference, clusters, seed) for reference in uniform]
        gaps.append(np.mean(of_uniform) - log_dispersion(rotated, clusters, seed))
        errors.append(np.std(of_uniform) * np.sqrt(1 + 1 / references))
    return first_sufficient(gaps, errors)


def first_sufficient(gaps: list, errors: list) -> int:
    """K by the gaps and standard errors of 1, 2, … clusters."""
    for number in range(1, len(gaps)):
        if gaps[number - 1] >= gaps[number] - errors[number]:
            return number
    return len(gaps)


def log_dispersion(vectors: np.ndarray, clusters: int, seed: int) -> float:
    """The logarithm of W_K: the squared distances to the nearest of K centres, added up."""
    total = max(float(((vectors - vectors.mean(0)) ** 2).sum()), LEAST)
    if clusters == 1:
        return float(np.log(total))
    centres = kmeans.learn(vectors, clusters, seed_of(seed, clusters, "gap"))
    nearest = centres[kmeans.assign(vectors, centres)]
    within = float(((vectors - nearest) ** 2).sum())
    return float(np.log(max(within, SMALLEST * total)))
