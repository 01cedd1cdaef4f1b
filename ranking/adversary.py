"""Fast Gradient Method (Miyato et al. 2017, eq. 8; Goodfellow et al. 2014) on the word embeddings.

The perturbation is put on the OUTPUT of the embedding by a hook. Editing the weight and reading
``weight.grad`` does nothing under DeepSpeed, where that gradient is None after ``backward`` at
ZeRO 2 and 3.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from core.errors import InputError


class FGM:
    """delta = epsilon * g / ||g||.

    g is the gradient of the clean loss with respect to the embedded tokens [pairs, tokens, hidden];
    ``norm``: of each example's g, or of the whole batch's. Use: ``with fgm.watch():`` clean
    forward; backward; ``with fgm.perturb():`` second forward; backward.
    """

    def __init__(self, embedding: nn.Module, epsilon: float, norm: str):
        self.embedding = embedding
        self.epsilon = epsilon
        self.norm = norm
        self.gradient: torch.Tensor | None = None

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Around the clean forward pass: its backward pass leaves the gradient here."""
        self.gradient = None
        with self.hooked(self._watch):
            yield

    def _watch(self, _module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if not output.requires_grad:  # frozen embeddings
            output = output.detach().requires_grad_()
        output.register_hook(self._take)
        return output

    def _take(self, gradient: torch.Tensor) -> None:
        self.gradient = gradient.detach()

    @contextlib.contextmanager
    def perturb(self) -> Iterator[None]:
        """Around the second forward pass, which sees the embeddings moved by ``delta``.

        Raises InputError where the model passes by its embeddings.
        """
        delta = self.delta()
        fired = []

        def add(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
            fired.append(True)
            return output + delta.to(output.dtype)

        with self.hooked(add):
            yield
        if not fired:
            raise InputError(
                "FGM: the model did not pass through its input embeddings, so the perturbation had "
                "no effect; set fgm.epsilon=0 to train without it"
            )

    def delta(self) -> torch.Tensor:
        """The perturbation, [pairs, tokens, hidden].

        Raises InputError where the clean pass left no gradient: training must not go on without
        its adversary unnoticed.
        """
        if self.gradient is None or not self.gradient.any():
            raise InputError(
                "FGM: no gradient reached the input embeddings, so the perturbation would do "
                "nothing; set fgm.epsilon=0 to train without it"
            )
        # not finite is an fp16 overflow: the step is skipped anyway
        g = torch.nan_to_num(self.gradient.float(), 0.0, 0.0, 0.0)
        if self.norm == "example":
            size = g.flatten(1).norm(dim=1).view(-1, 1, 1)
        else:
            size = g.norm()
        scaled = self.epsilon * g / size.clamp_min(torch.finfo(g.dtype).tiny)
        return torch.where(size > 0, scaled, torch.zeros_like(g))

    @contextlib.contextmanager
    def hooked(self, hook: Callable) -> Iterator[None]:
        """``hook`` on the embedding's output, taken away at the end."""
        handle = self.embedding.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()
