"""Encoders' trainings that kill themselves and are begun again: stopped.py FOLDER STAGE POINT …

As tests/ranking/killed.py: SIGKILL from inside, at a place of the loop and the number of its call.
There are all parts of mHFN within a step, gradient caching and dropout. Prints a line a point: how
both processes ended.
"""

import os
import signal
import sys
from pathlib import Path

import little
import torch

from core.errors import exit_with_message
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


def train_once(folder: Path, stage: int, where: str) -> None:
    folder.mkdir(exist_ok=True)
    engine.start()
    settings = little.settings(
        folder.parent,
        stage,
        batches="by_language",
        in_batch=["interpolate", "queue", "false_negatives"],
        queue={"size": 20, "by": "language"},
        false_negatives={"clusters": 3, "temperature": 2.0},
        gradient_caching=True,
        batch_tokens=128,
    )
    learner = little.learner(settings, folder.parent, dropout=0.1)
    loop = Loop(learner, settings, folder, settings.precision)
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

    base, stage = Path(sys.argv[1]), int(sys.argv[2])
    little.learner(little.settings(base), base)  # what is imported here, no fork imports
    for number, point in enumerate(sys.argv[3:]):
        folder = base / f"{number}-{point.replace(':', '-')}"
        first = forked(folder, stage, point)
        second = 0 if point == "never" else forked(folder, stage, "never")
        print(point, first, second, flush=True)
