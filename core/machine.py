"""How fast this machine is beside the two cores that all estimates were measured on.

Estimates are for a plan: they tell minutes from days, and no more.
"""

import os
import re
from functools import cache
from itertools import takewhile
from pathlib import Path

MEASURED_CORES = 2
GPU_FACTOR = 500  # a data-centre GPU beside two cores (0.15 TFLOP/s in fp32): an order of magnitude
BF16_FACTOR = 3  # a CPU that has instructions for bf16, beside itself in fp32
DEVICES = Path("/dev")
MEMORY = Path("/proc/meminfo")
OWN_STATUS = Path("/proc/self/status")
CONTAINER = Path("/sys/fs/cgroup")  # what limits a container, where this process is in one


@cache
def gpus() -> int:
    """CUDA devices that a process would see, counted without importing torch.

    CUDA_VISIBLE_DEVICES names them (parts of a GPU, too) up to the first that is none; without it
    all of the machine's are seen.
    """
    present = [path for path in DEVICES.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not present:
        return len(present)
    names = (name.strip() for name in visible.split(","))
    return len(list(takewhile(lambda name: name not in ("", "-1"), names)))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def free_memory() -> float:
    """Bytes that this machine, or the container that this process is in, has left."""
    free = [float(line_of(MEMORY, "MemAvailable").split()[0]) * 1024]
    limit = read_or_nothing(CONTAINER / "memory.max")
    used = read_or_nothing(CONTAINER / "memory.current")
    if limit.isdigit() and used.isdigit():
        free.append(float(limit) - float(used))
    return max(0.0, min(free))


def peak_memory() -> float:
    """Bytes that this process has had at most; those of the process that began it do not count."""
    return float(line_of(OWN_STATUS, "VmHWM").split()[0]) * 1024


def line_of(path: Path, name: str) -> str:
    """What a file of ``name: value`` lines says of a name."""
    for line in path.read_text("utf-8").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value
    raise LookupError(f"{path} has no {name}")


def read_or_nothing(path: Path) -> str:
    """A file's text without spaces around it; nothing where there is no such file."""
    return path.read_text("utf-8").strip() if path.is_file() else ""


def core_seconds(on_two_cores: float) -> float:
    """What work that only CPUs do takes here, from what it takes on two cores."""
    return on_two_cores * MEASURED_CORES / cores()


def model_seconds(on_two_cores: float, processes: int | None = None) -> float:
    """What encoding, training or scoring takes here, on the GPUs where there are some.

    ``processes``: how many do it, each on a GPU; all GPUs without it.
    """
    if gpus():
        return on_two_cores / (GPU_FACTOR * min(gpus(), processes or gpus()))
    return core_seconds(on_two_cores)


def format_factor(number_format: str) -> float:
    """How many times as fast as in fp32 this machine computes; GPU_FACTOR knows of half."""
    return BF16_FACTOR if number_format == "bf16" and not gpus() else 1


def described() -> str:
    """What the estimates are for, as ``on 2 cores`` or ``on 8 GPUs and 64 cores``."""
    of_cores = counted(cores(), "core")
    return f"on {counted(gpus(), 'GPU')} and {of_cores}" if gpus() else f"on {of_cores}"


def counted(number: int, name: str) -> str:
    """A number of things, as one says it."""
    return f"{number} {name}" if number == 1 else f"{number} {name}s"
