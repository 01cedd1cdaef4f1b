"""A forward pass that spends nothing on padding, with the values and gradients of the padded one.

Linear layers, norms and activations work on the real tokens of all pairs in one row [1, tokens,
hidden]; attention alone sees them laid out by pairs. The embeddings stay padded, since FGM moves
them pair by pair. Behind the last layer's attention only the first token of a pair goes on, which
is all that the heads of these models read.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import dropout as dropped
from torch.nn.functional import scaled_dot_product_attention, softmax

from core.distributed import device

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Model types with layers in ``encoder.layer`` and padding on the right, whose heads read the first
# token
PACKED = ("bert", "roberta", "xlm-roberta")


class Layout:
    """Where the tokens of a batch are. ``mask``: bool [pairs, longest], true at real tokens."""

    def __init__(self, mask: torch.Tensor, dtype: torch.dtype):
        counts = mask.sum(dim=1)
        self.shape = mask.shape
        self.places = mask.flatten().nonzero().squeeze(1)  # of the tokens in [pairs * longest]
        self.first = counts.cumsum(dim=0) - counts  # the number of each pair's first token
        nothing = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
        bias = nothing.masked_fill(~mask, torch.finfo(dtype).min)
        self.bias = bias[:, None, None]  # added to scores [pairs, heads, longest, longest]

    def packed(self, values: torch.Tensor) -> torch.Tensor:
        """[1, tokens, …] of [pairs, longest, …]."""
        return values.flatten(0, 1).index_select(0, self.places)[None]

    def by_pairs(self, values: torch.Tensor) -> torch.Tensor:
        """[pairs, longest, …] of [1, tokens, …], 0 at padding."""
        rows = values.new_zeros(self.shape.numel(), *values.shape[2:])
        return rows.index_copy(0, self.places, values[0]).unflatten(0, self.shape)


class Packing:
    """Packs the batches of one model between its embeddings and its head, by hooks."""

    def __init__(self, encoder: Any):
        encoder.register_forward_pre_hook(self.enter, with_kwargs=True)
        encoder.layer[-1].attention.output.register_forward_pre_hook(self.take_first_tokens)
        encoder.register_forward_hook(self.leave)
        self.layout: Layout | None = None

    def enter(self, _encoder: nn.Module, inputs: tuple, named: dict) -> tuple[tuple, dict]:
        """Packs the embedded tokens; attention gets the layout in the place of its mask."""
        (embedded,) = inputs
        mask = named["attention_mask"]
        if mask is None:  # nothing is padded
            mask = torch.ones(embedded.shape[:2], dtype=torch.bool, device=embedded.device)
        self.layout = Layout(mask, embedded.dtype)
        return (self.layout.packed(embedded),), {**named, "attention_mask": self.layout}

    def take_first_tokens(self, _module: nn.Module, inputs: tuple) -> tuple:
        """[1, pairs, hidden] of what the last attention found, and of what that is added to."""
        assert self.layout is not None
        return tuple(values.index_select(1, self.layout.first) for values in inputs)

    def leave(self, _encoder: nn.Module, _inputs: tuple, output: Any) -> Any:
        """[pairs, 1, hidden], which the head takes for pairs of one token."""
        output.last_hidden_state = output.last_hidden_state.transpose(0, 1)
        return output


def sdpa(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, dropout: float
) -> torch.Tensor:
    """Torch's own attention. All [pairs, heads, longest, size]; ``query`` is scaled already."""
    return scaled_dot_product_attention(
        query, key, value, attn_mask=bias, dropout_p=dropout, scale=1.0
    )


def eager(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, dropout: float
) -> torch.Tensor:
    """As ``sdpa``, by matrix products."""
    scores = query @ key.transpose(2, 3) + bias
    return dropped(softmax(scores, dim=-1), dropout) @ value


ATTENTIONS: dict[str, Callable[..., torch.Tensor]] = {"eager": eager, "sdpa": sdpa}


def attention(
    _module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    attend: Callable[..., torch.Tensor],
    dropout: float,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls: [1, tokens, heads, size] of [1, heads, tokens, size] each."""

    def of_heads(values: torch.Tensor) -> torch.Tensor:
        """[pairs, heads, longest, size]."""
        return layout.by_pairs(values.transpose(1, 2)).transpose(1, 2)

    found = attend(of_heads(query * scaling), of_heads(key), of_heads(value), layout.bias, dropout)
    return layout.packed(found.transpose(1, 2)), None


def can_pack(body: "PreTrainedModel") -> bool:
    """Whether a model is packed: on a CPU, where its encoder draws no dropout.

    Packed tokens would be dropped by other draws than padded ones, and a training would come to
    other weights than before.
    """
    known = body.config.model_type in PACKED and body.config._attn_implementation in ATTENTIONS
    draws = False
    for module in body.base_model.modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            draws = True
    return known and not draws and device() == "cpu"


def pack(body: "PreTrainedModel") -> None:
    """From now on the model's forward passes are packed; attention is computed as it was before.

    For a model that ``can_pack``; what is saved of it stays as it is.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import flash_attention_mask

    for kind, attend in ATTENTIONS.items():
        AttentionInterface.register(f"packed_{kind}", partial(attention, attend=attend))
        # The one that gives the mask [pairs, longest] as it is, or None where nothing is padded
        AttentionMaskInterface.register(f"packed_{kind}", flash_attention_mask)
    body.set_attn_implementation(f"packed_{body.config._attn_implementation}")
    Packing(body.base_model.encoder)
