"""Whatever ``ir_datasets`` names, and the collections of pre-fine-tuning among it: Mr. TyDi, MS MARCO, mMARCO.

    python -m core.sources.irds OUT LANGUAGE train=msmarco-passage/train/judged dev=msmarco-passage/dev/small
    python -m core.sources.irds OUT --known mr-tydi [--languages ar bn …]

Passages are those of the first data set named; ir_datasets downloads, checks and keeps the files.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from core.errors import InputError, exit_with_message
from core.records import Document, Qrels, Query
from core.sources.writing import Split, plain_id, write_language

# name -> languages, and split -> id of a data set
KNOWN = {
    "mr-tydi": (
        ("ar", "bn", "en", "fi", "id", "ja", "ko", "ru", "sw", "te", "th"),
        {split: f"mr-tydi/{{}}/{split}" for split in ("train", "dev", "test")},
    ),
    "msmarco": (
        ("en",),
        {"train": "msmarco-passage/train/judged", "dev": "msmarco-passage/dev/small"},
    ),
    "mmarco": (
        ("ar", "de", "es", "fr", "hi", "id", "it", "ja", "pt", "ru", "vi", "zh"),
        {"train": "mmarco/v2/{}/train", "dev": "mmarco/v2/{}/dev/small"},
    ),
}


def load(name: str):
    import ir_datasets

    try:
        return ir_datasets.load(name)
    except KeyError:
        raise InputError(
            f"ir_datasets has no {name!r}; its catalogue lists what there is"
        ) from None


def documents(data) -> Iterator[Document]:
    """Title and text where a document has them, otherwise its default text."""
    for found in data.docs_iter():
        title, text = getattr(found, "title", ""), getattr(found, "text", None)
        yield Document(
            plain_id(found.doc_id), title or "", found.default_text() if text is None else text
        )


def split_of(data) -> Split:
    queries = [
        Query(plain_id(q.query_id), q.text if hasattr(q, "text") else q.default_text())
        for q in data.queries_iter()
    ]
    qrels: Qrels = {}
    for found in data.qrels_iter() if data.has_qrels() else ():
        qrels.setdefault(plain_id(found.query_id), {})[plain_id(found.doc_id)] = max(
            0, int(found.relevance)
        )
    judged = [q for q in queries if q.qid in qrels]
    return (
        judged or queries
    ), qrels  # MS MARCO's train has hundreds of thousands of unjudged queries


def write(out: Path, language: str, names: dict[str, str]) -> str:
    data = {split: load(name) for split, name in names.items()}
    return write_language(
        out,
        language,
        lambda: documents(next(iter(data.values()))),
        lambda: {split: split_of(found) for split, found in data.items()},
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m core.sources.irds",
        description="data sets of ir_datasets into MIRACL's format",
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("language", nargs="?")
    parser.add_argument("splits", nargs="*", metavar="SPLIT=ID")
    parser.add_argument("--known", choices=sorted(KNOWN))
    parser.add_argument("--languages", nargs="*", default=[])
    options = parser.parse_args()
    if options.known:
        languages, names = KNOWN[options.known]
        unknown = [la for la in options.languages if la not in languages]
        if unknown:
            raise InputError(
                f"{options.known} has no {', '.join(unknown)}; it has {', '.join(languages)}"
            )
        for language in options.languages or languages:
            print(
                write(
                    options.out,
                    language,
                    {split: name.format(language) for split, name in names.items()},
                ),
                flush=True,
            )
        return
    pairs = dict(text.partition("=")[::2] for text in options.splits)
    if not options.language or not pairs or not all(pairs.values()):
        raise InputError(
            "expected OUT LANGUAGE SPLIT=ID …, for example en dev=msmarco-passage/dev/small, or OUT --known NAME"
        )
    print(write(options.out, options.language, pairs))


if __name__ == "__main__":
    exit_with_message(main)
