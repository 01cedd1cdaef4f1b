"""The order of data: a pure function of seed and epoch, so a resumed training needs no replay.

Also how a step is divided among processes and micro-batches, and how the next one is made while
the device works on this one.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from core.distributed import generator
from core.errors import InputError

if TYPE_CHECKING:
    import numpy


class Order:
    """Which of ``count`` things each step takes, ``per_step`` of them, each once an epoch at most.

    What does not fill a step at the end of an epoch is left out of it. ``count`` may differ from
    epoch to epoch: ``of_step`` is told it, and epochs have as many steps as the smallest fills.
    """

    def __init__(self, count: int, per_step: int, seed: int):
        self.per_step = per_step
        self.seed = seed
        self.steps_per_epoch = count // per_step
        self._epoch: int | None = None
        self._order: numpy.ndarray | None = None

    def epoch(self, step: int) -> int:
        """The epoch that a step is of."""
        return step // self.steps_per_epoch

    def of_step(self, step: int, count: int) -> "numpy.ndarray":
        """The numbers, below ``count``, that a step takes: int64 [per_step], of all processes."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch or self._order is None:
            self._order = generator(self.seed, epoch, "order").permutation(count)
            self._epoch = epoch
        start = step_of_epoch * self.per_step
        return self._order[start : start + self.per_step]


def share(numbers: "numpy.ndarray", rank: int, world: int) -> "numpy.ndarray":
    """The part of a step that process ``rank`` of ``world`` takes."""
    return numbers[rank::world]


def per_process(name: str, batch_size: int, size: int, world: int) -> int:
    """Things of a micro-batch that each of ``world`` processes takes.

    ``batch_size``: pairs of a micro-batch of all processes; a thing has ``size`` of them and is
    not divided. Raises InputError, with the numbers that would do, where they can't be shared out
    evenly.
    """
    things = batch_size // size
    if things and things % world == 0:
        return things // world
    one_each = size * world
    below = batch_size // one_each * one_each
    above = below + one_each
    sizes = f"{below} or {above}" if below else str(above)
    counts = [str(count) for count in range(1, max(things, 1) + 1) if things % count == 0]
    noun = "process" if counts[-1] == "1" else "processes"
    whole = f", in groups of {size}," if size > 1 else ""
    raise InputError(
        f"{name}: batch_size {batch_size} counts the pairs of all processes{whole} and cannot be "
        f"divided evenly among {world}; set batch_size to {sizes}, or start "
        f"{' or '.join(counts[-4:])} {noun}"
    )


def micro_batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Numbers of things in micro-batches of ``size``, those of like length together.

    Each thing is in one micro-batch and all are of one size, so the mean gradient does not depend
    on the arrangement.
    """
    by_length = sorted(range(len(lengths)), key=lambda number: lengths[number])
    return [by_length[start : start + size] for start in range(0, len(by_length), size)]


class Ahead:
    """Makes the next step's batches in a thread. An error there is raised where they are taken."""

    def __init__(self, make: Callable[[int], list]):
        self.make = make
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self.made: dict[int, Future[list]] = {}

    def start(self, step: int) -> None:
        """Begins to make the batches of a step."""
        self.made[step] = self.thread.submit(self.make, step)

    def take(self, step: int) -> list:
        """The batches of a step, made now where none were begun."""
        begun = self.made.pop(step, None)
        return begun.result() if begun else self.make(step)

    def close(self) -> None:
        """Waits for what is being made, and drops it."""
        self.thread.shutdown(wait=True, cancel_futures=True)
