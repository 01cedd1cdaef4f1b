"""A batch as one process has it: its own texts, and the passages of all processes by number."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from retrieval.encoders.material import Relevant, Rows

NONE = -1
"""The number of no passage: a place of a batch that nothing fills."""


class Shape(NamedTuple):
    """Places of a batch; every process has as many, filled or not.

    A query's place q has the passage places q·(1 + negatives) and on: its positive comes first.
    """

    queries: int  # of one process
    negatives: int  # of a query

    @property
    def passages(self) -> int:
        """Of one process."""
        return self.queries * (1 + self.negatives)


@dataclass(frozen=True)
class Batch:
    """What one process learns from at once, beside the passages of the others.

    ``queries`` are in the first places, in order; ``passages`` are token ids by
    ``passage_places``. ``columns``: the passages of all processes by number, in the order of ranks,
    NONE where a place is empty.
    """

    number: int  # over all steps: with the seed it decides what is drawn
    step: int
    shape: Shape
    examples: np.ndarray  # int64 [own queries]
    languages: list[str]  # of them
    queries: Rows
    passages: Rows
    passage_places: np.ndarray  # int64 [own passages], below shape.passages
    columns: np.ndarray  # int64 [all passage places]
    own_columns: np.ndarray  # int64 [own queries]: where their positives are among them
    own_relevant: Relevant  # passages that are no negatives of the own queries
    weights: np.ndarray  # float32 [own queries]
    count: int  # queries of all processes

    def in_order(self) -> np.ndarray:
        """The columns that hold a passage, in one order however many processes there are.

        Of W processes the first has examples 0, W, 2 W and so on, the second 1, W + 1 and so on.
        """
        by_process = np.arange(len(self.columns)).reshape(
            -1, self.shape.queries, 1 + self.shape.negatives
        )
        columns = by_process.transpose(1, 0, 2).ravel()
        return columns[self.columns[columns] != NONE]

    def own_negatives(self) -> np.ndarray:
        """The columns of the own queries' negatives, filled or not: int64 [own queries, number]."""
        return self.own_columns[:, None] + 1 + np.arange(self.shape.negatives)

    def relevant_among(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(own query, column) wherever one of any passages ``ids`` is relevant to a query."""
        order = np.argsort(ids, kind="stable")
        in_order = ids[order]
        first = np.searchsorted(in_order, self.own_relevant.id, side="left")
        last = np.searchsorted(in_order, self.own_relevant.id, side="right")
        counts = last - first
        queries = np.repeat(self.own_relevant.place, counts)
        # of each pair: its place among the equal ids
        among = np.arange(len(queries)) - np.repeat(np.cumsum(counts) - counts, counts)
        return queries, order[np.repeat(first, counts) + among]
