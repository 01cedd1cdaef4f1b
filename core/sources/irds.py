"""Whatever ``ir_datasets`` names, with Mr. TyDi, MS MARCO and mMARCO for pre-fine-tuning.

    python -m core.sources.irds OUT LANGUAGE dev=msmarco-passage/dev/small [SPLIT=ID …]
    python -m core.sources.irds OUT --known mr-tydi [--languages ar bn …]

Passages are those of the first data set named; ir_datasets downloads, checks and keeps the files.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def load(name: str) -> Any:
    """A data set of ir_datasets. Raises InputError for a name that it has not."""
    import ir_datasets

    try:
        return ir_datasets.load(name)
    except KeyError:
        raise InputError(
            f"ir_datasets has no {name!r}; its catalogue lists what there is"
        ) from None


def documents(data: Any) -> Iterator[Document]:
    """Title and text where a document has them, otherwise its default text."""
    for document in data.docs_iter():
        title = getattr(document, "title", "") or ""
        text = getattr(document, "text", None)
        if text is None:
            text = document.default_text()
        yield Document(plain_id(document.doc_id), title, text)


def split_of(data: Any) -> Split:
    """The judged queries and their judgments, or all queries where none is judged."""
    qrels: Qrels = {}
    if data.has_qrels():
        for judgment in data.qrels_iter():
            gains = qrels.setdefault(plain_id(judgment.query_id), {})
            gains[plain_id(judgment.doc_id)] = max(0, int(judgment.relevance))
    queries = []
    for query in data.queries_iter():
        text = query.text if hasattr(query, "text") else query.default_text()
        queries.append(Query(plain_id(query.query_id), text))
    # MS MARCO's train has hundreds of thousands of unjudged queries
    judged = [query for query in queries if query.qid in qrels]
    return judged or queries, qrels


def write(out: Path, language: str, names: dict[str, str]) -> str:
    """A language of the data sets ``names``, id by split; a line about it."""
    data = {split: load(name) for split, name in names.items()}
    first = next(iter(data.values()))
    return write_language(
        out,
        language,
        documents=lambda: documents(first),
        splits=lambda: {split: split_of(part) for split, part in data.items()},
    )


def write_known(out: Path, known: str, only: list[str]) -> None:
    """All languages of a collection of KNOWN, or some; a line about each."""
    languages, names = KNOWN[known]
    unknown = [language for language in only if language not in languages]
    if unknown:
        raise InputError(f"{known} has no {', '.join(unknown)}; it has {', '.join(languages)}")
    for language in only or languages:
        own_names = {split: name.format(language) for split, name in names.items()}
        print(write(out, language, own_names), flush=True)


def main() -> None:
    """The command line."""
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
        write_known(options.out, options.known, options.languages)
        return
    names: dict[str, str] = {}
    for argument in options.splits:
        split, _, name = argument.partition("=")
        names[split] = name
    if not options.language or not names or not all(names.values()):
        raise InputError(
            "expected OUT LANGUAGE SPLIT=ID …, for example en dev=msmarco-passage/dev/small, "
            "or OUT --known NAME"
        )
    print(write(options.out, options.language, names))


if __name__ == "__main__":
    exit_with_message(main)
