"""k-means by FAISS (negative-sampling-2024, equation 5): the same clusters of the same vectors."""

from typing import Any

import numpy as np

ITERATIONS = 20
LEARNED_FROM = 64  # vectors a cluster that centroids are learned from, at most


def learn(vectors: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Centroids, float32 [clusters, dimension], of float32 vectors that are at least as many."""
    import faiss

    means: Any = faiss.Kmeans(
        vectors.shape[1],
        clusters,
        niter=ITERATIONS,
        # k-means++ in a time that many clusters allow (Bachem et al. 2016)
        init_method=faiss.ClusteringInitMethod_AFK_MC2,
        seed=seed % 2**31,  # FAISS holds it in 32 bits
        min_points_per_centroid=1,  # fewer are no fault: no warning
        max_points_per_centroid=LEARNED_FROM,
        gpu=False,
    )
    means.train(vectors)
    return means.centroids


def assign(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The nearest centroid of each vector, int32."""
    import faiss

    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(centroids)
    _, nearest = index.search(vectors, 1)
    return nearest[:, 0].astype(np.int32)
