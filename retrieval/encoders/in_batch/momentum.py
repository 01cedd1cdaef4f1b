"""MoCo's momentum encoder (contriever-2022, 3.1.3 and equation 2; He et al. 2020).

Passages are encoded without gradient by a second encoder, whose weights follow those in training
slowly: theta_k <- m theta_k + (1 - m) theta_q. With a queue that is ``alone`` it is MoCo.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn

from core import distributed
from core.errors import InputError
from retrieval.encoder import BiEncoder, random_twin
from retrieval.encoders.batch import Batch
from retrieval.encoders.contrastive import Scored
from retrieval.encoders.material import Material
from training.average import joined, own_part

if TYPE_CHECKING:
    from retrieval.encoders.encoding import Encode


class Momentum:
    """The second encoder, whole on every process at every stage of ZeRO, without dropout.

    Its weights are kept in fp32, as a step of 1 - m is lost in bf16, and computed with in the
    format of the model in training. Raises InputError for two bodies: the passages' own would get
    no gradient, and never learn.
    """

    def __init__(self, material: Material):
        self.name = material.name
        self.decay = material.settings.momentum.decay
        self.weights: dict[str, torch.Tensor] = {}  # theta_k by name; empty before the first step
        self.model: BiEncoder | None = None

    def waits(self, step: int) -> bool:
        """Batches do not depend on it."""
        return False

    def begin(self, step: int, encode: "Encode") -> None:
        """Follows what the step before made of the model; before the first one it is a copy."""
        if self.model is None:
            self.model = self.made_like(encode.model)
        is_first = not self.weights
        followed = dict(encode.model.named_parameters())
        for name, parameter in self.model.named_parameters():
            newest = whole(followed[name])
            if is_first:
                self.weights[name] = newest.clone()
            else:
                self.weights[name].lerp_(newest, 1 - self.decay)
            parameter.data = self.weights[name].to(parameter.dtype)  # in fp32 the same tensor

    def made_like(self, model: BiEncoder) -> BiEncoder:
        """An encoder of the same architecture, whose weights are still to be set."""
        if "shared" not in model.towers:
            raise InputError(
                f"retrieval.encoders.{self.name}: momentum encodes passages without gradient, so a "
                "body for passages alone would never learn; set towers=shared and start from an "
                "encoder with one body, or take momentum out of in_batch"
            )
        body = model.towers["shared"]
        with torch.random.fork_rng(devices=[]):
            twin = random_twin(body)
        buffers = dict(body.named_buffers())
        for name, buffer in twin.named_buffers():
            buffer.copy_(buffers[name])
        made = BiEncoder({"shared": twin}, model.pooling, model.normalise)
        return made.requires_grad_(False).eval()

    def keys(self) -> BiEncoder | None:
        """The second encoder."""
        return self.model

    def score(self, scored: Scored, batch: Batch) -> None:
        """Nothing: the passages are its vectors already."""

    def after(self, scored: Scored, batch: Batch) -> None:
        """Nothing."""

    def state(self) -> dict[str, torch.Tensor]:
        """Its weights in fp32."""
        return dict(self.weights)

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """As they were; the next ``begin`` goes on from them."""
        self.weights = {name: tensor.to(distributed.device()) for name, tensor in state.items()}


def whole(parameter: nn.Parameter) -> torch.Tensor:
    """A parameter in fp32, on every process, also where ZeRO 3 divides it."""
    if hasattr(parameter, "ds_tensor"):
        joint = joined(own_part(parameter), parameter)
        return joint.to(parameter.device, torch.float32)
    return parameter.detach().float()
