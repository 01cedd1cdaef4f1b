"""What the entries of the four tables are made of, and what all of them may do at a step."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from core.encoders import Encoder
from core.task import Task
from retrieval.encoders.texts import Corpus, Tokens

if TYPE_CHECKING:
    import torch

    from retrieval.encoders.encoding import Encode


Rows = list[list[int]]
"""Token ids of texts, special ones included."""


class Relevant(NamedTuple):
    """Passages that are no negatives of some examples: an entry for each of both."""

    place: np.ndarray  # int64: of the example among those asked for
    id: np.ndarray  # int64: the passage's number in the corpus


@dataclass(frozen=True)
class Material:
    """One encoder's training: its settings, its data's ``task``, passages and tokens.

    ``languages``: of its examples. ``folder``: of the training, where a refresh may leave files.
    ``mined``: where the chain of negatives is, if it was made before the training. ``teacher``:
    loads another model whose vectors are asked for.
    """

    name: str
    settings: Encoder
    task: Task
    languages: list[str]
    corpus: Corpus
    tokens: Tokens
    folder: Path
    mined: Path | None = None
    teacher: "Callable[[], Encode] | None" = None


class Entry(Protocol):
    """What batches, negatives and in-batch links are asked at every step.

    The order is ``begin(step)``, then the step. The state is saved after a step and before the
    next ``begin``, so a training that goes on calls ``begin`` again with the same weights: what it
    makes anew there need not be in the state.
    """

    def waits(self, step: int) -> bool:
        """Whether ``begin`` of a step changes its batches, so that they can't be made ahead."""

    def begin(self, step: int, encode: "Encode") -> None:
        """What is to be done before a step, on all processes."""

    def state(self) -> "dict[str, torch.Tensor]":
        """What must be had again to go on, the same on all processes."""

    def restore(self, state: "dict[str, torch.Tensor]") -> None:
        """Takes back what ``state`` gave."""


class ByNumber:
    """An entry that depends on nothing but the step's number."""

    def waits(self, step: int) -> bool:
        """Never."""
        return False

    def begin(self, step: int, encode: "Encode") -> None:
        """Nothing."""

    def state(self) -> "dict[str, torch.Tensor]":
        """Nothing."""
        return {}

    def restore(self, state: "dict[str, torch.Tensor]") -> None:
        """Nothing."""
