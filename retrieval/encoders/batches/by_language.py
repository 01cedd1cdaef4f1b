"""Batches of one language each, so that no in-batch negative is told by its language.

mhfn-2022, 3.3; data-utilization-2025, 3.5.
"""

import numpy as np

from core.console import say
from core.distributed import generator
from core.errors import InputError
from retrieval.encoders.batches.streams import before_each, streams
from retrieval.encoders.material import ByNumber, Material
from retrieval.encoders.pairs import Pairs
from training.order import Order


class ByLanguage(ByNumber):
    """A language has as many batches an epoch as its examples fill; what is over is left out of it.

    One with fewer examples than a batch has one shorter batch, which is said. With ``balance:
    uniform`` each batch's language is drawn, all as likely.
    """

    def __init__(self, material: Material, pairs: Pairs):
        settings = material.settings
        self.settings = settings
        self.streams = streams(pairs.spans, settings.seed)
        self.sizes = []  # of each language's batches
        batches = []  # of each language in an epoch
        for stream in self.streams:
            count = len(stream.examples)
            self.sizes.append(min(settings.batch_size, count))
            batches.append(max(1, count // settings.batch_size))
            if count < settings.batch_size:
                say(
                    f"  note: {material.name}: {stream.language} has {count} examples, fewer than "
                    f"batch_size {settings.batch_size}: its batches are shorter"
                )
        # batch by batch of an epoch, in the order of languages
        self.languages = np.repeat(np.arange(len(self.streams)), batches)
        self.order = Order(len(self.languages), settings.accumulation, settings.seed)
        if not self.order.steps_per_epoch:
            raise InputError(
                f"retrieval.encoders.{material.name}: {len(self.languages)} batches of one "
                f"language do not fill one step of {settings.accumulation}; "
                "lower batch_size or accumulation"
            )
        if settings.balance == "uniform":
            total = settings.steps * settings.accumulation
            random = generator(settings.seed, 0, "languages")
            self.drawn = random.integers(len(self.streams), size=total)
            is_drawn = self.drawn[:, None] == np.arange(len(self.streams))
            self.before = before_each(is_drawn.astype(np.int64))

    def of_step(self, step: int) -> list[np.ndarray]:
        """``accumulation`` batches, each of one language."""
        if self.settings.balance == "uniform":
            first = step * self.settings.accumulation
            return [self.of_drawn(first + part) for part in range(self.settings.accumulation)]
        epoch = self.order.epoch(step)
        numbers = self.order.of_step(step, len(self.languages))
        return [self.of_epoch(epoch, number) for number in numbers.tolist()]

    def of_epoch(self, epoch: int, number: int) -> np.ndarray:
        """One of an epoch's batches, by its number in the order of languages."""
        language = int(self.languages[number])
        size = self.sizes[language]
        of_language = number - int(np.searchsorted(self.languages, language))
        order = self.streams[language].of_turn(epoch)
        return order[of_language * size : (of_language + 1) * size]

    def of_drawn(self, batch: int) -> np.ndarray:
        """The next examples of the language that was drawn for a batch."""
        language = int(self.drawn[batch])
        size = self.sizes[language]
        before = int(self.before[batch, language])
        return self.streams[language].take(before * size, size)

    def weights(self, numbers: np.ndarray) -> np.ndarray | None:
        """All count alike."""
        return None
