"""Trainings that kill themselves and are begun again: killed.py FOLDER STAGE[:lora] POINT …

With ``lora`` adapters are trained. A POINT is a place of the loop and the number of its call. It is
a SIGKILL from inside, so nothing is tidied up; ``files`` kills in the middle of a checkpoint, when
its first file is written. Prints a line a point: how both processes ended. They are forks, because
importing takes longer than training.
"""

import os
import signal
import sys
from pathlib import Path

import tiny
import torch

from core.errors import exit_with_message
from core.parts import Average
from core.settings import Lora
from training import checkpoints, engine
from training.loop import Loop


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(where: str) -> None:
    kind, _, number = where.partition(":")
    calls = iter(range(1, 10**6))

    def patched(original, after):
        def call(*arguments, **named):
            if next(calls) == int(number):
                if after:
                    original(*arguments, **named)
                die()
            return original(*arguments, **named)

        return call

    owner, name, after = {
        "step": (Loop, "step", False),
        "best": (checkpoints.Checkpoints, "save_best", True),
        "files": (torch, "save", True),
        "state": (checkpoints, "write_json", False),
        "finish": (checkpoints.Checkpoints, "tidy", False),
    }[kind]
    setattr(owner, name, patched(getattr(owner, name), after))


def train_once(folder: Path, stage: int, lora: Lora | None, where: str) -> None:
    folder.mkdir(exist_ok=True)
    engine.start()
    settings = tiny.settings(folder.parent, stage, lora=lora, average=Average(decay=0.5))
    loop = tiny.loop(settings, folder)
    if where != "never":
        kill_at(where)
    loop.run()


def forked(*arguments) -> int:
    """Ends of a process that trains: 0, 1 with its message on stderr, or minus the signal."""
    pid = os.fork()
    if pid == 0:
        exit_with_message(lambda: train_once(*arguments))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ["DS_ACCELERATOR"] = "cuda" if torch.cuda.is_available() else "cpu"
    import deepspeed  # noqa: F401

    tiny.body()  # what is imported here is not imported by every fork
    base = Path(sys.argv[1])
    stage, _, adapted = sys.argv[2].partition(":")
    lora = None
    if adapted:
        import peft  # noqa: F401

        lora = Lora(rank=2, dropout=0.1)
    for number, point in enumerate(sys.argv[3:]):
        folder = base / f"{number}-{point.replace(':', '-')}"
        print(
            point,
            forked(folder, int(stage), lora, point),
            0 if point == "never" else forked(folder, int(stage), lora, "never"),
            flush=True,
        )
