"""The cross-encoder: an architecture's own sequence-classification head, with multi-sample dropout.

The head's last product is computed in float32 whatever the number format of the model: bf16 has
eight significant bits, so that two of three logits of a query's candidates would be equal.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import dropout, linear

from core.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# model type -> (the dropout whose last input are the features, the last linear layer)
HEADS = {
    "bert": ("dropout", "classifier"),
    "rembert": ("dropout", "classifier"),
    "deberta-v2": ("dropout", "classifier"),
    "xlm-roberta": ("classifier.dropout", "classifier.out_proj"),
    "roberta": ("classifier.dropout", "classifier.out_proj"),
}


class CrossEncoder(nn.Module):
    """Wraps a transformers model, which stays what is saved and shared.

    While training, forward gives logits [samples, pairs], one row a dropout rate (Inoue 2019: the
    features are dropped several times, the linear layer is shared); otherwise [1, pairs] from the
    plain forward.
    """

    def __init__(self, body: "PreTrainedModel", rates: list[float]):
        super().__init__()
        before, last = head_of(body, "multi-sample dropout")
        if body.config.model_type not in HEADS:
            switch_off_dropout(body)
        self.body = body
        self.rates = rates
        # In a list, so that the layer is no second submodule under another name
        self._last = [in_float32(body, last)]
        self._features = torch.empty(0)
        body.get_submodule(before).register_forward_pre_hook(self._keep)

    def _keep(self, _module: nn.Module, inputs: tuple) -> None:
        self._features = inputs[0]

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Float32 logits, see the class."""
        logits = self.body(**inputs).logits
        if not self.training:
            return logits.T
        last_layer = self._last[0]
        samples = [last_layer(dropout(self._features, rate)) for rate in self.rates]
        return torch.stack([sample.squeeze(-1) for sample in samples])


class Float32Linear(nn.Linear):
    """A linear layer that multiplies in float32, whatever its weights and features are kept in."""

    def __init__(self, layer: nn.Linear):
        nn.Module.__init__(self)  # it has the layer's own parameters and makes none
        self.in_features = layer.in_features
        self.out_features = layer.out_features
        self.weight = layer.weight
        self.bias = layer.bias

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Float32 [..., out_features] of [..., in_features]."""
        bias = None if self.bias is None else self.bias.float()
        with torch.autocast(features.device.type, enabled=False):
            return linear(features.float(), self.weight.float(), bias)


def in_float32(body: "PreTrainedModel", name: str) -> Float32Linear:
    """Puts a Float32Linear with the same parameters in the place of a linear layer of ``body``."""
    layer = body.get_submodule(name)
    assert isinstance(layer, nn.Linear), f"{name} is no linear layer"
    exact = Float32Linear(layer)
    body.set_submodule(name, exact)
    return exact


def head_of(body: "PreTrainedModel", purpose: str) -> tuple[str, str]:
    """The names of a line in HEADS, from there or looked for.

    Raises InputError, which says what ``purpose`` it fails, where the head can't be told.
    """
    model_type = body.config.model_type
    return HEADS[model_type] if model_type in HEADS else found_head(body, purpose)


def found_head(body: "PreTrainedModel", purpose: str) -> tuple[str, str]:
    """The head of an architecture without a line in HEADS: its one linear layer to a single logit.

    Multi-sample dropout drops the input of that layer, so it stands in both places.
    """
    candidates = []
    for name, module in head_modules(body).items():
        if isinstance(module, nn.Linear) and module.out_features == 1:
            candidates.append(name)
    if len(candidates) != 1:
        raise InputError(
            f"no {purpose} for the architecture {body.config.model_type!r}: "
            f"found {len(candidates)} linear layers to one logit outside "
            f"{body.base_model_prefix}, expected one "
            f"(a line in ranking.model.HEADS tells where; it has {', '.join(HEADS)})"
        )
    return candidates[0], candidates[0]


def switch_off_dropout(body: "PreTrainedModel") -> None:
    """Takes away a head's own dropout, where multi-sample dropout stands in its place."""
    for module in head_modules(body).values():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def set_body_dropout(body: "PreTrainedModel", rate: float) -> None:
    """Gives all dropouts within the encoder one rate; those of the head stay as they are."""
    encoder = body.get_submodule(body.base_model_prefix)
    module: Any
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        if hasattr(module, "attention_dropout"):  # a number, as in ModernBERT
            module.attention_dropout = rate


def head_modules(body: "PreTrainedModel") -> dict[str, nn.Module]:
    """All modules outside the encoder, by name."""
    encoder = body.base_model_prefix
    outside = {}
    for name, module in body.named_modules():
        in_encoder = name == encoder or name.startswith(f"{encoder}.")
        if name and not in_encoder:  # the whole model has no name
            outside[name] = module
    return outside
