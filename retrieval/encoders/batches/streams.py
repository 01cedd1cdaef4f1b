"""Languages that are drawn alike, however many examples each has."""

import numpy as np

from core.distributed import generator


class Stream:
    """The examples of a language again and again, each time in another order."""

    def __init__(self, examples: range, language: str, seed: int):
        self.examples = examples
        self.language = language
        self.seed = seed
        self.turn = -1  # which time through the examples ``order`` is of
        self.order = np.zeros(0, np.int64)

    def take(self, start: int, count: int) -> np.ndarray:
        """``count`` examples from the ``start``-th of the stream on, int64.

        In one time through the examples each comes once, so only where two meet may an example
        come twice.
        """
        taken = []
        while count:
            turn, place = divmod(start, len(self.examples))
            part = self.of_turn(turn)[place : place + count]
            taken.append(part)
            start += len(part)
            count -= len(part)
        return np.concatenate(taken) if taken else np.zeros(0, np.int64)

    def of_turn(self, turn: int) -> np.ndarray:
        """All examples in the order of one time through them."""
        if turn != self.turn:
            random = generator(self.seed, turn, "order", self.language)
            self.order = random.permutation(len(self.examples)) + self.examples.start
            self.turn = turn
        return self.order


def streams(spans: dict[str, range], seed: int) -> list[Stream]:
    """A stream for each language that has examples."""
    made = []
    for language, examples in spans.items():
        if len(examples):
            made.append(Stream(examples, language, seed))
    return made


def before_each(counts: np.ndarray) -> np.ndarray:
    """How many examples of each language come before each batch, of [batches, languages] counts."""
    return np.cumsum(counts, axis=0, dtype=np.int64) - counts
