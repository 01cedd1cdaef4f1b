"""What keeps a training honest: the step and layer of a loss that is not finite, scores that collapse, and the closing table of first
stage, base and tuned model; and the training log."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch

from core import distributed
from core.console import say
from core.errors import InputError
from core.records import TrainingPair

CONSTANT = (
    1e-4  # standard deviation of the logits of a query's candidates below which nothing is ranked
)


class Dev(Protocol):
    """Dev queries with their candidates: called with a scoring ``forward`` it gives nDCG@10 and the mean standard deviation of a query's logits."""

    first_stage: float  # nDCG@10 of the candidates in their own order

    def __call__(self, forward: Callable[[dict], torch.Tensor]) -> tuple[float, float]: ...


def not_finite(
    name: str, step: int, losses: dict, pairs: Sequence[TrainingPair], model, inputs: dict
) -> str:
    """The message for a loss that is not finite: the step, the pairs of the micro-batch, and the first layer whose output is not finite."""
    keys = ", ".join(f"{p.language}/{p.qid}/{p.docid}" for p in pairs[:8])
    return (
        f"{name}: the loss is {losses} at step {step} (pairs {keys}{', …' if len(pairs) > 8 else ''}; first {culprit(model, inputs)}); "
        "lower learning_rate or fgm.epsilon, set precision=fp32, or look at these texts"
    )


def culprit(model, inputs: dict) -> str:
    """The first module, in the order of the forward pass, whose output is not finite."""
    found: list[str] = []

    def look(name):
        def hook(_module, _inputs, output):
            if torch.is_tensor(output) and not found and not output.isfinite().all():
                found.append(name)

        return hook

    with contextlib.ExitStack() as hooks, torch.no_grad():
        for name, module in model.named_modules():
            if not any(True for _ in module.children()):
                hooks.callback(
                    module.register_forward_hook(look(name.removeprefix("module."))).remove
                )
        model(**inputs)
    return (
        f"not finite in the layer {found[0]}"
        if found
        else "in the loss itself: every layer's output is finite"
    )


def collapsed(name: str, step: int, spread: float) -> None:
    if spread < CONSTANT:
        say(
            f"  note: {name} gives all passages of a query one score at step {step} (their standard deviation is {spread:.1e}): it has collapsed or not begun to learn; "
            "lower learning_rate, lengthen warmup, take more steps, or set fgm.start past the first of them"
        )


def tell(name: str, state: dict) -> None:
    """The closing table, and what to try where training did not help. Without dev there is nothing to compare."""
    if state.get("base") is None:
        return
    first, base, tuned = state["first_stage"], state["base"], state["best"]
    say(
        f"  {name}, dev nDCG@10:  first stage {first:.4f}   base {base:.4f}   tuned {tuned:.4f} (step {state['best_step']})"
    )
    if tuned <= base:
        say(
            f"  note: {name} is no better than before its training: raise steps or learning_rate, and look at the training groups"
        )
    elif tuned < first:
        say(
            f"  note: {name} ranks worse than the first stage: more steps, more layers, or a start in ranking.chain; the ensemble may still gain by it"
        )


@contextlib.contextmanager
def log(folder: Path, step: int, tensorboard: bool) -> Iterator[Callable[[dict], None]]:
    """Writes a line a step to training.jsonl, and TensorBoard's files if asked; on rank 0 alone."""
    if distributed.rank():
        yield lambda entry: None
        return
    with (
        (folder / "training.jsonl").open("a", encoding="utf-8") as file,
        board(folder, step) if tensorboard else contextlib.nullcontext() as writer,
    ):

        def note(entry: dict) -> None:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            for key, value in entry.items() if writer else ():
                if key != "step" and value is not None:
                    writer.add_scalar(key, value, entry["step"])

        yield note


def board(folder: Path, step: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "tensorboard=true needs the package tensorboard, which is not installed: pip install tensorboard, or take the setting away"
        ) from None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
