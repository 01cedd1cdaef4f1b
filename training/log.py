"""The training log: training.jsonl, a line a step, and TensorBoard's files if asked."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from core import distributed
from core.errors import InputError
from core.files import finished_file
from core.stored import stored_lines

FILE = "training.jsonl"


@contextlib.contextmanager
def log(folder: Path, step: int, tensorboard: bool) -> Iterator[Callable[[dict], None]]:
    """A function that writes an entry, on rank 0 alone.

    ``step``: of the state that the training goes on from; TensorBoard drops what came after it.
    """
    if distributed.rank():
        yield lambda entry: None
        return
    with contextlib.ExitStack() as opened:
        file = opened.enter_context((folder / FILE).open("a", encoding="utf-8"))
        writer = opened.enter_context(board(folder, step)) if tensorboard else None

        def note(entry: dict) -> None:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            if writer is None:
                return
            for key, value in entry.items():
                if key != "step" and value is not None:
                    writer.add_scalar(key, value, entry["step"])

        yield note


def board(folder: Path, step: int) -> Any:
    """TensorBoard's writer. Raises InputError where the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "tensorboard=true needs the package tensorboard, which is not installed: "
            "pip install tensorboard, or take the setting away"
        ) from None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)


def trim(folder: Path, step: int) -> None:
    """Drops the lines of steps that a stopped run took after its last state.

    They are taken again. A last line that was cut off goes, too.
    """
    path = folder / FILE
    if not path.exists() or distributed.rank() != 0:
        return
    kept = [entry for entry in stored_lines(path, ("step",)) if entry["step"] <= step]
    with finished_file(path) as file:
        for entry in kept:
            file.write(json.dumps(entry) + "\n")
