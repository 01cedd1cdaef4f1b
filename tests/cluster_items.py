"""What actors do in tests: they find these functions by this module's name."""

import os
import signal
import time
from pathlib import Path

from core import cluster
from core.errors import InputError
from core.files import finished_file


def begin(folder: Path) -> Path:
    with (folder / "begun").open("a") as file:
        file.write(f"{os.getpid()}\n")
    return folder


def node() -> str:
    import ray

    return ray.get_runtime_context().get_node_id()


def meet(folder: Path, name: str, other: str) -> str:
    """Waits for the other item: both are being made at once."""
    (folder / name).touch()
    end = time.monotonic() + 60
    while not (folder / other).exists():
        assert time.monotonic() < end, f"{other} is not begun"
        time.sleep(0.02)
    return node()


def write(folder: Path, name: str, deadly: str, deaths: int) -> str:
    """Dies in the middle of writing ``deadly``, so many times."""
    with (folder / "tries").open("a") as file:
        file.write(f"{name}\n")
    with finished_file(folder / name) as file:
        file.write("half ")
        file.flush()
        tries = (folder / "tries").read_text().split()
        if name == deadly and tries.count(name) <= deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        file.write("and half")
    return name


def refuse(_folder: Path, name: str) -> None:
    raise InputError(f"{name}.txt, line 3: found nothing, expected something")


def encode_and_die_once(plan, name: str, start: int):
    """A real chunk, but the first try of each is killed when it is written and not yet named."""
    step = plan[name]
    tried = step.root / f"tried-{name.replace('/', '-')}-{start}"
    if not tried.exists():
        tried.touch()
        Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)
    return cluster.work_on(plan, name, start)
