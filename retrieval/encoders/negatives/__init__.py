"""NEGATIVES: links of a chain that says which documents are negatives: ids, on disk.

A link is a function of the mining, a language and what the link before made of that language; it
gives each query with its candidates. It may read other languages' files of the link before
(``mining.before``). An entry is a file here and a line in the table.
"""

from typing import Protocol

import numpy as np

from retrieval.encoders.material import Entry
from retrieval.encoders.negatives.from_ensemble import from_ensemble
from retrieval.encoders.negatives.from_run import from_run
from retrieval.encoders.negatives.generate import generate
from retrieval.encoders.negatives.judge import judge
from retrieval.encoders.negatives.mining import Link
from retrieval.encoders.negatives.refresh import refresh
from retrieval.encoders.negatives.select import select
from retrieval.encoders.negatives.share_languages import share_languages


class Negatives(Entry, Protocol):
    """What a batch asks: which passages are its examples' negatives."""

    def draw(self, numbers: np.ndarray, batch: int) -> np.ndarray:
        """Passages, int64 [examples, draw.number]; -1 where an example has no more."""


NEGATIVES: dict[str, Link] = {
    "from_run": from_run,
    "from_ensemble": from_ensemble,
    "refresh": refresh,
    "select": select,
    "share_languages": share_languages,
    "judge": judge,
    "generate": generate,
}

SOURCES = ("from_run", "from_ensemble", "refresh")
"""Those that begin a chain: what a link before them made would be lost."""
