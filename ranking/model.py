"""The cross-encoder: an architecture's own sequence-classification head, with multi-sample dropout before its last linear layer."""

import torch
from torch import nn
from torch.nn.functional import dropout

from core.errors import InputError

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

    While training, forward gives logits [samples, pairs], one row a dropout rate (Inoue 2019: the features are dropped several
    times, the linear layer is shared); otherwise [1, pairs] from the plain forward.
    """

    def __init__(self, body, rates: list[float]):
        super().__init__()
        before, last = HEADS.get(body.config.model_type) or found_head(body)
        self.body, self.rates = body, rates
        self._last, self._features = [body.get_submodule(last)], None
        body.get_submodule(before).register_forward_pre_hook(self._keep)

    def _keep(self, _module, inputs) -> None:
        self._features = inputs[0]

    def forward(self, **inputs) -> torch.Tensor:
        logits = self.body(**inputs).logits
        if not self.training:
            return logits.T
        return torch.stack(
            [self._last[0](dropout(self._features, rate)).squeeze(-1) for rate in self.rates]
        )


def found_head(body) -> tuple[str, str]:
    """The head of an architecture without a line in HEADS: the one linear layer to a single logit, whose input is dropped; the dropout that
    the head has itself is switched off, as multi-sample dropout stands in its place."""
    base = body.base_model_prefix + "."
    head = {
        name: module
        for name, module in body.named_modules()
        if name and not (name + ".").startswith(base)
    }
    last = [
        name
        for name, module in head.items()
        if isinstance(module, nn.Linear) and module.out_features == 1
    ]
    if len(last) != 1:
        raise InputError(
            f"no multi-sample dropout for the architecture {body.config.model_type!r}: found {len(last)} linear layers to one logit outside {base[:-1]}, expected one "
            f"(a line in ranking.model.HEADS tells where; it has {', '.join(HEADS)})"
        )
    for module in head.values():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return last[0], last[0]
