"""What a training leaves in its folder, and how it goes on from there.

While it runs: ``model-STEP`` (the best so far), ``state/step-STEP`` (to go on from) and
``progress.json``, which is written last and names both. At its end: ``model``, ``training.json``
and the log. It may be killed anywhere.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import distributed
from core.errors import InputError
from core.files import write_json
from core.stored import damaged, stored_json
from training import engine as deep

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

MADE = "training.json"
PROGRESS = "progress.json"
SCRATCH = "scratch"
"""A folder for what a training needs while it runs; it goes at its end."""


class Checkpoints:
    """The folder of one training."""

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def states(self) -> Path:
        """Where DeepSpeed's own files lie."""
        return self.folder / "state"

    def ended(self) -> bool:
        """Whether the last step is taken.

        Also true of a training that was stopped while it put its files in order.
        """
        return (self.folder / MADE).exists()

    def outcome(self) -> dict:
        """What a training that ended came to."""
        return stored_json(self.folder / MADE, ("best", "best_step", "history"), self.folder)

    def stopped(self, per_step: int, other_world: str, setting: str) -> dict | None:
        """The progress note of a training that did not end; None where it is to begin.

        Raises InputError for one of another number of processes, unless ``other_world`` is
        ``weights``, which messages know as ``setting``; and for one whose steps had another number
        of units than ``per_step``.
        """
        note = self.folder / PROGRESS
        world = distributed.world_size()
        if self.ended() or not note.exists():
            return None
        state = stored_json(note, ("world",), self.folder)
        before = state["world"]
        # Old notes have no size; it was counted for each process, so that of one still holds
        size_before = state.get("per_step", per_step if before == 1 else None)
        if size_before != per_step:
            raise InputError(
                f"{self.folder}: was begun by {before} processes when batch_size was counted for "
                "each of them, so its steps were of another size; remove the folder to train anew"
            )
        if before != world and other_world == "refuse":
            raise InputError(
                f"{self.folder}: was begun with {before} processes, this run has {world}; "
                f"go on with as many, set {setting}=weights to go on from its weights "
                "(the order of data goes on, the optimizer begins anew), or remove the folder"
            )
        return state

    def save_best(self, step: int, model: Any, save: Callable[[Path], None]) -> None:
        """model-STEP, which the next state names; older ones go once that is written.

        ``save`` writes into the folder that it is given, on the first process, where the
        parameters of ``model`` are whole.
        """
        with deep.gathered(model):
            if distributed.rank() == 0:
                # Written beside and renamed: a kill meanwhile leaves no half of a model
                part = self.folder / "best.part"
                shutil.rmtree(part, ignore_errors=True)
                save(part)
                target = self.folder / f"model-{step}"
                shutil.rmtree(target, ignore_errors=True)
                part.rename(target)
        distributed.barrier()

    def save_state(self, engine: Any, more: dict[str, "Tensors"], state: dict) -> None:
        """A state to go on from: DeepSpeed's own files, and ``more``, tensors under their names.

        The progress note, written last, names the one to go on from; then older ones go.
        """
        tag = f"step-{state['step']}"
        engine.save_checkpoint(str(self.states), tag=tag, save_latest=False)
        if distributed.rank() == 0:
            for name, tensors in more.items():
                self.save_tensors(tag, name, tensors)
        distributed.barrier()
        if distributed.rank() == 0:
            write_json(self.folder / PROGRESS, state)
            kept = (tag, f"model-{state['best_step']}")
            for old in [*self.states.glob("step-*"), *self.folder.glob("model-*")]:
                if old.name not in kept:
                    shutil.rmtree(old)
        distributed.barrier()

    def save_tensors(self, tag: str, name: str, tensors: "Tensors") -> None:
        """Tensors beside DeepSpeed's files, NAME.safetensors; none where there are none."""
        if not tensors:
            return
        from safetensors.torch import save_file

        whole = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        save_file(whole, self.states / tag / f"{name}.safetensors")

    def load_state(self, engine: Any, step: int) -> None:
        """Weights, optimizer and number format's scale of a step, by as many processes."""
        deep.load_state(engine, self.states, f"step-{step}")

    def weights(self, step: int) -> dict[str, "torch.Tensor"]:
        """The model's weights of a step, saved by any number of processes."""
        return deep.saved_weights(self.states, f"step-{step}")

    def tensors(self, step: int, name: str) -> "Tensors":
        """What was given under a name to be kept with the state of a step."""
        path = self.states / f"step-{step}" / f"{name}.safetensors"
        if not path.exists():
            return {}
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise damaged(self.folder, f"{path.name}: {error}") from None

    def finish(self, outcome: dict) -> None:
        """Notes that the training ended, and puts the folder in order."""
        distributed.barrier()
        if distributed.rank() == 0:
            write_json(self.folder / MADE, outcome)
        self.tidy()

    def tidy(self) -> None:
        """The best weights become ``model``; the state to go on from goes."""
        if distributed.rank() == 0:
            for best in self.folder.glob("model-*"):
                best.rename(self.folder / "model")
            # The note goes before the state that it names: what is named is always there
            (self.folder / PROGRESS).unlink(missing_ok=True)
            shutil.rmtree(self.states, ignore_errors=True)
            shutil.rmtree(self.folder / SCRATCH, ignore_errors=True)


def check_progress(state: dict, folder: Path) -> None:
    """Raises InputError for a progress note that a training can't go on from."""
    missing = [key for key in ("step", "best", "best_step", "history") if key not in state]
    if missing:
        raise damaged(folder, f"{PROGRESS} lacks {', '.join(missing)}")
    numbers = [state[key] for key in ("step", "best_step", "world")]
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise damaged(folder, f"{PROGRESS} has other values than numbers of steps")
