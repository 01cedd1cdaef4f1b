"""Which weights of a cross-encoder are trained: all, those of the last layers, or adapters.

``train_layers`` freezes the body below its last layers. ``lora`` freezes the whole body and adds a
product of two narrow matrices to its linear layers (Hu et al. 2022, section 4.1), by ``peft``. The
head, to which a pooler counts, is trained whole in any case.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import backbones, distributed
from core.config import did_you_mean
from core.console import say
from core.errors import InputError
from core.settings import Lora, Ranker

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ADAPTER = "default"
"""By what name peft knows the adapters: there is one a layer."""


def choose_trained(body: "PreTrainedModel", ranker: Ranker, name: str) -> None:
    """Freezes what ``train_layers`` and ``lora`` leave as it is; the adapters are put in place.

    Other modules keep their names and classes. Raises InputError for more layers than there are,
    and for targets that are no linear layers or that would stay frozen.
    """
    where = f"ranking: {name}"
    if ranker.train_layers is not None:
        freeze_below(body, ranker.train_layers, where)
    if ranker.lora is not None:
        add_adapters(body, ranker.lora, ranker.seed, where)
    if ranker.train_layers is not None or ranker.lora is not None:
        whole = trained = 0
        for parameter in body.parameters():
            whole += parameter.numel()
            trained += parameter.numel() if parameter.requires_grad else 0
        say(f"  {name}: trains {trained:,} of {whole:,} weights")


def in_head(body: "PreTrainedModel", name: str) -> bool:
    """Whether a parameter or module is of the head, to which a pooler counts."""
    return not name.startswith(f"{body.base_model_prefix}.") or ".pooler." in name


# ---- The last layers


def check_layers(where: str, ranker: Ranker, first: Ranker) -> None:
    """Raises InputError for ``train_layers`` beyond the layers of a body whose size is known.

    ``first``: the beginning of its chain. Of a hub's model that is not in BACKBONES nothing is
    known before it is loaded.
    """
    if ranker.train_layers is None:
        return
    weights = first.start or first.model or first.backbone
    layers = ranker.layers or first.layers
    if layers is None and (weights in backbones.BACKBONES or Path(weights).is_dir()):
        layers = backbones.sized(weights).layers
    if layers is not None:
        refuse_more(where, ranker.train_layers, layers)


def refuse_more(where: str, train_layers: int, layers: int) -> None:
    """Raises InputError where more layers would be trained than the body has."""
    if train_layers > layers:
        raise InputError(
            f"{where}: train_layers: found {train_layers}, expected at most {layers}, "
            "the layers of its body"
        )


def freeze_below(body: "PreTrainedModel", count: int, where: str) -> None:
    """Freezes all of the body that is in none of its last ``count`` layers.

    That is also what the layers share, such as DeBERTa's relative positions. No backward pass goes
    below these layers then, unless FGM asks for the gradient of the embeddings.
    """
    layers = layer_names(body, where)
    refuse_more(where, count, len(layers))
    trained = tuple(f"{layer}." for layer in layers[-count:])
    for name, parameter in body.named_parameters():
        if not in_head(body, name) and not name.startswith(trained):
            parameter.requires_grad_(False)


def layer_names(body: "PreTrainedModel", where: str) -> list[str]:
    """The modules of the body's layers, the first one first: those in a list of their number."""
    from torch.nn import ModuleList

    encoder = body.base_model_prefix
    count = body.config.num_hidden_layers
    for name, module in body.get_submodule(encoder).named_modules():
        if isinstance(module, ModuleList) and len(module) == count:
            return [f"{encoder}.{name}.{number}" for number in range(count)]
    raise InputError(
        f"{where}: train_layers: the architecture {body.config.model_type!r} has no list of its "
        f"{count} layers, so that the last ones can't be told; take the setting away"
    )


# ---- Adapters


def add_adapters(body: "PreTrainedModel", lora: Lora, seed: int, where: str) -> None:
    """Puts adapters beside linear layers, which are frozen with all else but the head.

    One of each adapter's matrices is zero at first, so that the model is the one without them.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets(body, lora.targets, where),
    )
    torch.manual_seed(distributed.seed_of(seed, 0, "adapters"))
    inject_adapter_in_model(config, body, ADAPTER)
    for name, parameter in body.named_parameters():
        if in_head(body, name):
            parameter.requires_grad_(True)


def targets(body: "PreTrainedModel", wanted: Sequence[str], where: str) -> list[str]:
    """The linear layers to adapt, by their whole names: those whose names end with one ``wanted``.

    All of the body, less the frozen ones, without any.
    """
    from torch.nn import Linear

    linear: list[str] = []
    trained: list[str] = []
    for name, module in body.named_modules():
        if isinstance(module, Linear) and not in_head(body, name):
            linear.append(name)
            if module.weight.requires_grad:
                trained.append(name)
    for target in wanted:
        found = [name for name in linear if ends_with(name, target)]
        if not found:
            refuse_unknown(target, linear, where)
        if not set(found) & set(trained):
            raise InputError(
                f"{where}: lora.targets: {target} is in layers that train_layers freezes alone, "
                "so that its adapters would not be trained; raise train_layers, or take one away"
            )
    if not trained:
        raise InputError(
            f"{where}: lora: nothing to train, the architecture {body.config.model_type!r} has "
            "no linear layers of torch in its body; take the setting away"
        )
    if not wanted:
        return trained
    return [name for name in trained if any(ends_with(name, target) for target in wanted)]


def ends_with(name: str, target: str) -> bool:
    """Whether the last parts of a dotted name are those of ``target``."""
    return f".{name}".endswith(f".{target}")


def refuse_unknown(target: str, linear: Iterable[str], where: str) -> None:
    """Raises InputError for a target that no linear layer of the body is named by."""
    parts = target.count(".") + 1
    names = []
    endings = []
    for name in linear:
        path = name.split(".")
        names.append(path[-1])
        endings.append(".".join(path[-parts:]))
    hint = did_you_mean([target], list(dict.fromkeys(endings)))
    raise InputError(
        f"{where}: lora.targets: no linear layer of the body has the name {target}{hint} "
        f"Known here: {', '.join(dict.fromkeys(names))}"
    )


# ---- The model as it is saved


def merged(body: "PreTrainedModel") -> "dict[str, torch.Tensor]":
    """The weights of the plain model that computes the same, without adapters.

    ``body`` itself stays as it is: adding and taking away again would round its weights.
    """
    from peft.tuners.lora import LoraLayer

    weights = {}
    for name, tensor in body.state_dict().items():
        if ".lora_" not in name:
            weights[name.replace(".base_layer.", ".")] = tensor
    for name, module in body.named_modules():
        if isinstance(module, LoraLayer):
            weights[f"{name}.weight"] = merged_weight(module)
    return weights


def merged_weight(layer: Any) -> "torch.Tensor":
    """The weight [out, in] of peft's LoraLayer with its adapter's product, added in fp32."""
    weight = layer.get_base_layer().weight.detach()
    up = layer.lora_B[ADAPTER].weight.detach().float()  # [out, rank]
    down = layer.lora_A[ADAPTER].weight.detach().float()  # [rank, in]
    total = weight.float() + layer.scaling[ADAPTER] * (up @ down)
    return total.to(weight.dtype)
