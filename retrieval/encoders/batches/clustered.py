"""Batches of like examples, so that in-batch negatives are hard: TAS and ICT.

negative-sampling-2024, 3.3: with a teacher's vectors, clustered once and a cluster drawn for each
batch, it is topic aware sampling (Hofstätter et al. 2021, 3); with the model's own vectors,
clustered anew every few epochs and each example once an epoch, iterative clustered training
(equations 5 and 6).
"""

from typing import TYPE_CHECKING

import numpy as np

from core.console import say
from core.distributed import generator, seed_of
from core.errors import InputError
from retrieval.encoders.batches.clusters import clusters_of
from retrieval.encoders.batches.packing import Packed, packed
from retrieval.encoders.material import Material
from retrieval.encoders.pairs import Pairs
from training.order import Order

if TYPE_CHECKING:
    import torch

    from retrieval.encoders.encoding import Encode

CLUSTERS = 8192
"""The most without ``clusters``: k-means takes a time of examples times clusters."""


class Clustered:
    """Examples of all languages are clustered together; see the module.

    In memory are 4 bytes an example, and 16 of an epoch's order. An empty cluster is in no batch;
    a language has as many examples in a batch as its clusters bring. Raises InputError for more
    clusters than examples, and where the examples do not fill a step.
    """

    def __init__(self, material: Material, pairs: Pairs):
        settings = material.settings
        self.material = material
        self.pairs = pairs
        self.settings = settings
        self.own = settings.clustered
        self.count = sum(map(len, pairs.spans.values()))
        per_step = settings.batch_size * settings.accumulation
        if self.count < per_step:
            raise InputError(
                f"retrieval.encoders.{material.name}: {self.count} examples do not fill one step "
                f"of {per_step}; lower batch_size or accumulation"
            )
        one_a_batch = self.count // settings.batch_size
        self.clusters = self.own.clusters or min(one_a_batch, CLUSTERS)
        if self.clusters > self.count:
            raise InputError(
                f"retrieval.encoders.{material.name}.clustered.clusters: found {self.clusters}, "
                f"expected at most {self.count}, the examples that are to be clustered; lower it, "
                f"or leave it out for {min(one_a_batch, CLUSTERS)}"
            )
        self.made = 0  # clusterings so far
        self.first = 0  # the step that the last one was made before
        self.assigned = np.zeros(0, np.int32)  # the cluster of each example

    # ---- Clusters

    def waits(self, step: int) -> bool:
        """Before the first step, and then every few epochs where that is set."""
        if not self.made:
            return True
        return self.own.every is not None and step == self.first + self.own.every * self.epoch_steps

    def begin(self, step: int, encode: "Encode") -> None:
        """Clusters anew where it is time."""
        if not self.waits(step):
            return
        if self.material.teacher is not None:
            encode = self.material.teacher()
        self.take(self.clustered(encode), self.made + 1, step)
        sizes = np.bincount(self.assigned, minlength=self.clusters)
        say(
            f"  {self.material.name}: {self.count} {self.own.of} in {self.clusters} clusters "
            f"before step {step + 1}, {int(np.median(sizes))} in the median one, {sizes.max()} in "
            f"the largest, {np.count_nonzero(sizes == 0)} empty"
        )

    def clustered(self, encode: "Encode") -> np.ndarray:
        """The cluster of each example, int32, the same on all processes."""
        # No batch of the training has this number
        positives = self.pairs.positives(np.arange(self.count), -1 - self.made)

        def vectors(numbers: np.ndarray) -> np.ndarray:
            if self.own.of == "queries":
                return encode.own(self.pairs.query_texts(numbers), "query")
            return encode.own(self.material.corpus.texts(positives[numbers]), "passage")

        return clusters_of(
            vectors, self.count, self.clusters, seed=self.settings.seed, number=self.made
        )

    def take(self, assigned: np.ndarray, made: int, first: int) -> None:
        """Makes a clustering the one that batches come from."""
        self.assigned = assigned
        self.made = made
        self.first = first
        self.sizes = np.bincount(assigned, minlength=self.clusters)
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.by_cluster = np.argsort(assigned, kind="stable")
        if self.own.fill == "packed":
            self.prepare()
        else:
            per_step = self.settings.batch_size * self.settings.accumulation
            self.epoch_steps = self.count // per_step

    def prepare(self) -> None:
        """Which places of an order by cluster make a batch, and how many steps an epoch has."""
        settings = self.settings
        self.packed: Packed = packed(self.sizes, settings.batch_size)
        seed = seed_of(settings.seed, self.made, "batches")
        self.order = Order(len(self.packed), settings.accumulation, seed)
        self.epoch_steps = self.order.steps_per_epoch
        self.epoch = -1  # that ``examples`` is of

    # ---- Batches

    def of_step(self, step: int) -> list[np.ndarray]:
        """``accumulation`` batches."""
        if self.own.fill == "packed":
            return self.of_epoch(step - self.first)
        first = step * self.settings.accumulation
        return [self.drawn(first + part) for part in range(self.settings.accumulation)]

    def of_epoch(self, step: int) -> list[np.ndarray]:
        """Those of a step since the clusters were made: each example once an epoch.

        Which examples of a cluster are together is drawn anew each epoch.
        """
        epoch = self.order.epoch(step)
        if epoch != self.epoch:
            random = generator(self.settings.seed, self.made, "within", epoch)
            keys = random.random(self.count)
            self.examples = np.lexsort((keys, self.assigned))
            self.epoch = epoch
        batches = self.order.of_step(step, len(self.packed))
        return [self.examples[self.packed.batch(number)] for number in batches.tolist()]

    def drawn(self, batch: int) -> np.ndarray:
        """Examples of a cluster at random; of further clusters where it has too few."""
        random = generator(self.settings.seed, batch, "clusters")
        missing = self.settings.batch_size
        parts = []
        for cluster in random.permutation(self.clusters).tolist():
            start, size = self.starts[cluster], self.sizes[cluster]
            members = self.by_cluster[start : start + size]
            parts.append(random.permutation(members)[:missing])
            missing -= len(parts[-1])
            if not missing:
                break
        return np.concatenate(parts)

    def weights(self, numbers: np.ndarray) -> np.ndarray | None:
        """All count alike."""
        return None

    # ---- State

    def state(self) -> "dict[str, torch.Tensor]":
        """The cluster of each example, which clustering it is, and the step that it began at."""
        import torch

        return {
            "assigned": torch.from_numpy(self.assigned),
            "made": torch.tensor(self.made),
            "first": torch.tensor(self.first),
        }

    def restore(self, state: "dict[str, torch.Tensor]") -> None:
        """As they were."""
        self.take(state["assigned"].numpy(), int(state["made"]), int(state["first"]))
