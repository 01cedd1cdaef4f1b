"""What keeps a ranker's training honest, and the closing table of first stage, base and tuned.

It looks for losses that are not finite and for scores that collapse.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from core.console import say
from core.records import TrainingPair
from training.guards import culprit

if TYPE_CHECKING:
    import torch

CONSTANT = 1e-4
"""Standard deviation of the logits of a query's candidates below which nothing is ranked."""


class Dev(Protocol):
    """Dev queries with their candidates.

    Called with a scoring ``forward`` it gives nDCG@10 and the mean standard deviation of a query's
    logits.
    """

    first_stage: float  # nDCG@10 of the candidates in their own order

    def __call__(self, forward: "Callable[[dict], torch.Tensor]") -> tuple[float, float]:
        """(nDCG@10, standard deviation)."""


def not_finite(
    name: str,
    step: int,
    losses: dict[str, float],
    pairs: Sequence[TrainingPair],
    model: Any,
    inputs: dict,
) -> str:
    """The message for a loss that is not finite at ``step``, counted from 1.

    It names the pairs of the micro-batch and the first layer whose output is not finite.
    """
    keys = ", ".join(f"{pair.language}/{pair.qid}/{pair.docid}" for pair in pairs[:8])
    more = ", …" if len(pairs) > 8 else ""
    return (
        f"{name}: the loss is {losses} at step {step} "
        f"(pairs {keys}{more}; first {culprit(model, inputs)}); "
        "lower learning_rate or fgm.epsilon, set precision=fp32, or look at these texts"
    )


def collapsed(name: str, step: int, spread: float) -> str | None:
    """The warning for logits that hardly differ; ``spread`` is their standard deviation."""
    if spread >= CONSTANT:
        return None
    return (
        f"{name} gives all passages of a query one score at step {step} "
        f"(their standard deviation is {spread:.1e}): it has collapsed or not begun to learn; "
        "lower learning_rate, lengthen warmup, take more steps, "
        "or set fgm.start past the first of them"
    )


def tell(name: str, state: dict) -> None:
    """The closing table, and what to try where training did not help.

    Without dev queries there is nothing to compare, and nothing is said.
    """
    if state.get("base") is None:
        return
    first = state["first_stage"]
    base = state["base"]
    tuned = state["best"]
    say(
        f"  {name}, dev nDCG@10:  first stage {first:.4f}   base {base:.4f}   "
        f"tuned {tuned:.4f} (step {state['best_step']})"
    )
    if tuned <= base:
        say(
            f"  note: {name} is no better than before its training: "
            "raise steps or learning_rate, and look at the training groups"
        )
    elif tuned < first:
        say(
            f"  note: {name} ranks worse than the first stage: more steps, more layers, "
            "or a start in ranking.chain; the ensemble may still gain by it"
        )
