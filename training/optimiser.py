"""The optimizer's rates: their course over the steps, and which parameters have which."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.nn import Parameter


def learning_rate(step: int, steps: int, warmup: float) -> float:
    """Factor of the peak rate at ``step``, counted from 0.

    Up linearly over the share ``warmup`` of the steps, then down linearly to 0 at the end.
    """
    rising = warmup * steps
    if step + 1 <= rising:
        return (step + 1) / rising
    return max(0.0, (steps - step) / max(1.0, steps - rising))


def parameter_groups(
    parameters: Iterable[tuple[str, "Parameter"]],
    part_of: Callable[[str], str],
    rates: Mapping[str, float],
    weight_decay: float,
) -> list[dict]:
    """Groups for torch's optimizers: one a part of the model, with and without weight decay.

    ``part_of`` a parameter's name is a key of ``rates``. Biases and norms, which have one
    dimension, have no decay. ``peak`` is a group's rate at full height. Frozen parameters are in
    no group.
    """
    members: dict[tuple[str, bool], list] = {}
    for name, parameter in parameters:
        if parameter.requires_grad:
            decayed = parameter.ndim > 1
            members.setdefault((part_of(name), decayed), []).append(parameter)
    groups = []
    for (part, decayed), chosen in members.items():
        groups.append(
            {
                "params": chosen,
                "lr": rates[part],
                "peak": rates[part],
                "weight_decay": weight_decay if decayed else 0.0,
            }
        )
    return groups


def set_rates(groups: Iterable[dict], factor: float) -> None:
    """Each group's rate becomes ``factor`` times its peak."""
    for group in groups:
        group["lr"] = group["peak"] * factor
