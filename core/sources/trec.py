"""Any TREC collection on disk: documents as ``<DOC>`` files or JSON lines, topics as ``<top>`` blocks or TSV, TREC judgments.

    python -m core.sources.trec OUT LANGUAGE --documents FILE … --topics SPLIT=FILE … [--qrels SPLIT=FILE …]

In ``<DOC>`` files DOCNO, TITLE or HEADLINE, and TEXT are read, tags within the text removed; in JSON lines docid (or id), title, text (or contents).
"""

import argparse
import html
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from core.collection import corpus_lines, read_qrels
from core.errors import InputError, at_line, exit_with_message
from core.records import Document, Query
from core.runs import text_lines
from core.sources.writing import by_split, plain_id, write_language

TAG = re.compile(r"<[^>]*>")


def documents(paths: Sequence[Path]) -> Iterator[Document]:
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        yield from json_documents(path) if ".jsonl" in path.name else tagged_documents(path)


def json_documents(path: Path) -> Iterator[Document]:
    for number, line in corpus_lines(path):
        try:
            found = json.loads(line)
            docid, text = (
                found.get("docid", found.get("id")),
                found.get("text", found.get("contents")),
            )
        except (ValueError, AttributeError):
            raise at_line(path, number, repr(line[:60]), "a JSON object") from None
        if not isinstance(docid, str) or not isinstance(text, str):
            raise at_line(path, number, f"{sorted(found)}", "docid (or id) and text (or contents)")
        yield Document(docid, found.get("title") or "", text)


def tagged_documents(path: Path) -> Iterator[Document]:
    """Streamed: a document at a time is in memory."""
    lines: list[str] = []
    start = 0
    for number, raw in corpus_lines(path):
        line = decoded(path, number, raw)
        if line.strip().upper() == "<DOC>":
            lines, start = [], number
        elif line.strip().upper() == "</DOC>":
            text = "".join(lines)
            docid = field(text, "DOCNO")
            if not docid:
                raise at_line(path, start, "a <DOC> without <DOCNO>", "<DOCNO>id</DOCNO>")
            yield Document(
                plain_id(docid),
                field(text, "TITLE") or field(text, "HEADLINE"),
                field(text, "TEXT"),
            )
        else:
            lines.append(line)


def decoded(path: Path, number: int, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise at_line(
            path,
            number,
            f"byte 0x{raw[error.start]:02x}",
            "UTF-8 text (convert the file, for example with iconv)",
        ) from None


def field(text: str, name: str) -> str:
    """The content of all fields of a name, without tags and entities, white space made even."""
    parts = re.findall(rf"<{name}>(.*?)</{name}>", text, re.IGNORECASE | re.DOTALL)
    return " ".join(html.unescape(TAG.sub(" ", " ".join(parts))).split())


def topics(path: Path) -> list[Query]:
    """``qid TAB query`` lines, or <top> blocks: the number and the title."""
    lines = list(text_lines(path))
    if not any("<top>" in line.lower() for line in lines):
        found = [line.split("\t", 1) for line in lines if line.strip()]
        wrong = next((number for number, columns in enumerate(found, 1) if len(columns) != 2), None)
        if wrong:
            raise at_line(
                path, wrong, repr(lines[wrong - 1][:60]), "query-id TAB query, or <top> blocks"
            )
        return [Query(qid.strip(), text.strip()) for qid, text in found]
    found = []
    for block in re.split(r"<top>", "\n".join(lines), flags=re.IGNORECASE)[1:]:
        number = re.search(r"<num>\s*(?:Number:)?\s*([^\s<]+)", block, re.IGNORECASE)
        title = re.search(
            r"<title>\s*(?:Topic:)?\s*(.*?)\s*(?=<|$)", block, re.IGNORECASE | re.DOTALL
        )
        if not number or not title or not title[1].strip():
            raise InputError(
                f"{path}: a <top> without <num> or <title>: {' '.join(block.split())[:80]!r}"
            )
        found.append(Query(number[1], " ".join(title[1].split())))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m core.sources.trec", description="a TREC collection into MIRACL's format"
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("language")
    parser.add_argument("--documents", nargs="+", type=Path, required=True)
    parser.add_argument("--topics", nargs="+", required=True, metavar="SPLIT=FILE")
    parser.add_argument("--qrels", nargs="*", default=[], metavar="SPLIT=FILE")
    options = parser.parse_args()
    asked, judged = by_split(options.topics, "--topics"), by_split(options.qrels, "--qrels")
    unknown = [split for split in judged if split not in asked]
    if unknown:
        raise InputError(f"--qrels: the split {unknown[0]} has no --topics")
    splits = {
        split: (topics(path), read_qrels(judged[split]) if split in judged else {})
        for split, path in asked.items()
    }
    print(
        write_language(
            options.out, options.language, lambda: documents(options.documents), lambda: splits
        )
    )


if __name__ == "__main__":
    exit_with_message(main)
