"""A folder in BEIR's format: ``corpus.jsonl``, ``queries.jsonl`` (also gzipped), ``qrels/SPLIT.tsv``; NoMIRACL's and others' are alike.

    python -m core.sources.beir OUT LANGUAGE FOLDER

BEIR's ids may hold white space, which TREC's columns cannot: each run of it becomes an underscore.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from core.collection import corpus_lines
from core.errors import InputError, at_line, exit_with_message
from core.records import Document, Qrels, Query
from core.runs import text_lines
from core.sources.writing import Split, plain_id, write_language


def records(folder: Path, name: str) -> Iterator[dict]:
    path = next(
        (p for p in (folder / f"{name}.jsonl", folder / f"{name}.jsonl.gz") if p.is_file()), None
    )
    if path is None:
        raise InputError(f"{folder}: no {name}.jsonl or {name}.jsonl.gz")
    for number, line in corpus_lines(path):
        try:
            record = json.loads(line)
        except ValueError:
            raise at_line(path, number, repr(line[:60]), "a JSON object") from None
        if (
            not isinstance(record, dict)
            or not isinstance(record.get("text"), str)
            or not str(record.get("_id", "")).strip()
        ):
            raise at_line(path, number, repr(line[:60]), '"_id" and "text"')
        yield record


def qrels(path: Path) -> Qrels:
    found: Qrels = {}
    for number, line in enumerate(text_lines(path), 1):
        columns = line.split("\t")
        if number == 1 and columns[0] == "query-id":
            continue
        if len(columns) != 3 or not columns[2].strip().lstrip("-").isdigit():
            raise at_line(path, number, repr(line[:60]), "query-id TAB corpus-id TAB score")
        found.setdefault(plain_id(columns[0]), {})[plain_id(columns[1])] = max(0, int(columns[2]))
    return found


def splits(folder: Path) -> dict[str, Split]:
    """Each split has the queries that its judgments name."""
    files = sorted((folder / "qrels").glob("*.tsv"))
    if not files:
        raise InputError(f"{folder}: no qrels/SPLIT.tsv")
    queries = {plain_id(r["_id"]): r["text"] for r in records(folder, "queries")}
    found = {}
    for path in files:
        judged = qrels(path)
        strangers = [q for q in judged if q not in queries]
        if strangers:
            raise InputError(
                f"{path}: judged queries that queries.jsonl lacks: {len(strangers)}, first {', '.join(strangers[:5])}"
            )
        found[path.stem] = ([Query(q, queries[q]) for q in judged], judged)
    return found


def documents(folder: Path) -> Iterator[Document]:
    return (
        Document(plain_id(r["_id"]), r.get("title") or "", r["text"])
        for r in records(folder, "corpus")
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m core.sources.beir", description="a BEIR folder into MIRACL's format"
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("language")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    print(
        write_language(
            options.out,
            options.language,
            lambda: documents(options.folder),
            lambda: splits(options.folder),
        )
    )


if __name__ == "__main__":
    exit_with_message(main)
