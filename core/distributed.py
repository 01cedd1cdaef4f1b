"""Rank, world size and seeds. Without a launcher everything is rank 0 of 1, and torch is not imported."""

import hashlib
import os


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def barrier() -> None:
    if world_size() > 1:
        import torch.distributed

        torch.distributed.barrier()


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def average(values: list[float]) -> list[float]:
    """Means over the processes."""
    if world_size() == 1:
        return values
    import torch

    total = torch.tensor(values, dtype=torch.float64, device=device())
    torch.distributed.all_reduce(total)
    return (total / world_size()).tolist()


def seed_of(*parts) -> int:
    """A 63-bit seed from (seed, epoch, component, …): the same parts give the same seed on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def generator(*parts):
    """A numpy generator seeded by ``seed_of(*parts)``."""
    import numpy

    return numpy.random.Generator(numpy.random.PCG64(seed_of(*parts)))
