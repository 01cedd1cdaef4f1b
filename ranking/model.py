"""The cross-encoder: an architecture's own sequence-classification head, with multi-sample dropout before its last linear layer."""
import torch
from torch import nn
from torch.nn.functional import dropout

from core.errors import InputError

# model type -> (the dropout whose last input are the features, the last linear layer)
HEADS = {
    "bert": ("dropout", "classifier"), "rembert": ("dropout", "classifier"), "deberta-v2": ("dropout", "classifier"),
    "xlm-roberta": ("classifier.dropout", "classifier.out_proj"), "roberta": ("classifier.dropout", "classifier.out_proj"),
}


class CrossEncoder(nn.Module):
    """Wraps a transformers model, which stays what is saved and shared.

    While training, forward gives logits [samples, pairs], one row a dropout rate (Inoue 2019: the features are dropped several
    times, the linear layer is shared); otherwise [1, pairs] from the plain forward.
    """

    def __init__(self, body, rates: list[float]):
        super().__init__()
        if body.config.model_type not in HEADS:
            raise InputError(f"no multi-sample dropout for the architecture {body.config.model_type!r} yet; expected one of {', '.join(HEADS)} (a line in ranking.model.HEADS)")
        before, last = HEADS[body.config.model_type]
        self.body, self.rates = body, rates
        self._last, self._features = [body.get_submodule(last)], None
        body.get_submodule(before).register_forward_pre_hook(self._keep)

    def _keep(self, _module, inputs) -> None:
        self._features = inputs[0]

    def forward(self, **inputs) -> torch.Tensor:
        logits = self.body(**inputs).logits
        if not self.training:
            return logits.T
        return torch.stack([self._last[0](dropout(self._features, rate)).squeeze(-1) for rate in self.rates])
