"""What is looked at when a training goes wrong: memory, and the layer that is not finite."""

import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out, on a GPU or in torch's allocator on a CPU."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def not_finite_weight(model: "nn.Module") -> str | None:
    """The first weight that holds no number any more, of this process's part of them."""
    for name, parameter in model.named_parameters():
        own_part = getattr(parameter, "ds_tensor", parameter)  # at ZeRO 3
        if not own_part.detach().isfinite().all():
            return name.removeprefix("module.")
    return None


def culprit(model: "nn.Module", inputs: dict[str, Any]) -> str:
    """Which module, in the order of the forward pass, is the first whose output is not finite.

    The forward pass is run again; the answer is the end of a sentence that begins with "first".
    """
    import torch

    suspects: list[str] = []

    def look(name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            if torch.is_tensor(output) and not suspects and not output.isfinite().all():
                suspects.append(name)

        return hook

    with contextlib.ExitStack() as hooks, torch.no_grad():
        for name, module in model.named_modules():
            is_leaf = not list(module.children())
            if is_leaf:
                handle = module.register_forward_hook(look(name.removeprefix("module.")))
                hooks.callback(handle.remove)
        model(**inputs)
    if suspects:
        return f"not finite in the layer {suspects[0]}"
    return "in the loss itself: every layer's output is finite"
