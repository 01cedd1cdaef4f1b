"""What the loop asks of a model that learns, and the value that its training is measured by."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn


class Measured(NamedTuple):
    """A value of the learner's ``metric``, higher is better; ``warning`` is said beneath it."""

    value: float
    warning: str | None = None


class Learner(Protocol):
    """A model with its data, in any way of training it.

    The loop calls, for each step from 0: ``begin``, ``batches``, and ``learn`` for each batch.
    ``batches`` may be called in another thread while the device works on the step before, so it
    must not touch the model or torch's random numbers.
    """

    name: str
    unit: str  # what a step is counted in, as in "12 pairs/s"
    per_step: int  # units of a step, of all processes
    metric: str  # of ``measure``, as it stands in the log and in messages

    @property
    def model(self) -> "nn.Module":
        """What the engine wraps."""

    def parameter_groups(self) -> list[dict]:
        """For the optimizer; each group has its rate at full height as ``peak``."""

    def begin(self, step: int) -> None:
        """What is to be done before a step: an index refreshed, clusters drawn anew."""

    def waits(self, step: int) -> bool:
        """Whether the batches of a step can only be made after its ``begin``."""

    def batches(self, step: int) -> list:
        """This process's micro-batches of a step, as many on every process."""

    def learn(self, engine: Any, batch: Any, step: int) -> dict[str, float]:
        """The losses of a micro-batch by name.

        It runs its own backward passes through the ``engine``, as many as it needs. Raises
        InputError where a loss is not finite.
        """

    def too_large(self, batches: list) -> str:
        """What was in memory at once when it ran out, and what to do: the end of a sentence."""

    def measure(self, engine: Any, step: int) -> Measured | None:
        """How good the model is after ``step`` steps; None where there is nothing to measure by."""

    def baselines(self) -> dict[str, float]:
        """Values of the metric that need no training, kept in the training's state."""

    def save(self, folder: Path) -> None:
        """Writes the model as it is shared. The first process alone calls it."""

    def state(self) -> dict[str, "torch.Tensor"]:
        """What must be had again to go on, beside weights and optimizer; the same on all processes.

        Queues, centroids, a momentum encoder. Empty where the step's number is all that counts.
        """

    def restore(self, state: dict[str, "torch.Tensor"]) -> None:
        """Takes back what ``state`` gave."""

    def report(self, state: dict) -> None:
        """Says what the training came to, and what to try where it did not help."""
