"""Pretrained bodies: the BACKBONES table, loading, taking the first layers, and pruning a vocabulary."""

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core import embedded
from core.errors import InputError
from core.files import digest, file_digest, write_json

MAX_UNKNOWN_SHARE = 0.05


@dataclass(frozen=True)
class Backbone:
    """How a body is used. ``half``: it bears fp16 (mDeBERTa overflows there)."""

    hub_id: str | None
    pooling: str = "mean"
    query_prefix: str = ""
    passage_prefix: str = ""
    normalise: bool = True  # unit vectors: the inner product is a cosine
    max_length: int = 512
    half: bool = True


BACKBONES = {
    "embedded": Backbone(None, "mean", "query: ", "passage: "),
    "e5-small": Backbone("intfloat/multilingual-e5-small", "mean", "query: ", "passage: "),
    "e5-base": Backbone("intfloat/multilingual-e5-base", "mean", "query: ", "passage: "),
    "mdpr": Backbone("castorini/mdpr-tied-pft-msmarco", "cls", normalise=False),
    "mcontriever": Backbone("facebook/mcontriever-msmarco", "mean", normalise=False),
    "mdeberta": Backbone("microsoft/mdeberta-v3-base", "cls", half=False),
    "rembert": Backbone("google/rembert", "cls"),
    "infoxlm-large": Backbone("microsoft/infoxlm-large", "cls"),
    "xlm-r-base": Backbone("FacebookAI/xlm-roberta-base", "cls"),
    "xlm-r-large": Backbone("FacebookAI/xlm-roberta-large", "cls"),
    "mbert": Backbone("google-bert/bert-base-multilingual-cased", "cls"),
}


def backbone(name: str) -> Backbone:
    """A table entry, or a default one for a local folder or a hub id (``OWNER/MODEL``)."""
    if name in BACKBONES:
        return BACKBONES[name]
    if Path(name).is_dir() or name.count("/") == 1:
        return Backbone(name)
    raise InputError(
        f"unknown backbone {name!r}; expected one of {', '.join(BACKBONES)}, a folder, or a hub id OWNER/MODEL"
    )


def sentence_transformer(name: str) -> Backbone | None:
    """The ways of a sentence-transformers model, from its own files: pooling, prompts, normalisation; None for other models. A module that
    is none of transformer, pooling and normalisation is an InputError: its vectors would not be the model's."""
    from transformers.utils import cached_file

    def read(file):
        path = cached_file(
            name,
            file,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return json.loads(Path(path).read_text("utf-8")) if path else None

    modules = read("modules.json")
    if modules is None:
        return None
    kinds = {module["type"].rsplit(".", 1)[1]: module["path"] for module in modules}
    strange = sorted(kinds.keys() - {"Transformer", "Pooling", "Normalize"})
    if strange:
        raise InputError(
            f"backbone {name}: has the module {strange[0]}, which is not supported; expected a transformer, mean or CLS pooling, and normalisation"
        )
    pooling, prompts = (
        read(f"{kinds['Pooling']}/config.json"),
        (read("config_sentence_transformers.json") or {}).get("prompts", {}),
    )
    modes = [
        mode
        for mode in ("mean", "cls")
        if pooling.get("pooling_mode") == mode
        or pooling.get({"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}[mode])
    ]
    if not modes:
        raise InputError(
            f"backbone {name}: its pooling is neither mean nor CLS; set retrieval.dense.pooling if one of them will do"
        )
    limit = (read("sentence_bert_config.json") or {}).get("max_seq_length")
    return Backbone(
        name,
        modes[0],
        prompts.get("query") or "",
        prompts.get("document") or prompts.get("passage") or "",
        "Normalize" in kinds,
        limit or 512,
    )


def source(name: str, models: Path) -> str:
    """What transformers' from_pretrained takes: a folder or a hub id."""
    found = backbone(name)
    return str(embedded.folder(models)) if found.hub_id is None else found.hub_id


def fingerprint(name: str, models: Path) -> str:
    """Of what ``source`` names: the hub id, or the content of a local folder with those in it."""
    found = backbone(name)
    if found.hub_id is None:
        return embedded.folder_name()
    folder = Path(found.hub_id)
    files = (
        sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".safetensors"))
        if folder.is_dir()
        else []
    )
    return digest([name, [file_digest(p, models / "digests") for p in files]])


def load_tokenizer(where: str):
    from transformers import AutoTokenizer

    return loading(where, lambda: AutoTokenizer.from_pretrained(where, trust_remote_code=False))


def pad(tokenizer, rows: Sequence[dict[str, list[int]]], device) -> dict:
    """Rows of ``input_ids`` (and ``token_type_ids``) as tensors [rows, longest] with their ``attention_mask``, as the tokenizer's own, slower
    ``pad`` gives them."""
    import numpy as np
    import torch

    lengths = np.array([len(row["input_ids"]) for row in rows])
    columns = np.arange(lengths.max())
    there = (
        columns < lengths[:, None]
        if tokenizer.padding_side == "right"
        else columns >= (lengths.max() - lengths)[:, None]
    )
    found = {"attention_mask": there.astype(np.int64)}
    for name, filling in (
        ("input_ids", tokenizer.pad_token_id),
        ("token_type_ids", tokenizer.pad_token_type_id),
    ):
        if name in rows[0]:
            found[name] = np.full(there.shape, filling, np.int64)
            found[name][there] = [i for row in rows for i in row[name]]
    return {
        name: torch.from_numpy(values).to(device, non_blocking=True)
        for name, values in found.items()
    }


def dtype(number_format: str):
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[number_format]


def loading(where, load):
    from safetensors import SafetensorError

    embedded.quiet()
    try:
        return load()
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise InputError(
            f"backbone {where}: cannot be loaded ({' '.join(str(error).split())[:300]}); name a folder, or a hub id that this machine reaches"
        ) from None


def load_encoder(where: str, layers: int | None = None):
    """A body without head, in eval mode."""
    from transformers import AutoConfig, AutoModel

    config = first_layers(
        loading(where, lambda: AutoConfig.from_pretrained(where, trust_remote_code=False)),
        layers,
        where,
    )
    extra = (
        {"add_pooling_layer": False}
        if config.model_type in ("bert", "xlm-roberta", "roberta")
        else {}
    )
    return loading(
        where,
        lambda: AutoModel.from_pretrained(
            where, config=config, trust_remote_code=False, use_safetensors=True, **extra
        ),
    ).eval()


def load_cross_encoder(where: str, layers: int | None = None, attention: str = "auto"):
    """The architecture's own sequence-classification head with one label, in fp32; a head that the checkpoint lacks is drawn anew.
    ``attention``: the implementation; ``auto`` is SDPA where the architecture has it."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = first_layers(
        loading(where, lambda: AutoConfig.from_pretrained(where, trust_remote_code=False)),
        layers,
        where,
    )
    config.num_labels = 1
    chosen = {} if attention == "auto" else {"attn_implementation": attention}
    return loading(
        where,
        lambda: AutoModelForSequenceClassification.from_pretrained(
            where,
            config=config,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            **chosen,
        ),
    )


def first_layers(config, layers: int | None, where: str):
    if layers is not None:
        if layers > config.num_hidden_layers:
            raise InputError(
                f"backbone {where}: layers: found {layers}, expected at most {config.num_hidden_layers}"
            )
        config.num_hidden_layers = layers
    return config


def used_pieces(tokenizer, texts: Iterable[str], batch: int = 1024) -> list[int]:
    """Ids of the pieces that ``texts`` use, and the special ones, ascending."""
    used, waiting = set(tokenizer.all_special_ids), []

    def count():
        for ids in tokenizer(waiting, add_special_tokens=False)["input_ids"]:
            used.update(ids)
        waiting.clear()

    for text in texts:
        waiting.append(text)
        if len(waiting) == batch:
            count()
    if waiting:
        count()
    return sorted(used)


def prune_tokenizer(folder: Path, keep: list[int], target: Path) -> None:
    """Copies a fast Unigram tokenizer with the pieces ``keep`` alone, renumbered in their order.

    Taking away pieces that no best segmentation uses leaves that segmentation the best, so the kept text tokenises as before.
    """
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            shutil.copy(folder / name, target / name)
    state = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    if state["model"]["type"] != "Unigram":
        raise InputError(
            f"{folder}: prune_vocabulary works on Unigram tokenizers (XLM-R, mDeBERTa, RemBERT), found {state['model']['type']}; set prune_vocabulary=false"
        )
    vocabulary, new = state["model"]["vocab"], {old: i for i, old in enumerate(keep)}
    state["model"]["vocab"] = [vocabulary[i] for i in keep]
    state["model"]["unk_id"] = new[state["model"]["unk_id"]]
    state["added_tokens"] = [
        {**token, "id": new[token["id"]]} for token in state["added_tokens"] if token["id"] in new
    ]
    for token in (state["post_processor"] or {}).get("special_tokens", {}).values():
        token["ids"] = [new[i] for i in token["ids"]]
    write_json(target / "tokenizer.json", state)
    write_json(
        target / "pruned.json",
        {"pieces": len(keep), "of": len(vocabulary), "max_unknown_share": MAX_UNKNOWN_SHARE},
    )


def prune_embeddings(model, keep: list[int]) -> None:
    """Keeps the rows ``keep`` of the word embeddings, in place."""
    import torch

    old = model.get_input_embeddings()
    new = torch.nn.Embedding(len(keep), old.embedding_dim, padding_idx=None)
    new.weight.data.copy_(old.weight.data[torch.tensor(keep)])
    model.set_input_embeddings(new)
    model.config.vocab_size = len(keep)


def refuse_unknown(tokenizer, ids: Iterable[list[int]], where: str) -> None:
    """A pruned tokenizer refuses text that it was not made for: more than MAX_UNKNOWN_SHARE unknown pieces is an InputError."""
    total = unknown = 0
    for row in ids:
        total += len(row)
        unknown += row.count(tokenizer.unk_token_id)
    if total and unknown / total > MAX_UNKNOWN_SHARE:
        raise InputError(
            f"{where}: {unknown / total:.1%} of the pieces are unknown to this pruned vocabulary, at most {MAX_UNKNOWN_SHARE:.0%} are accepted; train with prune_vocabulary=false, or on a collection that holds this text"
        )
