"""Any TREC collection on disk.

    python -m core.sources.trec OUT LANGUAGE --documents FILE … --topics SPLIT=FILE … [--qrels …]

Documents are ``<DOC>`` files or JSON lines, topics ``<top>`` blocks or TSV, judgments TREC's. In
``<DOC>`` files DOCNO, TITLE or HEADLINE, and TEXT are read, tags within the text removed; in JSON
lines docid (or id), title, text (or contents).
"""

import argparse
import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from core.collection import corpus_lines, read_qrels
from core.errors import InputError, at_line, exit_with_message
from core.records import Document, Query
from core.sources.writing import Split, by_split, plain_id, write_language
from core.text import decoded, json_value, shortened, text_lines

TAG = re.compile(r"<[^>]*>")
NUMBER = re.compile(r"<num>\s*(?:Number:)?\s*([^\s<]+)", re.IGNORECASE)
TITLE = re.compile(r"<title>\s*(?:Topic:)?\s*(.*?)\s*(?=<|$)", re.IGNORECASE | re.DOTALL)


def documents(paths: Sequence[Path]) -> Iterator[Document]:
    """The passages of all files; raises InputError for a missing one and for wrong lines."""
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        if ".jsonl" in path.name:
            yield from json_documents(path)
        else:
            yield from tagged_documents(path)


def json_documents(path: Path) -> Iterator[Document]:
    """One a line."""
    for number, line in corpus_lines(path):
        record = json_value(path, number, line, "a JSON object")
        if not isinstance(record, dict):
            raise at_line(path, number, repr(line[:60]), "a JSON object")
        docid = record.get("docid", record.get("id"))
        text = record.get("text", record.get("contents"))
        if not isinstance(docid, str) or not isinstance(text, str):
            expected = "docid (or id) and text (or contents)"
            raise at_line(path, number, f"{sorted(record)}", expected)
        yield Document(docid, record.get("title") or "", text)


def tagged_documents(path: Path) -> Iterator[Document]:
    """Streamed: a document at a time is in memory."""
    lines: list[str] = []
    start = 0  # the line of the document that is open, 0 without one
    for number, raw in corpus_lines(path):
        line = decoded(path, number, raw)
        tag = line.strip().upper()
        if tag == "<DOC>":
            if start:
                raise at_line(path, number, f"<DOC> within that of line {start}", "</DOC> first")
            lines, start = [], number
        elif "<DOC>" in tag or ("</DOC>" in tag and tag != "</DOC>"):
            raise at_line(path, number, shortened(line.strip()), "<DOC> and </DOC> alone on a line")
        elif tag == "</DOC>":
            if not start:
                raise at_line(path, number, "</DOC> without <DOC>", "<DOC> first")
            text = "".join(lines)
            docid = field(text, "DOCNO")
            if not docid:
                raise at_line(path, start, "a <DOC> without <DOCNO>", "<DOCNO>id</DOCNO>")
            title = field(text, "TITLE") or field(text, "HEADLINE")
            yield Document(plain_id(docid), title, field(text, "TEXT"))
            start = 0
        elif start:
            lines.append(line)
    if start:
        raise InputError(f"{path}: the <DOC> of line {start} is not closed; is the file cut off?")


def field(text: str, name: str) -> str:
    """The content of all fields of a name, without tags and entities, white space made even."""
    parts = re.findall(rf"<{name}>(.*?)</{name}>", text, re.IGNORECASE | re.DOTALL)
    without_tags = TAG.sub(" ", " ".join(parts))
    return " ".join(html.unescape(without_tags).split())


def topics(path: Path) -> list[Query]:
    """``qid TAB query`` lines, or <top> blocks: the number and the title.

    Raises InputError for others.
    """
    lines = list(text_lines(path))
    if any("<top>" in line.lower() for line in lines):
        return tagged_topics(path, "\n".join(lines))
    return tabbed_topics(path, lines)


def tabbed_topics(path: Path, lines: Sequence[str]) -> list[Query]:
    """Two columns a line; empty lines are skipped. Raises InputError with the line for others."""
    queries = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        qid, tab, text = line.partition("\t")
        if not tab:
            expected = "query-id TAB query, or <top> blocks"
            raise at_line(path, number, repr(line[:60]), expected)
        queries.append(Query(qid.strip(), text.strip()))
    return queries


def tagged_topics(path: Path, text: str) -> list[Query]:
    """The blocks of a text, in their order."""
    queries = []
    for block in re.split(r"<top>", text, flags=re.IGNORECASE)[1:]:
        number, title = NUMBER.search(block), TITLE.search(block)
        if not number or not title or not title[1].strip():
            start = " ".join(block.split())[:80]
            raise InputError(f"{path}: a <top> without <num> or <title>: {start!r}")
        queries.append(Query(number[1], " ".join(title[1].split())))
    return queries


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m core.sources.trec", description="a TREC collection into MIRACL's format"
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("language")
    parser.add_argument("--documents", nargs="+", type=Path, required=True)
    parser.add_argument("--topics", nargs="+", required=True, metavar="SPLIT=FILE")
    parser.add_argument("--qrels", nargs="*", default=[], metavar="SPLIT=FILE")
    options = parser.parse_args()
    asked = by_split(options.topics, "--topics")
    judged = by_split(options.qrels, "--qrels")
    unknown = [split for split in judged if split not in asked]
    if unknown:
        raise InputError(f"--qrels: the split {unknown[0]} has no --topics")
    splits: dict[str, Split] = {}
    for split, path in asked.items():
        qrels = read_qrels(judged[split]) if split in judged else {}
        splits[split] = (topics(path), qrels)
    line = write_language(
        options.out,
        options.language,
        documents=lambda: documents(options.documents),
        splits=lambda: splits,
    )
    print(line)


if __name__ == "__main__":
    exit_with_message(main)
