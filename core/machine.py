"""How fast this machine is beside the two cores that all estimates were measured on."""

import os
import re
from functools import cache
from pathlib import Path

MEASURED_CORES = 2
GPU_FACTOR = 500  # a data-centre GPU beside two cores (0.15 TFLOP/s in fp32): an order of magnitude


@cache
def gpus() -> int:
    """CUDA devices that a process would see, counted without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in Path("/dev").glob("nvidia*"))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def core_seconds(on_two_cores: float) -> float:
    """What work that only CPUs do takes here, from what it takes on two cores."""
    return on_two_cores * MEASURED_CORES / cores()


def model_seconds(on_two_cores: float) -> float:
    """What encoding, training or scoring takes here, on all GPUs where there are some."""
    if gpus():
        return on_two_cores / (GPU_FACTOR * gpus())
    return core_seconds(on_two_cores)


def described() -> str:
    """What the estimates are for, as ``on 2 cores`` or ``on 8 GPUs``."""
    if gpus():
        return f"on {gpus()} GPU" + ("s" if gpus() > 1 else "")
    return f"on {cores()} core" + ("s" if cores() > 1 else "")
