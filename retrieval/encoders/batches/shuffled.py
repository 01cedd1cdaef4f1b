"""Examples at random, of all languages together (negative-sampling-2024, equation 4)."""

import numpy as np

from core.distributed import generator
from core.errors import InputError
from retrieval.encoders.batches.streams import before_each, streams
from retrieval.encoders.material import ByNumber, Material
from retrieval.encoders.pairs import Pairs
from training.order import Order


class Shuffled(ByNumber):
    """Each example once an epoch; with ``balance: uniform`` each place of a batch has a language.

    All languages are as likely there (contriever-2022, 5.1), so small ones come round sooner.
    Raises InputError where the examples do not fill a step.
    """

    def __init__(self, material: Material, pairs: Pairs):
        settings = material.settings
        self.accumulation = settings.accumulation
        per_step = settings.batch_size * settings.accumulation
        self.count = sum(map(len, pairs.spans.values()))
        if self.count < per_step:
            raise InputError(
                f"retrieval.encoders.{material.name}: {self.count} examples do not fill one step "
                f"of {per_step}; lower batch_size or accumulation"
            )
        self.order = Order(self.count, per_step, settings.seed)
        self.streams = []
        if settings.balance == "uniform":
            self.streams = streams(pairs.spans, settings.seed)
            random = generator(settings.seed, 0, "languages")
            share = np.full(len(self.streams), 1 / len(self.streams))
            batches = settings.steps * settings.accumulation
            counts = random.multinomial(settings.batch_size, share, size=batches)
            self.counts = counts.astype(np.int32)
            self.before = before_each(self.counts)

    def of_step(self, step: int) -> list[np.ndarray]:
        """``accumulation`` whole batches."""
        if not self.streams:
            return np.split(self.order.of_step(step, self.count), self.accumulation)
        first = step * self.accumulation
        return [self.balanced(first + part) for part in range(self.accumulation)]

    def balanced(self, batch: int) -> np.ndarray:
        """A batch's examples, by language."""
        parts = []
        for stream, start, count in zip(
            self.streams, self.before[batch].tolist(), self.counts[batch].tolist(), strict=True
        ):
            parts.append(stream.take(start, count))
        return np.concatenate(parts)

    def weights(self, numbers: np.ndarray) -> np.ndarray | None:
        """All count alike."""
        return None
