"""BATCHES: which examples are seen together. An entry is a file here and a line in the table."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from retrieval.encoders.batches.by_language import ByLanguage
from retrieval.encoders.batches.clustered import Clustered
from retrieval.encoders.batches.shuffled import Shuffled
from retrieval.encoders.batches.topics import Topics
from retrieval.encoders.material import Entry, Material
from retrieval.encoders.pairs import Pairs


class Batches(Entry, Protocol):
    """The batches of each step, by the numbers of their examples."""

    def of_step(self, step: int) -> list[np.ndarray]:
        """``accumulation`` batches, of all processes together: int64 [examples] each.

        At most ``batch_size`` examples; a batch may have fewer, whose places then stay empty.
        """

    def weights(self, numbers: np.ndarray) -> np.ndarray | None:
        """Of each example in the loss: float32 [examples]; None: all count 1.

        The loss is divided by the number of examples, not by the sum of the weights.
        """


BATCHES: dict[str, Callable[[Material, Pairs], Batches]] = {
    "shuffled": Shuffled,
    "by_language": ByLanguage,
    "clustered": Clustered,
    "topics": Topics,
}
