"""Rank, world size and seeds.

Without a launcher everything is rank 0 of 1, and torch is not imported.
"""

import hashlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy


def rank() -> int:
    """Of this process among all, over all machines."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def barrier() -> None:
    """Waits for all processes."""
    if world_size() > 1:
        import torch.distributed

        torch.distributed.barrier()


def device() -> str:
    """Where models run: the GPU that the launcher gave this process, or the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def take_gpu(number: int) -> None:
    """Makes one of the GPUs this process's own, for processes that no launcher started.

    ``number`` counts on from the first where there are fewer; nothing without a GPU.
    """
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())


def average(values: list[float]) -> list[float]:
    """Means over the processes, each of which gives as many values."""
    if world_size() == 1:
        return values
    import torch

    total = torch.tensor(values, dtype=torch.float64, device=device())
    torch.distributed.all_reduce(total)
    return (total / world_size()).tolist()


def seed_of(*parts: object) -> int:
    """A 63-bit seed from (seed, epoch, component, …): the same on every machine."""
    hashed = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(hashed[:8], "big") >> 1


def generator(*parts: object) -> "numpy.random.Generator":
    """A numpy generator seeded by ``seed_of(*parts)``."""
    import numpy

    return numpy.random.Generator(numpy.random.PCG64(seed_of(*parts)))
