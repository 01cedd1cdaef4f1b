"""PAIRS: where examples come from. An entry is a file here and a line in the table."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from retrieval.encoders.material import Material, Relevant, Rows
from retrieval.encoders.pairs.cloze import cloze
from retrieval.encoders.pairs.crop import crop
from retrieval.encoders.pairs.labelled import Labelled


class Pairs(Protocol):
    """Examples by their numbers, those of a language in a range: a query text and a positive.

    All but ``views`` is asked for whole batches, on every process; ``views`` for a process's own
    part. They run in the thread that makes batches ahead, so they must not touch the model.
    ``batch`` is the number of the batch over all steps: with the seed it decides what is drawn.
    """

    spans: dict[str, range]

    def qids(self, language: str) -> list[str]:
        """The query ids of a language's examples in order, for what is mined by them."""

    def query_texts(self, numbers: np.ndarray) -> list[str]:
        """The queries as text, for what does not read them by the tokens of ``views``."""

    def positives(self, numbers: np.ndarray, batch: int) -> np.ndarray:
        """The passage that each example's positive is, or is a view of: int64 [examples]."""

    def relevant(self, numbers: np.ndarray) -> Relevant:
        """All passages that are never negatives of the examples, the positives among them."""

    def views(self, numbers: np.ndarray, positives: np.ndarray, batch: int) -> tuple[Rows, Rows]:
        """The tokens of queries and of positives."""


PAIRS: dict[str, Callable[[Material], Pairs]] = {
    "labelled": Labelled,
    "crop": crop,
    "cloze": cloze,
}
