"""A collection on disk in MIRACL's format.

    python -m core.collection --check DIR    reads everything, reports every language, ends with status 2 at the first fault

File names: the short ones (``LANG/corpus/docs-*.jsonl.gz``, ``LANG/topics/topics.LANG-SPLIT.tsv``, ``LANG/qrels/…``) and the hub's
(``miracl-corpus-v1.0-LANG/docs-*.jsonl.gz``, ``miracl-v1.0-LANG/topics/topics.miracl-v1.0-LANG-SPLIT.tsv``; its test-a is testA).
"""

import argparse
import gzip
import json
import re
import shutil
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from core.errors import InputError, at_line, exit_with_message
from core.passages import Passages, build_passages
from core.records import Document, Qrels, Query
from core.runs import text_lines

NAME = re.compile(r"(?:topics|qrels)\.(?:miracl-v[\d.]+-)?([a-z]{2,3})-([\w-]+)\.tsv$")


class Collection:
    """The files of a folder, by language and split; reading is strict. ``allow`` names faults that are reported, not raised."""

    def __init__(self, root: Path, languages: Sequence[str] = (), allow: Sequence[str] = ()):
        self.root, self.allow = Path(root), tuple(allow)
        if not self.root.is_dir():
            raise InputError(
                f"{self.root}: no such folder; collection.path must name a collection in MIRACL's format"
            )
        self.topics, self.qrels = self.find("topics"), self.find("qrels")
        found = sorted({language for language, _ in self.topics})
        if not found:
            raise InputError(
                f"{self.root}: found no topics, expected LANG/topics/topics.LANG-SPLIT.tsv or the hub's file names"
            )
        unknown = [language for language in languages if language not in found]
        if unknown:
            raise InputError(
                f"{self.root}: no topics for language {', '.join(unknown)}; topics are there for {', '.join(found)}"
            )
        self.languages = sorted(languages) or found

    def find(self, kind: str) -> dict[tuple[str, str], Path]:
        files = {}
        for path in sorted(self.root.glob(f"*/{kind}/{kind}.*.tsv")):
            match = NAME.match(path.name)
            if match:
                split = {"test-a": "testA", "test-b": "testB"}.get(match[2], match[2])
                files[match[1], split] = path
        return files

    def corpus_files(self, language: str) -> list[Path]:
        patterns = (
            f"{language}/corpus/docs*.jsonl*",
            f"miracl-corpus-v*-{language}/docs*.jsonl*",
            f"miracl-v*-{language}/corpus/docs*.jsonl*",
        )
        files = [p for pattern in patterns for p in self.root.glob(pattern)]
        if not files:
            raise InputError(
                f"{self.root}: no corpus for {language}, expected {language}/corpus/docs-*.jsonl.gz or the hub's file names"
            )
        return sorted(
            files, key=lambda p: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", p.name)]
        )

    def has(self, language: str, split: str) -> bool:
        return (language, split) in self.topics

    def surprise(self, language: str, train: str = "train") -> bool:
        """A language without training topics."""
        return not self.has(language, train)

    def queries(self, language: str, split: str) -> list[Query]:
        """In the file's order. Raises InputError for a wrong line, an empty query, a query id given twice, a missing file."""
        path = self.topics.get((language, split))
        if path is None:
            raise InputError(
                f"{self.root}: language {language} has no topics for split {split}; it has {', '.join(s for la, s in self.topics if la == language)}"
            )
        queries: dict[str, Query] = {}
        for number, line in enumerate(text_lines(path), 1):
            columns = line.split("\t")
            if len(columns) != 2:
                raise at_line(path, number, f"{len(columns)} columns", "2: query-id TAB query")
            qid, text = columns[0].strip(), columns[1].strip()
            if not qid or not text:
                raise at_line(
                    path, number, f"an empty {'query' if qid else 'query id'}", "query-id TAB query"
                )
            if qid in queries:
                raise at_line(
                    path, number, f"query id {qid} a second time", "each query id once a split"
                )
            queries[qid] = Query(qid, text)
        if not queries:
            raise InputError(f"{path}: no queries, expected lines of query-id TAB query")
        return list(queries.values())

    def judgments(self, language: str, split: str) -> Qrels:
        """Of a train or dev split. Test judgments are for ``core.evaluate`` alone: asking for them here is an error."""
        if split.lower().startswith("test"):
            raise InputError(
                f"judgments of {language}-{split} are read by the evaluation only; train and choose on train and dev"
            )
        return read_qrels(self.qrels_file(language, split))

    def qrels_file(self, language: str, split: str) -> Path:
        path = self.qrels.get((language, split))
        if path is None:
            raise InputError(
                f"{self.root}: language {language} has no judgments for split {split}, expected {language}/qrels/qrels.{language}-{split}.tsv"
            )
        return path

    def documents(self, language: str) -> Iterator[Document]:
        """All passages of a language, streamed. An empty text is an InputError at the end of the corpus, with count and first
        five, or a report where ``empty_passages`` is allowed."""
        empty: list[str] = []
        for path in self.corpus_files(language):
            for number, line in corpus_lines(path):
                document = parse_document(path, number, line)
                if not document.text.strip():
                    empty.append(document.docid)
                yield document
        self.fault("empty_passages", empty, f"{self.root}: {language}: passages without text")

    def fault(self, kind: str, docids: Sequence[str], what: str) -> None:
        if not docids:
            return
        text = f"{what}: {len(docids)}, first {', '.join(docids[:5])}"
        if kind not in self.allow:
            raise InputError(f"{text}; mend the files, or go on with collection.allow=[{kind}]")
        print(f"allowed: {text}", flush=True)

    def check_judged(self, language: str, split: str, qrels: Qrels, passages: Passages) -> None:
        """Judgments must be about passages of the corpus (``unknown_passages`` allows others) and about queries of the split."""
        known = {q.qid for q in self.queries(language, split)}
        strangers = [qid for qid in qrels if qid not in known]
        if strangers:
            raise InputError(
                f"{self.qrels_file(language, split)}: judgments for queries without a topic: {len(strangers)}, first {', '.join(strangers[:5])}"
            )
        judged = sorted({docid for judged in qrels.values() for docid in judged})
        missing = [
            docid for docid, row in zip(judged, passages.rows(judged, strict=False)) if row < 0
        ]
        self.fault(
            "unknown_passages",
            missing,
            f"{self.qrels_file(language, split)}: judgments for unknown passages",
        )


def read_qrels(path: Path) -> Qrels:
    """Strict TREC judgments: ``query-id Q0 docid relevance``, a whole number >= 0, each pair once."""
    qrels: Qrels = {}
    for number, line in enumerate(text_lines(path), 1):
        columns = line.split()
        if len(columns) != 4:
            raise at_line(path, number, f"{len(columns)} columns", "4: query-id Q0 docid relevance")
        qid, _, docid, relevance = columns
        if not relevance.isdigit():
            raise at_line(path, number, f"relevance {relevance!r}", "a whole number >= 0")
        if docid in qrels.setdefault(qid, {}):
            raise at_line(
                path,
                number,
                f"passage {docid} a second time for query {qid}",
                "one judgment a pair",
            )
        qrels[qid][docid] = int(relevance)
    return qrels


def corpus_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    opened = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
    number = 0
    try:
        with opened as file:
            for number, line in enumerate(file, 1):
                yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}, after line {number}: the file is cut short or damaged ({error}); copy or download it again"
        ) from None


def parse_document(path: Path, number: int, line: bytes) -> Document:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise at_line(
            path,
            number,
            f"byte 0x{line[error.start]:02x} at column {error.start + 1}",
            "UTF-8 text",
        ) from None
    except json.JSONDecodeError as error:
        raise at_line(
            path,
            number,
            f"text that is not JSON ({error.msg})",
            'an object with "docid", "title" and "text"',
        ) from None
    if not isinstance(record, dict) or not all(
        isinstance(record.get(k, "" if k == "title" else None), str)
        for k in ("docid", "title", "text")
    ):
        found = sorted(record) if isinstance(record, dict) else type(record).__name__
        raise at_line(path, number, f"{found}", 'strings "docid", "title" and "text"')
    docid = record["docid"]
    if not docid or docid != "".join(docid.split()):
        raise at_line(path, number, f"docid {docid!r}", "a docid without white space")
    return Document(docid, record.get("title", ""), record["text"])


def check(root: Path, allow: Sequence[str], scratch: Path) -> None:
    """Reads every file of a collection and prints a line a language; test judgments are checked like the others."""
    collection = Collection(root, allow=allow)
    for language in collection.languages:
        folder = scratch / language
        folder.mkdir(parents=True)
        count = build_passages(collection.documents(language), folder)
        passages, parts = Passages(folder), []
        for la, split in sorted(collection.topics):
            if la != language:
                continue
            parts.append(f"{split} {len(collection.queries(language, split))} queries")
            if (language, split) in collection.qrels:
                qrels = read_qrels(collection.qrels_file(language, split))
                collection.check_judged(language, split, qrels, passages)
                parts[-1] += f" {sum(map(len, qrels.values()))} judgments"
        print(f"{language}: {count} passages; {'; '.join(parts)}", flush=True)
        shutil.rmtree(folder)


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(
        prog="python -m core.collection", description="checks a collection in MIRACL's format"
    )
    parser.add_argument("--check", metavar="DIR", required=True, type=Path)
    parser.add_argument(
        "--allow", nargs="*", default=[], choices=["unknown_passages", "empty_passages"]
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        check(options.check, options.allow, Path(scratch))
    print(f"{options.check}: all well")


if __name__ == "__main__":
    exit_with_message(main)
