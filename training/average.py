"""Averages of the weights over steps, kept beside those that go on training.

What is averaged are the trained parameters as the model computes with them, which in half precision
are the optimizer's rounded; the average itself is in fp32. Of each parameter a process holds one
part of as many as there are processes, so together they hold one average, and taking a step into it
needs no word between them. Frozen parameters and buffers are in none.
"""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed
from torch import nn

from core import distributed
from core.parts import Average


class WeightAverage:
    """The average of a model's trained parameters in a training of ``steps`` steps.

    ``model`` is the engine's, so that DeepSpeed has laid the parameters out.
    """

    def __init__(self, model: nn.Module, settings: Average, steps: int):
        self.settings = settings
        self.steps = steps
        self.trained: dict[str, nn.Parameter] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.trained[name] = parameter
        self.parts: dict[str, torch.Tensor] = {}  # of this process, flat; empty: no average yet

    def take(self, step: int) -> None:
        """Takes in the weights after ``step`` steps."""
        share = share_of_newest(self.settings, step, self.steps)
        if share == 0:
            return
        for name, parameter in self.trained.items():
            newest = own_part(parameter).float()
            if share == 1:
                self.parts[name] = newest.clone()
            else:
                self.parts[name].lerp_(newest, share)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the average for its weights; afterwards its own again, bit by bit."""
        own = {}
        for name in self.parts:
            own[name] = own_part(self.trained[name]).clone()
        self.put(self.parts)
        yield
        self.put(own)

    def put(self, parts: dict[str, torch.Tensor]) -> None:
        """Makes every process's parts the model's weights."""
        for name, part in parts.items():
            parameter = self.trained[name]
            whole = joined(part, parameter)
            with writable(parameter), torch.no_grad():
                parameter.copy_(whole)

    def state(self) -> dict[str, torch.Tensor]:
        """The whole average by the parameters' names, on the first process; nothing on others."""
        state = {}
        for name, part in self.parts.items():
            whole = joined(part, self.trained[name])
            if distributed.rank() == 0:
                state[name] = whole.cpu()
        return state

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Takes back what ``state`` gave, with any number of processes."""
        for name, whole in state.items():
            part = own_part(self.trained[name])
            mine = torch.zeros_like(part, dtype=torch.float32)
            found = whole.flatten()[bounds(whole.numel())]
            mine[: len(found)] = found
            self.parts[name] = mine


def share_of_newest(settings: Average, step: int, steps: int) -> float:
    """What the weights after ``step`` steps are of the average; 0 where there is none yet.

    At first the exponential one keeps less than ``decay``, lest what the training began with
    stands for long: the newest is 10 / (step + 9), so the average is over about the last tenth
    (as TensorFlow's ExponentialMovingAverage with the number of updates).
    """
    if settings.decay is not None:
        return max(1 - settings.decay, 10 / (step + 9))
    assert settings.last is not None
    first = max(1, steps - settings.last + 1)
    return 1 / (step - first + 1) if step >= first else 0.0


# ---- Parameters in parts


def bounds(count: int) -> slice:
    """Which of a parameter's ``count`` numbers are this process's; the last may have fewer."""
    size = -(-count // distributed.world_size())
    start = distributed.rank() * size
    return slice(start, min(start + size, count))


def own_part(parameter: nn.Parameter) -> torch.Tensor:
    """This process's part of a parameter, flat, not copied; at ZeRO 3 what DeepSpeed gave it.

    That has the same bounds, and may have more behind them.
    """
    if hasattr(parameter, "ds_tensor"):
        return parameter.ds_tensor.detach()
    return parameter.detach().flatten()[bounds(parameter.numel())]


def joined(part: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
    """The parts of all processes as one tensor of the parameter's shape."""
    shape = getattr(parameter, "ds_shape", parameter.shape)
    world = distributed.world_size()
    if world == 1:
        return part[: shape.numel()].view(shape)
    size = -(-shape.numel() // world)
    mine = torch.zeros(size, dtype=part.dtype, device=distributed.device())
    mine[: len(part)] = part
    parts = [torch.empty_like(mine) for _ in range(world)]
    torch.distributed.all_gather(parts, mine)
    return torch.cat(parts)[: shape.numel()].view(shape)


def writable(parameter: nn.Parameter) -> contextlib.AbstractContextManager:
    """A context in which a parameter is whole at ZeRO 3, and what is written is kept."""
    if not hasattr(parameter, "ds_id"):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)
