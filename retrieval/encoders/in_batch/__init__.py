"""IN_BATCH: what else is scored within a step: vectors, whose state is in the checkpoint.

The passages of all queries of a batch are each other's negatives without any of these. Links are
asked one after another, in the order of the setting. An entry is a file here and a line in the
table.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from retrieval.encoders.batch import Batch
from retrieval.encoders.contrastive import Scored
from retrieval.encoders.in_batch.false_negatives import FalseNegatives
from retrieval.encoders.in_batch.interpolate import Interpolate
from retrieval.encoders.in_batch.momentum import Momentum
from retrieval.encoders.in_batch.queue import Queue
from retrieval.encoders.material import Entry, Material

if TYPE_CHECKING:
    from retrieval.encoder import BiEncoder


class Link(Entry, Protocol):
    """Adds columns to what is scored, or changes what a column is to a query.

    ``begin`` comes once before each step, the first included: where a momentum encoder follows the
    model. Random numbers come from (seed, batch.number, component), never from torch's own.
    """

    def keys(self) -> "BiEncoder | None":
        """Another model that encodes the passages, without gradient; None: the one in training."""

    def score(self, scored: Scored, batch: Batch) -> None:
        """Changes ``scored`` in place, before the loss."""

    def after(self, scored: Scored, batch: Batch) -> None:
        """What it keeps of a batch, once its gradients are there: a queue takes it in."""


IN_BATCH: dict[str, Callable[[Material], Link]] = {
    "momentum": Momentum,
    "interpolate": Interpolate,
    "queue": Queue,
    "false_negatives": FalseNegatives,
}
