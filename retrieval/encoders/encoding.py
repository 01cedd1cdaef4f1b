"""Texts through a bi-encoder: in batches by length, and as many on every process.

Under ZeRO 3 each forward pass, and under ZeRO 2 each backward pass, is a word between all
processes: one that makes fewer would leave the others waiting.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from core import distributed
from core.batches import token_batches
from retrieval.encoders.texts import Tokens

if TYPE_CHECKING:
    import torch

    from retrieval.encoder import BiEncoder, Side


BUDGETS = {"cuda": 16384, "cpu": 1024}
"""Tokens that go through a body at once where nothing is set, by the device."""


class Chunk(NamedTuple):
    """Texts that go through a body at once; ``places``: where their vectors belong.

    A row beyond the places stands in where a process has no text left: its vector is dropped.
    """

    rows: list[list[int]]
    places: list[int]


def chunks(rows: Sequence[list[int]], places: Sequence[int], budget: int) -> list[Chunk]:
    """Texts of about equal length together; rows times the longest is at most ``budget``.

    A text longer than that is alone.
    """
    made = []
    for numbers in token_batches([len(row) for row in rows], budget):
        in_chunk = [rows[number] for number in numbers]
        made.append(Chunk(in_chunk, [places[number] for number in numbers]))
    return made


def budget_of(batch_tokens: int | None) -> int:
    """What a setting of tokens comes to on this machine."""
    return batch_tokens or BUDGETS[distributed.device()]


def as_many(own: list[Chunk], count: int) -> list[Chunk]:
    """``count`` chunks of the same texts: the largest are halved, and empty ones stand in."""
    more = list(own)
    while len(more) < count:
        largest = max(range(len(more)), key=lambda i: len(more[i].places), default=None)
        if largest is None or len(more[largest].places) < 2:
            more.append(Chunk([[0]], []))
            continue
        rows, places = more[largest]
        half = len(rows) // 2
        more[largest : largest + 1] = [
            Chunk(rows[:half], places[:half]),
            Chunk(rows[half:], places[half:]),
        ]
    return more


def on_all(own: list[list[Chunk]]) -> list[list[Chunk]]:
    """Lists of chunks, each as long as the longest of any process."""
    if distributed.world_size() == 1:
        return own
    import torch
    import torch.distributed

    counts = torch.tensor([len(made) for made in own], device=distributed.device())
    torch.distributed.all_reduce(counts, op=torch.distributed.ReduceOp.MAX)
    return [as_many(made, count) for made, count in zip(own, counts.tolist(), strict=True)]


class Encode:
    """Texts to vectors by the model as it is now; all processes call it, and share the work.

    It is what a refresh in the middle of a training has: ``model`` is whole on every process, but
    for what ZeRO 3 divides.
    """

    def __init__(self, model: "BiEncoder", tokens: Tokens, batch_tokens: int | None):
        self.model = model
        self.tokens = tokens
        self.batch_tokens = budget_of(batch_tokens)

    def texts(self, texts: Sequence[str], side: "Side") -> np.ndarray:
        """Float32 [texts, dimension], on every process."""
        return self.rows(self.tokens.rows(texts, side), side)

    def rows(self, rows: Sequence[list[int]], side: "Side") -> np.ndarray:
        """As ``texts``, of token ids."""
        own = range(distributed.rank(), len(rows), distributed.world_size())
        return everywhere(self.own_rows([rows[number] for number in own], side), len(rows))

    def own(self, texts: Sequence[str], side: "Side") -> np.ndarray:
        """As ``texts``, but each process gives texts of its own, and gets their vectors alone."""
        return self.own_rows(self.tokens.rows(texts, side), side)

    def own_rows(self, rows: list[list[int]], side: "Side") -> np.ndarray:
        """As ``own``, of token ids."""
        import torch

        (made,) = on_all([chunks(rows, range(len(rows)), self.batch_tokens)])
        device = next(self.model.parameters()).device
        vectors = np.empty((len(rows), self.model.dimension), np.float32)
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad():
            for chunk in made:
                found = self.model(self.model.tower(side), **self.tokens.pad(chunk.rows, device))
                vectors[chunk.places] = found[: len(chunk.places)].cpu().numpy()
        self.model.train(was_training)
        return vectors


def everywhere(own: np.ndarray, count: int) -> np.ndarray:
    """``count`` rows, of which each process gives every world-th, from its rank on: all on all."""
    world = distributed.world_size()
    if world == 1:
        return own
    import torch
    import torch.distributed

    rows = torch.zeros((count, *own.shape[1:]), dtype=torch.from_numpy(own).dtype)
    rows[distributed.rank() :: world] = torch.from_numpy(own)
    rows = rows.to(distributed.device())
    torch.distributed.all_reduce(rows)  # each row is one process's, and 0 elsewhere
    return rows.cpu().numpy()


def agreed(own: np.ndarray) -> np.ndarray:
    """What the first process has, on all; the others give an array of its shape and kind."""
    if distributed.world_size() == 1:
        return own
    import torch
    import torch.distributed

    shared = torch.from_numpy(own).to(distributed.device())
    torch.distributed.broadcast(shared, src=0)
    return shared.cpu().numpy()


def placed(vectors: "torch.Tensor", places: Any, size: int) -> "torch.Tensor":
    """Vectors at their places in [size, dimension], 0 elsewhere, with gradient."""
    return vectors.new_zeros(size, vectors.shape[1]).index_copy(0, places, vectors)
