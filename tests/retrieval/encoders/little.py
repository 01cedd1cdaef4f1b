"""A little encoder with its tokenizer, and a collection of made-up words."""

import gzip
import json
from pathlib import Path

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789:?."


def tokenizer(max_length=40):
    """BERT's, of single letters: 82 pieces."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *("##" + c for c in LETTERS)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=max_length,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
    )


def body(seed=0, **more):
    """A randomly drawn BERT: 2 layers of 16, no dropout."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    settings = {
        "vocab_size": 82,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 48,
        "initializer_range": 0.2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return BertModel(BertConfig(**{**settings, **more}), add_pooling_layer=False).eval()


def write(folder: Path, **more) -> Path:
    body(**more).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def write_collection(root: Path, queries: int = 12, languages=("en", "sw"), dev: int = 4) -> Path:
    """Passages ``w3 n3`` to queries ``w3?``: a letter and a number tell what belongs together.

    Passage p3#0 is relevant to query 3, p3#1 is judged and not; every fourth query has two relevant
    passages, p3#0 and p3#2.
    """
    for place, language in enumerate(languages):
        total = queries + dev
        (root / language / "corpus").mkdir(parents=True)
        for kind in ("topics", "qrels"):
            (root / language / kind).mkdir()
        with gzip.open(root / language / "corpus" / "docs-0.jsonl.gz", "wt") as file:
            for i in range(total):
                for part, filling in enumerate(("is", "was not", "will be")):
                    text = f"{word(i, place)} {filling} {'abc'[part]} thing." + " more" * (i % 3)
                    document = {"docid": f"p{i}#{part}", "title": "", "text": text}
                    file.write(json.dumps(document) + "\n")
        for split, numbers in (("train", range(queries)), ("dev", range(queries, total))):
            topics, qrels = [], []
            for i in numbers:
                topics.append(f"{i}\t{word(i, place)}?")
                qrels += [f"{i} Q0 p{i}#0 1", f"{i} Q0 p{i}#1 0"]
                if i % 4 == 0:
                    qrels.append(f"{i} Q0 p{i}#2 1")
            for kind, lines in (("topics", topics), ("qrels", qrels)):
                path = root / language / kind / f"{kind}.{language}-{split}.tsv"
                path.write_text("".join(line + "\n" for line in lines))
    return root


def word(number: int, place: int) -> str:
    """A made-up word, another in each language."""
    digits = "bdfghklmnprst"
    return digits[number % 13] + "ae"[place % 2] + digits[(number * 5 + 1) % 13] + "ou"[number % 2]
