"""A training that kills itself: killed.py FOLDER WHERE. WHERE is a step's number, or a function of the loop and the number of its call.

It is a SIGKILL from inside, so nothing is tidied up; ``files`` kills in the middle of a checkpoint, when its first file is written.
"""
import os
import signal
import sys
from pathlib import Path

import tiny
import torch

from core.errors import exit_with_message
from ranking import engine, train


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

    owner, name, after = {"step": (train.Loop, "step", False), "best": (train.Loop, "save_best", True), "files": (torch, "save", True),
                          "state": (train, "write_json", False), "finish": (train.Loop, "tidy", False)}[kind]
    setattr(owner, name, patched(getattr(owner, name), after))


def main():
    folder, where = Path(sys.argv[1]), sys.argv[2]
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    engine.start()
    settings = tiny.settings(folder.parent, int(sys.argv[3]))
    loop = train.Loop(tiny.training(settings), folder)
    if where != "never":
        kill_at(where)
    loop.run()


if __name__ == "__main__":
    exit_with_message(main)
