"""A folder in BEIR's format: ``corpus.jsonl``, ``queries.jsonl`` (or gzipped), ``qrels/SPLIT.tsv``.

NoMIRACL's and others' are alike.

    python -m core.sources.beir OUT LANGUAGE FOLDER

BEIR's ids may hold white space, which TREC's columns cannot: each run of it becomes an underscore.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from core.collection import HIGHEST_GRADE, corpus_lines
from core.errors import InputError, at_line, exit_with_message
from core.records import Document, Qrels, Query
from core.sources.writing import Split, plain_id, write_language
from core.text import json_value, text_lines, whole_number


def records(folder: Path, name: str) -> Iterator[dict]:
    """The JSON objects of ``name``'s file, each with ``_id`` and ``text``.

    Raises InputError for a missing file and for lines of another kind.
    """
    path = folder / f"{name}.jsonl"
    if not path.is_file():
        path = folder / f"{name}.jsonl.gz"
    if not path.is_file():
        raise InputError(f"{folder}: no {name}.jsonl or {name}.jsonl.gz")
    for number, line in corpus_lines(path):
        record = json_value(path, number, line, "a JSON object")
        is_object = isinstance(record, dict)
        has_text = is_object and isinstance(record.get("text"), str)
        if not has_text or not str(record.get("_id", "")).strip():
            raise at_line(path, number, repr(line[:60]), '"_id" and "text"')
        yield record


def qrels(path: Path) -> Qrels:
    """Three columns, with or without their head; negative relevance counts as 0.

    Raises InputError with file and line for others.
    """
    judgments: Qrels = {}
    for number, line in enumerate(text_lines(path), 1):
        columns = line.split("\t")
        if number == 1 and columns[0] == "query-id":
            continue
        if len(columns) != 3:
            raise at_line(path, number, repr(line[:60]), "query-id TAB corpus-id TAB score")
        qid, docid, gain = columns
        grade = whole_number(path, number, gain.strip().removeprefix("-"), "score", HIGHEST_GRADE)
        is_negative = gain.strip().startswith("-")
        judged = judgments.setdefault(plain_id(qid), {})
        judged[plain_id(docid)] = 0 if is_negative else grade
    return judgments


def splits(folder: Path) -> dict[str, Split]:
    """Each split has the queries that its judgments name; a missing one is an InputError."""
    files = sorted((folder / "qrels").glob("*.tsv"))
    if not files:
        raise InputError(f"{folder}: no qrels/SPLIT.tsv")
    texts: dict[str, str] = {}
    for record in records(folder, "queries"):
        texts[plain_id(record["_id"])] = record["text"]
    by_name: dict[str, Split] = {}
    for path in files:
        judged = qrels(path)
        strangers = [qid for qid in judged if qid not in texts]
        if strangers:
            raise InputError(
                f"{path}: judged queries that queries.jsonl lacks: {len(strangers)}, "
                f"first {', '.join(strangers[:5])}"
            )
        queries = [Query(qid, texts[qid]) for qid in judged]
        by_name[path.stem] = (queries, judged)
    return by_name


def documents(folder: Path) -> Iterator[Document]:
    """The passages; those without a title have none."""
    for record in records(folder, "corpus"):
        yield Document(plain_id(record["_id"]), record.get("title") or "", record["text"])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m core.sources.beir", description="a BEIR folder into MIRACL's format"
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("language")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    line = write_language(
        options.out,
        options.language,
        documents=lambda: documents(options.folder),
        splits=lambda: splits(options.folder),
    )
    print(line)


if __name__ == "__main__":
    exit_with_message(main)
