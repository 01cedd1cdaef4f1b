"""Models that stand for others in a rehearsal: the same architecture, random and tiny.

The architecture is that of the model's own config.json where the hub or the cache gives it, and
that of SHAPES otherwise. The tokenizer is of the same kind, trained on the texts at hand.
"""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core import backbones, embedded, embedded_ranker, hub
from core.distributed import seed_of
from core.errors import InputError
from core.files import digest, write_json
from core.text import json_file

WIDTH = 32
LAYERS = 2  # at least; more where a configuration asks for them
HEADS = 2
PIECES = 1000  # of a tokenizer, beside the letters of its texts
FETCHED = 100e6  # bytes of weights up to which the hub's model itself is used
NOTE = "stand-in.json"
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
SPECIAL_WORDPIECE = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MODULES = "sentence_transformers.models."


class Shape(NamedTuple):
    """What is known of a model of the hub without asking."""

    model_type: str
    pieces: str = "unigram"  # of its tokenizer; or wordpiece
    modules: bool = False  # whether it is a sentence-transformers model


SHAPES = {
    "intfloat/multilingual-e5-small": Shape("bert"),
    "intfloat/multilingual-e5-base": Shape("xlm-roberta"),
    "castorini/mdpr-tied-pft-msmarco": Shape("bert", "wordpiece"),
    "facebook/mcontriever-msmarco": Shape("bert", "wordpiece"),
    "microsoft/mdeberta-v3-base": Shape("deberta-v2"),
    "google/rembert": Shape("rembert"),
    "microsoft/infoxlm-large": Shape("xlm-roberta"),
    "FacebookAI/xlm-roberta-base": Shape("xlm-roberta"),
    "FacebookAI/xlm-roberta-large": Shape("xlm-roberta"),
    "google-bert/bert-base-multilingual-cased": Shape("bert", "wordpiece"),
    "sentence-transformers/paraphrase-multilingual-mpnet-base-v2": Shape(
        "xlm-roberta", modules=True
    ),
}
UNKNOWN = Shape("xlm-roberta")

# settings of architectures without which they would be others; sizes come over them
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": {"max_position_embeddings": 512},
    "xlm-roberta": {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "rembert": {"max_position_embeddings": 512},
    "deberta-v2": {
        "max_position_embeddings": 512,
        "relative_attention": True,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-7,
    },
}
SIZES = {
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "intermediate_size": 2 * WIDTH,
    # of some architectures alone
    "input_embedding_size": WIDTH // 2,
    "output_embedding_size": WIDTH,
    "embedding_size": WIDTH,
    "pooler_hidden_size": WIDTH,
    "num_key_value_heads": 1,
    "head_dim": WIDTH // HEADS,
}
EVERYWHERE = ("hidden_size", "num_attention_heads", "intermediate_size")


class Lack(NamedTuple):
    """Why a model is not at hand, and whether the hub can be asked about it all the same."""

    reason: str
    is_known: bool


class Wanted(NamedTuple):
    """A model that a configuration names, and what it asks of it."""

    name: str
    layers: int | None = None
    scores: bool = False  # whether it is a finished cross-encoder


def lacking(name: str, models: Path) -> Lack | None:
    """Why a model is not at hand; None where it is.

    At hand is what is on this machine, and what the hub has with weights of at most FETCHED bytes.
    Raises InputError where the hub answers that there is none of this name.
    """
    if name == embedded_ranker.NAME:
        return None
    entry = backbones.backbone(name)
    if entry.hub_id is None or Path(entry.hub_id).is_dir():
        return None
    where, revision = hub.pretrained(backbones.source(name, models))
    if has_cached_weights(where, revision):
        return None
    if hub.is_offline():
        return Lack("not in the cache, and HF_HUB_OFFLINE is set", is_known=False)
    size = weight_bytes(where, revision)
    if size is None:
        return Lack("not in the cache, and the hub does not answer", is_known=False)
    if size <= FETCHED:
        return None
    return Lack(f"{size / 1e9:.1f} GB that are not in the cache", is_known=True)


def has_cached_weights(hub_id: str, revision: dict[str, Any]) -> bool:
    """Whether the cache has weights of a model; shards by their index."""
    from huggingface_hub import try_to_load_from_cache

    names = [*backbones.SAFE_WEIGHTS, *backbones.PICKLED_WEIGHTS]
    return any(isinstance(try_to_load_from_cache(hub_id, name, **revision), str) for name in names)


def weight_bytes(hub_id: str, revision: dict[str, Any]) -> float | None:
    """Of the weights that would be loaded, as the hub lists them; None where it does not answer.

    Raises InputError for a model without any.
    """
    from huggingface_hub import HfApi

    def ask() -> Any:
        return HfApi().model_info(hub_id, files_metadata=True, timeout=hub.TIMEOUT, **revision)

    try:
        files = hub.patiently(ask, f"model {hub_id}").siblings or []
    except (OSError, ValueError, hub.transfer_error()):
        return None
    for suffix in (".safetensors", ".bin"):
        sizes = []
        for file in files:
            stem = Path(file.rfilename).name
            if stem.endswith(suffix) and stem.startswith(("model", "pytorch_model")):
                sizes.append(file.size or 0)
        if sizes:
            return float(sum(sizes))
    raise InputError(
        f"model {hub_id}: the hub lists no weights of it, neither safetensors nor "
        "pytorch_model.bin; name a model that has some"
    )


def make(wanted: Wanted, models: Path, own: dict | None, texts: Sequence[str]) -> str:
    """The folder that stands for a model, in ``models``; a few words on what it was made from.

    ``own``: its config.json, where that is at hand. Raises InputError for more
    layers than the model has, and for an architecture that cannot be made small.
    """
    name = wanted.name
    entry = backbones.backbone(name)
    assert entry.hub_id is not None, "the embedded models are at hand"
    shape = SHAPES.get(entry.hub_id, UNKNOWN)
    origin = "shape of its config.json" if own else "shape as known here"
    if own is None and entry.hub_id not in SHAPES:
        origin = "of an unknown architecture, XLM-R's for want of a better one"
    layers = max(LAYERS, wanted.layers or 0)
    if own and layers > own.get("num_hidden_layers", layers):
        raise InputError(
            f"backbone {name}: layers: found {wanted.layers}, "
            f"expected at most {own['num_hidden_layers']}"
        )
    folder = models / backbones.STAND_INS / name.replace("/", "--")
    note = {"name": name, "layers": layers, "scores": wanted.scores, "config": own}
    note["letters"] = digest(sorted(set("".join(texts))))
    if (folder / NOTE).is_file() and json.loads((folder / NOTE).read_text("utf-8")) == note:
        return origin
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kind = shape.pieces if own is None else pieces_of(own, shape)
    tokenizer = train_tokenizer(kind, texts)
    tokenizer.save_pretrained(folder)
    write_body(folder, own or {"model_type": shape.model_type}, layers, wanted.scores, tokenizer)
    if shape.modules and not wanted.scores:
        write_modules(folder)
    write_json(folder / NOTE, note)
    return origin


def own_config(name: str, models: Path) -> dict | None:
    """A model's config.json, from the hub; None where it has none."""
    file = backbones.model_file(backbones.source(name, models), "config.json")
    return json_file(file) if file else None


def pieces_of(own: dict, shape: Shape) -> str:
    """The kind of tokenizer that goes with a config.json: BERT's is mostly of WordPiece."""
    if own.get("model_type") == shape.model_type:
        return shape.pieces
    return "wordpiece" if own.get("model_type") in ("bert", "distilbert") else "unigram"


def write_body(folder: Path, own: dict, layers: int, scores: bool, tokenizer: Any) -> None:
    """Config and random weights, the same ones each time, of an architecture's smallest kind."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    model_type = own["model_type"]
    values = {**ARCHITECTURES.get(model_type, {}), **own}
    for name, size in SIZES.items():
        if name in values or name in EVERYWHERE or hasattr_of(model_type, name):
            values[name] = size
    if isinstance(values.get("layer_types"), list):
        values["layer_types"] = values["layer_types"][:layers]
    values |= {
        "num_hidden_layers": layers,
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    for name in ("model_type", "architectures", "auto_map", "dtype", "torch_dtype", "num_labels"):
        values.pop(name, None)
    torch.manual_seed(seed_of("stand-in", folder.name))
    embedded.quiet()
    try:
        if scores:
            config = AutoConfig.for_model(model_type, **values, num_labels=1)
            model = AutoModelForSequenceClassification.from_config(config)
        else:
            config = AutoConfig.for_model(model_type, **values)
            model = AutoModel.from_config(config)
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise InputError(
            f"rehearsal: no small {model_type} can be made to stand for {folder.name} "
            f"({' '.join(str(error).split())[:200]}); fetch the model itself, then it is used"
        ) from None
    model.save_pretrained(folder)


def hasattr_of(model_type: str, name: str) -> bool:
    """Whether an architecture's settings have one of this name by default."""
    from transformers import AutoConfig

    return hasattr(AutoConfig.for_model(model_type), name)


def write_modules(folder: Path) -> None:
    """The files of a sentence-transformers model: the body, and the mean over its tokens."""
    names = (("", "Transformer"), ("1_Pooling", "Pooling"))
    modules = []
    for number, (path, kind) in enumerate(names):
        modules.append(
            {"idx": number, "name": str(number), "path": path, "type": f"{MODULES}{kind}"}
        )
    write_json(folder / "modules.json", modules)
    write_json(
        folder / "sentence_bert_config.json", {"max_seq_length": 128, "do_lower_case": False}
    )
    pooling = {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True}
    write_json(folder / "1_Pooling" / "config.json", pooling)


# ---- Tokenizers


def train_tokenizer(kind: str, texts: Iterable[str]) -> Any:
    """A fast tokenizer of WordPiece or Unigram over some texts, with all their letters."""
    return wordpiece(texts) if kind == "wordpiece" else unigram(texts)


def unigram(texts: Iterable[str]) -> Any:
    """With XLM-R's special pieces and pipeline."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import UnigramTrainer
    from transformers import PreTrainedTokenizerFast

    texts = list(texts)
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    made.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    letters = letters_of(texts, made.normalizer)
    trainer = UnigramTrainer(
        vocab_size=PIECES + len(letters),
        initial_alphabet=letters,
        special_tokens=list(SPECIAL),
        unk_token="<unk>",
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    start, end = made.token_to_id("<s>"), made.token_to_id("</s>")
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", start), ("</s>", end)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=512,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


def wordpiece(texts: Iterable[str]) -> Any:
    """With BERT's special pieces and pipeline, cased."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import WordPieceTrainer
    from transformers import PreTrainedTokenizerFast

    texts = list(texts)
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=False)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    letters = letters_of(texts, made.normalizer)
    trainer = WordPieceTrainer(
        vocab_size=PIECES + 2 * len(letters),
        initial_alphabet=letters,
        special_tokens=list(SPECIAL_WORDPIECE),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", made.token_to_id("[CLS]")), ("[SEP]", made.token_to_id("[SEP]"))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=512,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def letters_of(texts: Iterable[str], normalizer: Any) -> list[str]:
    """All characters of texts, as the tokenizer will see them; sorted."""
    letters: set[str] = set()
    for text in texts:
        letters.update(normalizer.normalize_str(text))
    return sorted(letter for letter in letters if not letter.isspace())
