"""The bi-encoder: one body or two that turn queries and passages into vectors.

It is saved as a sentence-transformers model, which ``SentenceTransformer(FOLDER)`` opens with its
prompts and lengths; two bodies lie there behind a Router. ``retrieval.bodies`` loads it like any
other, and a training may start from it again.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from core import backbones
from core.errors import InputError
from core.files import write_json
from retrieval.bodies import MODULE_LIST, SETTINGS, load_modules, modules_of, pool, prompts_of

Side = Literal["query", "passage"]
SIDES: tuple[Side, Side] = ("query", "passage")

TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
POOLING = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
NORMALIZE = "sentence_transformers.base.modules.normalize.Normalize"
ROUTER = "sentence_transformers.base.modules.router.Router"
ROUTES: dict[Side, str] = {"query": "query", "passage": "document"}
"""What sentence-transformers calls the two sides."""


class Layout(NamedTuple):
    """How hidden states become vectors, and what stands before a text."""

    pooling: str
    normalise: bool
    prefixes: dict[Side, str]


class Pretrained(NamedTuple):
    """What a training starts from; ``bodies`` has one for both sides, ``shared``, or one each."""

    bodies: dict[str, Any]
    tokenizer: Any
    layout: Layout


class BiEncoder(nn.Module):
    """Vectors of queries and passages, by one body (``shared``) or by one each."""

    def __init__(self, bodies: Mapping[str, nn.Module], pooling: str, normalise: bool):
        super().__init__()
        self.towers = nn.ModuleDict(bodies)
        self.pooling = pooling
        self.normalise = normalise
        config: Any = next(iter(bodies.values())).config
        self.dimension: int = config.hidden_size  # of a vector

    def tower(self, side: Side) -> str:
        """The name of the body for a side."""
        return "shared" if "shared" in self.towers else side

    def forward(self, tower: str, **inputs: torch.Tensor) -> torch.Tensor:
        """Float32 [texts, dimension] of padded texts, pooled in float32 whatever the body's format.

        ``inputs``: ``input_ids`` and ``attention_mask``, [texts, tokens].
        """
        hidden = self.towers[tower](**inputs).last_hidden_state
        with torch.autocast(hidden.device.type, enabled=False):
            return pool(hidden.float(), inputs["attention_mask"], self.pooling, self.normalise)


# ---- Loading


def load(name: str, models: Path, layers: int | None = None) -> Pretrained:
    """What a backbone's name, a hub id or a folder holds, bodies in fp32.

    Raises InputError for a sentence-transformers model that is more than a Transformer, its
    pooling by the first token or the mean, and a Normalize.
    """
    where = backbones.source(name, models)
    modules = None if backbones.is_listed(name) else modules_of(where)
    if modules is not None:
        return of_modules(load_modules(where, modules, layers), where)
    entry = backbones.backbone(name)
    body = backbones.load_encoder(where, layers).float()
    prefixes: dict[Side, str] = {"query": entry.query_prefix, "passage": entry.passage_prefix}
    layout = Layout(entry.pooling, entry.normalise, prefixes)
    return Pretrained({"shared": body}, backbones.load_tokenizer(where), layout)


def with_random_weights(begun: Pretrained) -> Pretrained:
    """The same architectures and tokenizer, weights drawn by torch's seed."""
    bodies = {name: random_twin(body) for name, body in begun.bodies.items()}
    return begun._replace(bodies=bodies)


def random_twin(body: Any) -> Any:
    """A body of the same architecture, number format and device, in eval mode.

    Its weights are drawn as the architecture does. No deep copy: at ZeRO 3 that would have
    DeepSpeed's hooks.
    """
    first = next(body.parameters())
    twin = type(body)(copy.deepcopy(body.config))
    for name, _ in list(twin.named_children()):
        if getattr(body, name) is None:  # a pooler, which is not asked for
            setattr(twin, name, None)
    return twin.to(device=first.device, dtype=first.dtype).eval()


def of_modules(model: Any, where: str) -> Pretrained:
    """The bodies of a SentenceTransformer. Raises InputError as ``load`` does."""
    first, *tail = model
    if type(first).__name__ == "Router":
        chains = {}
        for side, route in ROUTES.items():
            if route not in first.sub_modules:
                raise InputError(
                    f"encoder {where}: a Router with the routes {', '.join(first.sub_modules)}, "
                    f"expected {' and '.join(ROUTES.values())}"
                )
            chains[str(side)] = [*first.sub_modules[route], *tail]
    else:
        chains = {"shared": [first, *tail]}
    bodies = {}
    ways = set()  # of pooling: all towers must have one
    for tower, chain in chains.items():
        body, pooling, normalise = plain(chain, where)
        bodies[tower] = body
        ways.add((pooling, normalise))
    if len(ways) > 1:
        raise InputError(f"encoder {where}: its towers pool in two ways, expected one")
    first_chain = next(iter(chains.values()))
    layout = Layout(pooling, normalise, dict(prompts_of(model, {})))
    return Pretrained(bodies, first_chain[0].tokenizer, layout)


def plain(chain: list[Any], where: str) -> tuple[Any, str, bool]:
    """(body, pooling, whether vectors are normalised) of modules one after another."""
    kinds = [type(module).__name__ for module in chain]
    normalise = kinds[-1] == "Normalize"
    pooling = getattr(chain[1], "pooling_mode", None) if len(chain) > 1 else None
    is_plain = kinds in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
    if not is_plain or pooling not in ("cls", "mean"):
        raise InputError(
            f"encoder {where}: found the modules {', '.join(kinds)} with pooling {pooling}, "
            "expected a Transformer, a Pooling by cls or mean, and at most a Normalize: "
            "others cannot be trained here"
        )
    return chain[0].model.float(), pooling, normalise


def parted(bodies: dict[str, Any], towers: str | None, name: str) -> dict[str, Any]:
    """The bodies as ``towers`` wants them: two begin alike; as they are without it.

    Raises InputError where two bodies would have to become one.
    """
    if towers == "shared" and "shared" not in bodies:
        raise InputError(
            f"retrieval.encoders.{name}.towers: found shared, but it starts from an encoder with "
            "two bodies; set towers=separate, or leave it out"
        )
    if towers == "separate" and "shared" in bodies:
        body = bodies["shared"]
        return {"query": body, "passage": copy.deepcopy(body)}
    return bodies


def set_dropout(body: nn.Module, rate: float) -> None:
    """Gives all dropouts of a body one rate."""
    module: Any
    for module in body.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        if hasattr(module, "attention_dropout"):  # a number, as in ModernBERT
            module.attention_dropout = rate


# ---- Saving


def save(
    model: BiEncoder, tokenizer: Any, layout: Layout, lengths: dict[Side, int], folder: Path
) -> None:
    """Writes a sentence-transformers model, weights in fp32 whatever the training's format.

    ``lengths``: in tokens, at which a side's texts are cut.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if "shared" in model.towers:
        save_tower(model.towers["shared"], tokenizer, lengths, folder)
        modules = [(TRANSFORMER, ""), (POOLING, "1_Pooling")]
        write_pooling(folder / "1_Pooling", model)
    else:
        modules = [(ROUTER, "")]
        write_router(model, tokenizer, lengths, folder)
    if model.normalise:
        place = f"{len(modules)}_Normalize"
        modules.append((NORMALIZE, place))
        output = {
            "module_input_name": "sentence_embedding",
            "module_output_name": "sentence_embedding",
        }
        write_json(folder / place / "config.json", output)
    entries = []
    for number, (kind, place) in enumerate(modules):
        entries.append({"idx": number, "name": str(number), "path": place, "type": kind})
    write_json(folder / MODULE_LIST, entries)
    settings = {
        "model_type": "SentenceTransformer",
        "prompts": {ROUTES[side]: layout.prefixes[side] for side in SIDES},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine" if model.normalise else "dot",
    }
    write_json(folder / SETTINGS, settings)


def save_tower(body: Any, tokenizer: Any, lengths: dict[Side, int], folder: Path) -> None:
    """A body with its tokenizer, and the lengths of both sides."""
    weights = {name: tensor.float() for name, tensor in body.state_dict().items()}
    body.save_pretrained(folder, state_dict=weights)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)
    edit(folder / "config.json", dtype="float32")
    edit(folder / "tokenizer_config.json", model_max_length=max(lengths.values()))
    transformer = {
        "transformer_task": "feature-extraction",
        "modality_config": {
            "text": {"method": "forward", "method_output_name": "last_hidden_state"}
        },
        "module_output_name": "token_embeddings",
        "query_length": lengths["query"],
        "document_length": lengths["passage"],
    }
    write_json(folder / "sentence_bert_config.json", transformer)


def edit(path: Path, **values: Any) -> None:
    """Sets values of a JSON file."""
    write_json(path, {**json.loads(path.read_text("utf-8")), **values})


def write_pooling(folder: Path, model: BiEncoder) -> None:
    """The module between hidden states and vectors."""
    pooling = {
        "embedding_dimension": model.dimension,
        "pooling_mode": model.pooling,
        "include_prompt": True,
    }
    write_json(folder / "config.json", pooling)


def write_router(model: BiEncoder, tokenizer: Any, lengths: dict[Side, int], folder: Path) -> None:
    """Two bodies, each with its pooling, and the note that says which side takes which."""
    types: dict[str, str] = {}
    structure: dict[str, list[str]] = {}
    for side, route in ROUTES.items():
        transformer = f"{route}_0_Transformer"
        pooling = f"{route}_1_Pooling"
        save_tower(model.towers[side], tokenizer, lengths, folder / transformer)
        write_pooling(folder / pooling, model)
        types |= {transformer: TRANSFORMER, pooling: POOLING}
        structure[route] = [transformer, pooling]
    parameters = {"default_route": "document", "allow_empty_key": True, "route_mappings": {}}
    router = {"types": types, "structure": structure, "parameters": parameters}
    write_json(folder / "router_config.json", router)
