"""The world in miniature, for configurations as they are: a hub, and what ir_datasets keeps.

Texts are of invented words in the languages' own scripts. Models are random and a few layers of
width 32, of the real ones' architectures, under their ids and file names; tokenizers are trained on
the texts.
"""

import gzip
import io
import json
import shutil
from pathlib import Path

import numpy as np

from core import standins
from core.sources.miracl import counts

SCRIPTS = {  # language -> the first of twenty letters
    "ar": "ا",
    "bn": "ক",
    "fa": "ا",
    "hi": "क",
    "ja": "あ",
    "ko": "가",
    "ru": "а",
    "te": "క",
    "th": "ก",
    "zh": "一",
}
MSMARCO = ["en"]
MR_TYDI = {
    "ar": "arabic",
    "bn": "bengali",
    "en": "english",
    "fi": "finnish",
    "id": "indonesian",
    "ja": "japanese",
    "ko": "korean",
    "ru": "russian",
    "sw": "swahili",
    "te": "telugu",
    "th": "thai",
}
ARTICLES, PASSAGES, QUERIES = 12, 3, 6
HUB_SPLITS = {"testA": "test-a", "testB": "test-b"}

REMBERT = {
    "pad_id": 0,
    "unk_id": 1,
    "bos_id": -1,
    "eos_id": -1,
    "user_defined_symbols": ["[CLS]", "[SEP]", "[MASK]"],
}
"""What a SentencePiece model of RemBERT's kind is made with."""

Judged = list[tuple[str, str, str, str]]
"""Query id, query, relevant passage, another passage."""


class Language:
    """Passages and queries of one language, the same ones each time."""

    def __init__(self, code: str):
        self.code = code
        self.random = np.random.default_rng([ord(letter) for letter in code])
        first = SCRIPTS.get(code, "a")
        letters = [chr(ord(first) + step) for step in range(20)]
        self.words = []
        for _ in range(80):
            self.words.append("".join(self.random.choice(letters, size=self.random.integers(2, 7))))
        self.passages: dict[str, tuple[str, str]] = {}
        for article in range(ARTICLES):
            for passage in range(PASSAGES):
                title, *text = self.random.choice(self.words, size=16)
                self.passages[f"{article}#{passage}"] = (str(title), " ".join(text))

    def judged(self, split: str) -> Judged:
        """Queries of words of a passage each."""
        rows = []
        for number in range(QUERIES):
            relevant, other = self.random.choice(list(self.passages), size=2, replace=False)
            words = self.random.choice(self.passages[relevant][1].split(), size=3, replace=False)
            rows.append((f"{split}{number}", " ".join(words), str(relevant), str(other)))
        return rows

    def texts(self) -> list[str]:
        return [f"{title} {text}" for title, text in self.passages.values()]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def write_corpus(path: Path, language: Language, contents: bool = False) -> None:
    """MIRACL's lines, or Mr. TyDi's with ``contents``."""
    lines = []
    for docid, (title, text) in language.passages.items():
        record = {"docid": docid, "title": title, "text": text}
        if contents:
            record = {"id": docid, "title": title, "contents": text}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))


def write_miracl(root: Path) -> dict[str, Path]:
    """The hub's two repositories, with the splits that each language really has."""
    topics, corpus = root / "miracl", root / "miracl-corpus"
    write(topics / "README.md", "card\n")
    for code, known in counts().items():
        language = Language(code)
        write_corpus(corpus / f"miracl-corpus-v1.0-{code}" / "docs-0.jsonl.gz", language)
        folder = topics / f"miracl-v1.0-{code}"
        for split in ("train", "dev", "testA", "testB"):
            if f"{split} queries" not in known:
                continue
            name = f"miracl-v1.0-{code}-{HUB_SPLITS.get(split, split)}.tsv"
            rows = language.judged(split)
            lines = "".join(f"{qid}\t{text}\n" for qid, text, _, _ in rows)
            write(folder / "topics" / f"topics.{name}", lines)
            if split in ("train", "dev"):
                lines = "".join(f"{q}\tQ0\t{a}\t1\n{q}\tQ0\t{b}\t0\n" for q, _, a, b in rows)
                write(folder / "qrels" / f"qrels.{name}", lines)
    return {"miracl/miracl": topics, "miracl/miracl-corpus": corpus}


def write_irds(home: Path) -> None:
    """What ir_datasets keeps of MS MARCO and Mr. TyDi once they are downloaded."""
    folder = home / "msmarco-passage"
    write(folder / "irds_version.txt", "v2")
    language = Language("en")
    number = {docid: place for place, docid in enumerate(language.passages)}
    lines = [f"{number[docid]}\t{text}\n" for docid, (_, text) in language.passages.items()]
    write(folder / "collection.tsv", "".join(lines))
    for place, split in enumerate(("train", "dev/small")):
        rows = [(f"{place}{q[-1]}", text, number[a]) for q, text, a, _ in language.judged(split)]
        write(folder / split / "queries.tsv", "".join(f"{q}\t{text}\n" for q, text, _ in rows))
        write(folder / split / "qrels", "".join(f"{q} 0 {a} 1\n" for q, _, a in rows))
    write(home / "mr-tydi" / "irds_version.txt", "v2")
    for code, name in MR_TYDI.items():
        language = Language(code)
        folder = home / "mr-tydi" / f"{code}.data" / f"mrtydi-v1.0-{name}"
        write_corpus(folder / "collection" / "docs.jsonl.gz", language, contents=True)
        for split in ("train", "dev", "test"):
            rows = language.judged(split)
            write(
                folder / f"topic.{split}.tsv", "".join(f"{q}\t{text}\n" for q, text, _, _ in rows)
            )
            write(folder / f"qrels.{split}.txt", "".join(f"{q} Q0 {a} 1\n" for q, _, a, _ in rows))


# ---- Models


def spm(path: Path, texts: list[str], **settings) -> None:
    """A SentencePiece model, as the bodies of several languages bring."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=1200,
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
        **settings,
    )
    path.write_bytes(model.getvalue())


def write_body(folder: Path, model_type: str, tokenizer, pickled: bool) -> None:
    """Config and weights; with ``pickled`` pytorch_model.bin and no safetensors."""
    standins.write_body(folder, {"model_type": model_type}, 2, False, tokenizer)
    if pickled:
        import torch
        from safetensors.torch import load_file

        safe = folder / "model.safetensors"
        torch.save(load_file(safe), folder / "pytorch_model.bin")
        safe.unlink()


def write_models(root: Path) -> dict[str, Path]:
    """The models that configs/miracl*.yaml name, by their ids."""
    from transformers import AutoTokenizer

    texts = [text for code in counts() for text in Language(code).texts()]
    folders = {
        "microsoft/mdeberta-v3-base": root / "mdeberta",
        "google/rembert": root / "rembert",
        "microsoft/infoxlm-large": root / "infoxlm",
        "castorini/mdpr-tied-pft-msmarco": root / "mdpr",
        "sentence-transformers/paraphrase-multilingual-mpnet-base-v2": root / "mpnet",
    }
    mdeberta, rembert, infoxlm, mdpr, mpnet = folders.values()
    for folder in folders.values():
        folder.mkdir(parents=True)

    pieces = {"pad": "[PAD]", "bos": "[CLS]", "eos": "[SEP]", "unk": "[UNK]"}
    ids = {f"{name}_id": place for place, name in enumerate(pieces)}
    spm(mdeberta / "spm.model", texts, **ids, **{f"{k}_piece": v for k, v in pieces.items()})
    write(mdeberta / "tokenizer_config.json", '{"do_lower_case": false, "vocab_type": "spm"}\n')
    tokenizer = with_config(mdeberta, {"model_type": "deberta-v2"})
    write_body(mdeberta, "deberta-v2", tokenizer, pickled=True)

    spm(rembert / "sentencepiece.model", texts, **REMBERT)
    tokenizer = with_config(rembert, {"model_type": "rembert"})
    write_body(rembert, "rembert", tokenizer, pickled=True)

    spm(infoxlm / "sentencepiece.bpe.model", texts)
    tokenizer = with_config(infoxlm, {"model_type": "xlm-roberta"})
    write_body(infoxlm, "xlm-roberta", tokenizer, pickled=True)

    standins.train_tokenizer("wordpiece", texts).save_pretrained(mdpr)
    write_body(mdpr, "bert", AutoTokenizer.from_pretrained(mdpr), pickled=True)

    shutil.copy(infoxlm / "sentencepiece.bpe.model", mpnet)
    tokenizer = with_config(mpnet, {"model_type": "xlm-roberta"})
    write_body(mpnet, "xlm-roberta", tokenizer, pickled=False)
    standins.write_modules(mpnet)
    return folders


def with_config(folder: Path, config: dict):
    """The tokenizer of a folder, as transformers makes it of the SentencePiece model there."""
    from transformers import AutoTokenizer

    write(folder / "config.json", json.dumps(config))
    return AutoTokenizer.from_pretrained(folder)
