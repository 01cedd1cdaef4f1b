"""Clusters of examples to batches (negative-sampling-2024, 3.3, equation 6)."""

from typing import NamedTuple

import numpy as np


class Packed(NamedTuple):
    """Batches by the places of their examples, where examples stand cluster by cluster.

    Batch b has ``places[bounds[b] : bounds[b + 1]]``. It depends on the clusters' sizes alone.
    """

    places: np.ndarray  # int64 [examples]
    bounds: np.ndarray  # int64 [batches + 1]

    def __len__(self) -> int:
        """Of batches."""
        return len(self.bounds) - 1

    def batch(self, number: int) -> np.ndarray:
        """The places of one batch."""
        return self.places[self.bounds[number] : self.bounds[number + 1]]


def packed(sizes: np.ndarray, batch_size: int) -> Packed:
    """Splits clusters into sub-clusters of at most a batch, and combines the small ones.

    ``sizes`` int64 [clusters]; an empty one is in no batch. All sub-clusters of a cluster but the
    last are of ``batch_size``. What is smaller is combined until no two fit together.
    """
    whole = sizes // batch_size  # sub-clusters that are batches, of each cluster
    rests = sizes - whole * batch_size
    batch_of_rest = whole.sum() + combined(rests, batch_size)
    whole_before = np.cumsum(whole) - whole

    # of each place: its cluster, its place within, and its batch
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    first_of_cluster = np.cumsum(sizes) - sizes
    within = np.arange(len(cluster)) - first_of_cluster[cluster]
    batch = whole_before[cluster] + within // batch_size
    is_rest = within >= (whole * batch_size)[cluster]
    batch[is_rest] = batch_of_rest[cluster[is_rest]]

    counts = np.bincount(batch)
    bounds = np.concatenate([[0], np.cumsum(counts)])
    return Packed(np.argsort(batch, kind="stable"), bounds)


def combined(sizes: np.ndarray, most: int) -> np.ndarray:
    """The group of each part, from 0, so that none is above ``most``; -1 for a part of size 0.

    The largest parts first, each where it leaves the least room. A group is begun only with a part
    that fits nowhere, and rooms only shrink, so at the end no two groups fit together.
    """
    groups = np.full(len(sizes), -1, np.int64)
    with_room: list[list[int]] = [[] for _ in range(most)]  # groups by the room that is left
    count = 0
    for part in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[part])
        if not size:
            break
        for room in range(size, most):
            if with_room[room]:
                group = with_room[room].pop(0)
                break
        else:
            group, room = count, most
            count += 1
        groups[part] = group
        with_room[room - size].append(group)
    return groups
