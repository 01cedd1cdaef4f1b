"""Gathering tensors of all processes, with gradient."""

import torch
import torch.distributed
from torch.autograd.function import FunctionCtx, once_differentiable

from core import distributed


def gather(tensor: torch.Tensor) -> torch.Tensor:
    """The rows of all processes, in the order of their ranks: [rows, …] to [processes x rows, …].

    All must have as many rows. In the backward pass each process gets the gradient of its own
    rows, summed over the losses of all processes. The engine then takes the mean over processes,
    so a loss that is a mean over a process's own queries becomes the mean over all of them.
    """
    if distributed.world_size() == 1:
        return tensor
    return _Gather.apply(tensor)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, tensor: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(tensor) for _ in range(distributed.world_size())]
        torch.distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
        summed = gradient.contiguous().clone()
        torch.distributed.all_reduce(summed)
        own = summed.chunk(distributed.world_size())[distributed.rank()]
        return own
