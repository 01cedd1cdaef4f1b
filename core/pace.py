"""How fast bodies are on this machine: measured for a few seconds at first use, and kept.

A measurement is a process of its own, so its memory is the body's. What is kept is known by what
was measured and by the machine's processor, cores and GPUs.
"""

import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from core import distributed, machine
from core.console import say
from core.errors import InputError
from core.files import digest, write_json
from core.processes import Team
from core.stored import stored_json

SECONDS = 3.0  # that a measurement takes, beside the loading of its model
PROCESSORS = Path("/proc/cpuinfo")


class Pace(NamedTuple):
    """What something takes in one process, on one GPU where there are some.

    ``seconds`` of one text or pair, ``step_seconds`` of what comes once a step of a training (the
    optimiser), and bytes at their peak.
    """

    seconds: float
    step_seconds: float = 0.0
    memory: float = 0.0
    gpu_memory: float = 0.0


class Measurement(NamedTuple):
    """Something to measure: ``measure(*arguments)`` gives its pace, in a process of its own."""

    name: str  # for people
    known_by: dict[str, Any]
    measure: Callable[..., Pace]
    arguments: tuple


def paces_file(work: str, known_by: dict[str, Any]) -> Path:
    """Where a pace is kept, for all collections."""
    return Path(work) / "paces" / f"{digest([machine_name(), known_by])}.json"


def machine_name() -> str:
    """Processor, cores and GPUs, as far as a pace depends on them."""
    processor = platform.processor() or platform.machine()
    if PROCESSORS.is_file():
        models = [
            line for line in PROCESSORS.read_text("utf-8").splitlines() if "model name" in line
        ]
        processor = models[0].partition(":")[2].strip() if models else processor
    return f"{processor} {machine.described()}"


def known(work: str, known_by: dict[str, Any]) -> Pace | None:
    """What was measured here before; None where nothing was."""
    file = paces_file(work, known_by)
    return Pace(**stored_json(file)["pace"]) if file.exists() else None


def measure(work: str, wanted: Iterable[Measurement]) -> None:
    """Measures what is not known yet, and keeps it; says so, and what could not be measured."""
    for measurement in wanted:
        name, known_by, function, arguments = measurement
        file = paces_file(work, known_by)
        if file.exists():
            continue
        say(f"measuring {name}: some seconds, at first use")
        team = Team(1)
        try:
            [pace] = team.each(function, {name: arguments})
        except InputError as error:
            say(f"  not measured, so it is guessed: {error}")
            continue
        finally:
            team.close()
        write_json(file, {"machine": machine_name(), "known_by": known_by, "pace": pace._asdict()})
        say(f"  {1 / pace.seconds:.1f} a second, {pace.memory / 1e9:.1f} GB of memory")


def timed(once: Callable[[int], object], most: int) -> float:
    """Seconds of one thing, ``once(count)`` doing some at once; ``most`` at a time.

    More and more are done at once until SECONDS are over; the first time does not count.
    """
    once(1)
    count, begun = 1, time.perf_counter()
    while True:
        before = time.perf_counter()
        once(count)
        after = time.perf_counter()
        if after - begun > SECONDS:
            return (after - before) / count
        count = min(2 * count, most)


def peaks() -> dict[str, float]:
    """This process's peak memory and its GPU's, in bytes, as a Pace names them."""
    import torch

    on_gpu = float(torch.cuda.max_memory_allocated()) if distributed.device() == "cuda" else 0.0
    return {"memory": machine.peak_memory(), "gpu_memory": on_gpu}
