"""Pretrained bodies: the BACKBONES table, loading, taking first layers, and pruning a vocabulary.

Weights are read from safetensors, or from ``pytorch_model.bin`` where a model has nothing else:
as tensors alone (``weights_only``), and without the hub's conversion service.
"""

import os
import pickle
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import distributed, embedded, embedded_ranker, hub
from core.errors import InputError
from core.files import digest, file_digest, write_json
from core.text import json_file

if TYPE_CHECKING:
    import torch

MAX_UNKNOWN_SHARE = 0.05
SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")
SHIFTED_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet")
"""Architectures that number positions from behind the padding piece."""

RELATIVE_POSITIONS = ("deberta", "deberta-v2", "t5", "mt5")
"""Architectures that take texts of any length."""

STAND_INS = "stand-ins"
"""Beside the converted models: folders that are used for models of their names, in a rehearsal."""


@dataclass(frozen=True)
class Backbone:
    """How a body is used."""

    hub_id: str | None
    pooling: str = "mean"
    query_prefix: str = ""
    passage_prefix: str = ""
    normalise: bool = True  # unit vectors: the inner product is a cosine
    max_length: int = 512
    layers: int = 12  # with the next, for estimates before the model is at hand
    hidden: int = 768
    revision: str | None = None  # of the hub's model: a branch, tag or commit; main without it

    @property
    def work(self) -> float:
        """Of a token in all layers, beside that of the embedded model."""
        return self.layers * self.hidden**2 / (12 * 384**2)


BACKBONES = {
    "embedded": Backbone(None, "mean", "query: ", "passage: ", hidden=384),
    "e5-small": Backbone(
        "intfloat/multilingual-e5-small", "mean", "query: ", "passage: ", hidden=384
    ),
    "e5-base": Backbone("intfloat/multilingual-e5-base", "mean", "query: ", "passage: "),
    "mdpr": Backbone("castorini/mdpr-tied-pft-msmarco", "cls", normalise=False),
    "mcontriever": Backbone("facebook/mcontriever-msmarco", "mean", normalise=False),
    "mdeberta": Backbone("microsoft/mdeberta-v3-base", "cls"),
    "rembert": Backbone("google/rembert", "cls", layers=32, hidden=1152),
    "infoxlm-large": Backbone("microsoft/infoxlm-large", "cls", layers=24, hidden=1024),
    "xlm-r-base": Backbone("FacebookAI/xlm-roberta-base", "cls"),
    "xlm-r-large": Backbone("FacebookAI/xlm-roberta-large", "cls", layers=24, hidden=1024),
    "mbert": Backbone("google-bert/bert-base-multilingual-cased", "cls"),
}


def backbone(name: str) -> Backbone:
    """A table entry, or a default one for a local folder or a hub id (``OWNER/MODEL``).

    Of the hub's models ``NAME@REVISION`` is that revision. Raises InputError for another name, for
    the embedded model at a revision, and for the embedded ranker, which is no body.
    """
    if Path(name).is_dir() and name not in BACKBONES:
        return Backbone(name)
    plain, revision = hub.parted(name)
    if is_listed(name):
        entry = BACKBONES[plain]
        if revision and entry.hub_id is None:
            raise InputError(f"backbone {name}: {plain} comes with Continuum and has no revisions")
        return replace(entry, revision=revision)
    if name == embedded_ranker.NAME:
        raise InputError(
            f"{name} is a finished cross-encoder, expected a body; "
            f"name it as model={name} or start={name} of a ranker"
        )
    if plain.count("/") == 1:
        return Backbone(plain, revision=revision)
    raise InputError(
        f"unknown backbone {name!r}; expected one of {', '.join(BACKBONES)}, "
        "a folder, or a hub id OWNER/MODEL"
    )


def is_listed(name: str) -> bool:
    """Whether BACKBONES says how a model is used, at whatever revision."""
    return name.partition("@")[0] in BACKBONES


def sized(name: str, layers: int | None = None) -> Backbone:
    """A backbone with its size as a local folder's configuration has it, cut to ``layers``.

    A hub's model that is not in the table counts as one of 12 layers of 768: for estimates. The
    embedded ranker is as large as its body.
    """
    entry = backbone("embedded" if name == embedded_ranker.NAME else name)
    file = Path(name) / "config.json"
    if file.is_file():
        config = json_file(file)
        entry = replace(
            entry,
            layers=size_in(config, "num_hidden_layers", entry.layers, file),
            hidden=size_in(config, "hidden_size", entry.hidden, file),
        )
    return replace(entry, layers=layers) if layers else entry


def size_in(config: dict, key: str, otherwise: int, file: Path) -> int:
    """A whole number above 0 of a config.json. Raises InputError for anything else."""
    value = config.get(key, otherwise)
    if not isinstance(value, int) or value < 1:
        raise InputError(f"{file}: {key}: found {value!r}, expected a whole number above 0")
    return value


def source(name: str, models: Path) -> str:
    """Where a model is: a folder, or a hub id at the commit that counts, ``OWNER/MODEL@COMMIT``.

    ``name``: a backbone, or the embedded ranker. ``models``: where the embedded models are
    converted, on first use. The functions of this file take it, and ``hub.pretrained`` makes of it
    what transformers takes. Raises InputError as ``hub.commit`` does.
    """
    if stand_in := stand_in_of(name, models):
        return str(stand_in)
    if name == embedded_ranker.NAME:
        return str(embedded_ranker.folder(models))
    entry = backbone(name)
    if entry.hub_id is None:
        return str(embedded.folder(models))
    if Path(entry.hub_id).is_dir():
        return entry.hub_id
    revision = hub.commit(entry.hub_id, entry.revision, models) or entry.revision
    return f"{entry.hub_id}@{revision}" if revision else entry.hub_id


def stand_in_of(name: str, models: Path) -> Path | None:
    """The folder that stands for a model in a rehearsal; None where the model itself is used."""
    folder = models / STAND_INS / name.replace("/", "--")
    return folder if folder.is_dir() else None


def fingerprint(name: str, models: Path) -> str:
    """Of what ``source`` names: a hub id with its commit, a folder with the content of its files.

    A hub id whose commit nobody knows counts by its name. Raises InputError as ``hub.commit`` does.
    """
    if stand_in := stand_in_of(name, models):
        return digest([name, content_of(stand_in, models)])
    if name == embedded_ranker.NAME:
        return embedded_ranker.fingerprint(models)
    entry = backbone(name)
    if entry.hub_id is None:
        return embedded.folder_name()
    if Path(entry.hub_id).is_dir():
        return digest([name, content_of(Path(entry.hub_id), models)])
    commit = hub.commit(entry.hub_id, entry.revision, models)
    plain, _ = hub.parted(name)
    return digest([plain, [commit]] if commit else [name, []])


def content_of(folder: Path, models: Path) -> list[str]:
    """Digests of settings and weights in all folders of a model.

    Pickled weights count only where a folder has no safetensors, since only there they are loaded.
    """
    digests = []
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".safetensors") or is_loaded_pickle(path):
            digests.append(file_digest(path, models / "digests"))
    return digests


def commits(names: Iterable[str], models: Path) -> dict[str, str | None]:
    """Of those models that are the hub's: name -> the commit that is used; for manifests."""
    found: dict[str, str | None] = {}
    for name in names:
        if name == embedded_ranker.NAME or stand_in_of(name, models):
            continue
        entry = backbone(name)
        if entry.hub_id is not None and not Path(entry.hub_id).is_dir():
            found[name] = hub.commit(entry.hub_id, entry.revision, models)
    return found


def is_loaded_pickle(path: Path) -> bool:
    """Whether a file is pickled weights in a folder that has no safetensors."""
    is_pickle = path.name.startswith("pytorch_model") and path.suffix == ".bin"
    return is_pickle and not any(path.parent.glob("*.safetensors"))


def model_file(where: str, name: str, subfolder: str = "") -> Path | None:
    """A model's file, fetched from the hub where ``where`` is no folder; None if it has none.

    Raises InputError where the hub does not answer and nothing of the model is at hand.
    """
    if Path(where).is_dir():
        path = Path(where) / subfolder / name
        return path if path.is_file() else None
    return loading(where, lambda: hub_file(where, name, subfolder))


def hub_file(where: str, name: str, subfolder: str) -> Path | None:
    """A file of a hub's model, from the cache where that has it; None if there is none.

    Raises OSError and ValueError as the hub's client does.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    hub_id, revision = hub.pretrained(where)
    try:
        return Path(hf_hub_download(hub_id, name, subfolder=subfolder or None, **revision))
    except LocalEntryNotFoundError as error:
        # A machine without a network works from its cache: what is not there does not exist for
        # it. With nothing in the cache, or where the hub has answered that it is overloaded or
        # broken, this must not be read as "there is no such file".
        nothing_cached = try_to_load_from_cache(hub_id, "config.json", **revision) is None
        if nothing_cached or hub.status_of(error) is not None:
            raise
        return None
    except EntryNotFoundError:
        return None


def weights_of(where: str, subfolder: str = "") -> dict[str, Any]:
    """Which weights transformers' ``from_pretrained`` is to read: its keyword arguments.

    Safetensors come first. Where there are none, ``pytorch_model.bin`` or its shards are fetched
    and looked through. Raises InputError for a pickle that holds more than tensors.
    """
    if any(model_file(where, name, subfolder) for name in SAFE_WEIGHTS):
        return {"use_safetensors": True}
    pickles = pickled_weights(where, subfolder)
    for path in pickles:
        refuse_more_than_tensors(path, where)
    return {"use_safetensors": not pickles}


def pickled_weights(where: str, subfolder: str) -> list[Path]:
    """``pytorch_model.bin``, or the shards that its index names; empty without either."""
    whole = model_file(where, PICKLED_WEIGHTS[0], subfolder)
    if whole:
        return [whole]
    index = model_file(where, PICKLED_WEIGHTS[1], subfolder)
    if not index:
        return []
    shards = []
    named = json_file(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise InputError(
            f"backbone {where}: {index.name} has no weight_map of files; fetch it again"
        )
    for name in sorted(set(named.values())):
        shard = model_file(where, name, subfolder)
        if shard is None:
            raise InputError(
                f"backbone {where}: {index.name} names {name}, which is not there; fetch it again"
            )
        shards.append(shard)
    return shards


def refuse_more_than_tensors(path: Path, where: str) -> None:
    """Raises InputError unless a pickle holds tensors by their names and nothing else."""
    import torch

    try:
        tensors = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        # Of torch's long message only the name counts; it goes on to advise unsafe loading.
        named = re.search(r"GLOBAL (\S+)", str(error))
        strange = named[1] if named else "no tensors"
    except (RuntimeError, EOFError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"backbone {where}: {path.name} cannot be read ({reason}); fetch it again"
        ) from None
    else:
        strange = other_than_tensors(tensors)
    if strange:
        raise InputError(
            f"backbone {where}: {path.name} holds more than tensors by their names "
            f"(found {strange}); such a file can run code where it is loaded; "
            "name a model with safetensors, or convert this one where you trust it"
        )


def other_than_tensors(content: Any) -> str | None:
    """The type of the first thing in unpickled weights that is no tensor; None if all are."""
    import torch

    if not isinstance(content, dict):
        return type(content).__name__
    for value in content.values():
        if not isinstance(value, torch.Tensor):
            return type(value).__name__
    return None


def load_tokenizer(where: str) -> Any:
    """The tokenizer of a folder or hub id. Raises InputError where it cannot be loaded."""
    from transformers import AutoTokenizer

    place, revision = hub.pretrained(where)
    tokenizer = loading(
        where, lambda: AutoTokenizer.from_pretrained(place, trust_remote_code=False, **revision)
    )
    restore_special_pieces(tokenizer)
    return tokenizer


def restore_special_pieces(tokenizer: Any) -> None:
    """Lets RemBERT's tokenizer put [CLS] and [SEP] around texts, in place.

    transformers 5 makes it of a SentencePiece model without them (``_post_init`` overwrites what
    the class has set up); query and passage would run into each other.
    """
    from tokenizers.processors import TemplateProcessing

    is_rembert = type(tokenizer).__name__ == "RemBertTokenizer"
    if not is_rembert or tokenizer.num_special_tokens_to_add(pair=True) > 0:
        return
    cls, sep = tokenizer.cls_token, tokenizer.sep_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, tokenizer.cls_token_id), (sep, tokenizer.sep_token_id)],
    )


def pad(
    tokenizer: Any, rows: Sequence[dict[str, list[int]]], device: Any
) -> "dict[str, torch.Tensor]":
    """Rows of ``input_ids`` (and ``token_type_ids``) as tensors [rows, longest].

    Adds their ``attention_mask``; all as the tokenizer's own, slower ``pad`` gives them.
    """
    import numpy as np
    import torch

    lengths = np.array([len(row["input_ids"]) for row in rows])
    longest = lengths.max()
    columns = np.arange(longest)
    if tokenizer.padding_side == "right":
        is_token = columns < lengths[:, None]
    else:
        is_token = columns >= (longest - lengths)[:, None]
    padded = {"attention_mask": is_token.astype(np.int64)}
    padding = {
        "input_ids": tokenizer.pad_token_id,
        "token_type_ids": tokenizer.pad_token_type_id,
    }
    for name, filling in padding.items():
        if name in rows[0]:
            padded[name] = np.full(is_token.shape, filling, np.int64)
            padded[name][is_token] = list(chain.from_iterable(row[name] for row in rows))
    tensors = {}
    for name, values in padded.items():
        tensors[name] = torch.from_numpy(values).to(device, non_blocking=True)
    return tensors


def dtype(number_format: str) -> "torch.dtype":
    """Torch's type of ``fp32``, ``bf16`` or ``fp16``."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[number_format]


def loading(where: Any, load: Callable[[], Any]) -> Any:
    """What ``load`` gives; its failures become an InputError that names the model ``where``."""
    # Otherwise transformers asks the hub to convert what has no safetensors, and waits for it.
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    embedded.quiet()
    try:
        return load()
    except InputError:
        raise
    except Exception as error:  # of others' code on others' files, where anything may be raised
        if answer := hub.meaning(error):
            raise InputError(f"backbone {where}: {answer}") from None
        reason = " ".join(str(error).split())[:300] or "no reason given"
        if isinstance(error, LookupError | TypeError | AttributeError):
            reason = f"{type(error).__name__}: {reason}"
        raise InputError(
            f"backbone {where}: cannot be loaded ({reason}); "
            "name a folder, or a hub id that this machine reaches"
        ) from None


def load_encoder(where: str, layers: int | None = None) -> Any:
    """A body without head, in eval mode. ``layers``: the first so many of its layers.

    Raises InputError where the checkpoint lacks a part of the body.
    """
    from transformers import AutoModel

    config = load_config(where, layers)
    without_pooler = config.model_type in ("bert", "xlm-roberta", "roberta")
    extra = {"add_pooling_layer": False} if without_pooler else {}
    return load_whole_body(AutoModel, where, config, layers is None, **extra).eval()


def load_cross_encoder(
    where: str, layers: int | None = None, attention: str = "auto", number_format: str = "fp32"
) -> Any:
    """The architecture's own sequence-classification head with one label, in fp32.

    A head that the checkpoint lacks is drawn anew; a body that it lacks is an InputError.
    ``attention``: the implementation; ``auto`` as ``attention_of`` says for the number format that
    the model is going to compute in.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    config = load_config(where, layers)
    config.num_labels = 1
    chosen = {"attn_implementation": attention}
    if attention == "auto":
        chosen = attention_of(number_format)
    return load_whole_body(
        AutoModelForSequenceClassification,
        where,
        config,
        all_layers=layers is None,
        dtype=torch.float32,
        **chosen,
    )


def attention_of(number_format: str) -> dict[str, str]:
    """How a cross-encoder that learns attends: a keyword of ``from_pretrained``, or none.

    Without one transformers takes SDPA where the architecture has it. In bf16 on a CPU the backward
    pass of torch's kernel for it makes a training a third slower than products of matrices do; its
    forward pass alone, as in scoring, is the faster one.
    """
    slow = number_format == "bf16" and distributed.device() == "cpu"
    return {"attn_implementation": "eager"} if slow else {}


def load_whole_body(
    kind: Any, where: str, config: Any, all_layers: bool = True, **extra: Any
) -> Any:
    """``kind.from_pretrained`` of a checkpoint whose body is whole.

    ``kind``: a class of transformers; ``all_layers``: none were left out on purpose. Raises
    InputError where ``refuse_missing`` and ``refuse_more_layers`` do.
    """
    weights = weights_of(where)
    place, revision = hub.pretrained(where)

    def load() -> Any:
        return kind.from_pretrained(
            place,
            config=config,
            trust_remote_code=False,
            output_loading_info=True,
            **weights,
            **revision,
            **extra,
        )

    model, report = loading(where, load)
    refuse_missing(model, report["missing_keys"], where)
    if all_layers:
        refuse_more_layers(model, report["unexpected_keys"], where)
    return model


def positions(config: Any, tokenizer: Any) -> int | None:
    """How many pieces a model has positions for; None where its positions are relative."""
    most = getattr(config, "max_position_embeddings", None)
    if not isinstance(most, int) or config.model_type in RELATIVE_POSITIONS:
        return None
    if config.model_type in SHIFTED_POSITIONS:
        most -= tokenizer.pad_token_id + 1
    return most


def refuse_missing(model: Any, missing: Iterable[str], where: str) -> None:
    """Raises InputError for weights of the body that a checkpoint lacks: they would be random.

    Heads and poolers may be drawn anew. What a checkpoint has beyond the body is left aside:
    heads, layers that were not asked for, and mDeBERTa's second copy of its word embeddings.
    """
    prefix = model.base_model_prefix
    has_head = hasattr(model, prefix) and getattr(model, prefix) is not model
    of_body = []
    for name in sorted(missing):
        in_body = name.startswith(f"{prefix}.") if has_head else True
        is_pooler = "pooler" in name.split(".")
        if in_body and not is_pooler:
            of_body.append(name)
    if of_body:
        raise InputError(
            f"backbone {where}: its weights lack {len(of_body)} tensors of the body "
            f"{type(model).__name__}, first {', '.join(of_body[:3])}; "
            "config.json and the weights are not of one model: fetch both again, or name another"
        )


def refuse_more_layers(model: Any, unexpected: Iterable[str], where: str | Path) -> None:
    """Raises InputError for weights of layers that a model's config.json knows nothing of.

    They have names as the model's own, but for the number of the layer.
    """

    def without_numbers(name: str) -> str:
        return re.sub(r"\.\d+\.", ".N.", name.removeprefix(f"{model.base_model_prefix}."))

    own = {without_numbers(name) for name in model.state_dict()}
    more = [name for name in sorted(unexpected) if re.search(r"\.\d+\.", name)]
    of_body = [name for name in more if without_numbers(name) in own]
    if of_body:
        raise InputError(
            f"backbone {where}: its weights have {len(of_body)} tensors of layers that its "
            f"config.json does not know, first {', '.join(of_body[:3])}; "
            "config.json and the weights are not of one model: fetch both again, or name another"
        )


def load_config(where: str, layers: int | None, subfolder: str = "") -> Any:
    """The architecture's settings, cut to the first ``layers``.

    Raises InputError for more layers than there are.
    """
    from transformers import AutoConfig

    place, revision = hub.pretrained(where)

    def load() -> Any:
        return AutoConfig.from_pretrained(
            place, trust_remote_code=False, subfolder=subfolder, **revision
        )

    config = loading(where, load)
    if layers is not None:
        if layers > config.num_hidden_layers:
            raise InputError(
                f"backbone {where}: layers: found {layers}, "
                f"expected at most {config.num_hidden_layers}"
            )
        config.num_hidden_layers = layers
    return config


def used_pieces(tokenizer: Any, texts: Iterable[str], batch: int = 1024) -> list[int]:
    """Ids of the pieces that ``texts`` use, and the special ones, ascending."""
    used = set(tokenizer.all_special_ids)
    waiting: list[str] = []

    def count() -> None:
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

    ``folder``: the tokenizer's, or a hub id. Taking away pieces that no best segmentation uses
    leaves that segmentation the best, so the kept text tokenises as before.
    """
    if not (folder / "tokenizer.json").exists():  # of a hub id, or a SentencePiece model alone
        with tempfile.TemporaryDirectory() as converted:
            load_tokenizer(str(folder)).save_pretrained(converted)
            prune_tokenizer(Path(converted), keep, target)
        return
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            shutil.copy(folder / name, target / name)
    state = json_file(folder / "tokenizer.json")
    if state["model"]["type"] != "Unigram":
        raise InputError(
            f"{folder}: prune_vocabulary works on Unigram tokenizers (XLM-R, mDeBERTa, RemBERT), "
            f"found {state['model']['type']}; set prune_vocabulary=false"
        )
    unigram = state["model"]
    vocabulary = unigram["vocab"]
    renumbered = {old: new for new, old in enumerate(keep)}
    unigram["vocab"] = [vocabulary[piece] for piece in keep]
    unigram["unk_id"] = renumbered[unigram["unk_id"]]
    added_tokens = []
    for token in state["added_tokens"]:
        if token["id"] in renumbered:
            added_tokens.append({**token, "id": renumbered[token["id"]]})
    state["added_tokens"] = added_tokens
    post_processor = state["post_processor"] or {}
    for token in post_processor.get("special_tokens", {}).values():
        token["ids"] = [renumbered[piece] for piece in token["ids"]]
    write_json(target / "tokenizer.json", state)
    pruned = {"pieces": len(keep), "of": len(vocabulary), "max_unknown_share": MAX_UNKNOWN_SHARE}
    write_json(target / "pruned.json", pruned)


def prune_embeddings(model: Any, keep: list[int]) -> None:
    """Keeps the rows ``keep`` of the word embeddings, in place."""
    import torch

    old = model.get_input_embeddings()
    new = torch.nn.Embedding(len(keep), old.embedding_dim, padding_idx=None)
    new.weight.data.copy_(old.weight.data[torch.tensor(keep)])
    model.set_input_embeddings(new)
    model.config.vocab_size = len(keep)


def refuse_unknown(tokenizer: Any, ids: Iterable[list[int]], where: str) -> None:
    """A pruned tokenizer refuses text that it was not made for.

    More than MAX_UNKNOWN_SHARE unknown pieces is an InputError.
    """
    total = unknown = 0
    for row in ids:
        total += len(row)
        unknown += row.count(tokenizer.unk_token_id)
    if total and unknown / total > MAX_UNKNOWN_SHARE:
        raise InputError(
            f"{where}: {unknown / total:.1%} of the pieces are unknown to this pruned vocabulary, "
            f"at most {MAX_UNKNOWN_SHARE:.0%} are accepted; train with prune_vocabulary=false, "
            "or on a collection that holds this text"
        )
