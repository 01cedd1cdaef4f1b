"""A collection on disk in MIRACL's format.

    python -m core.collection --check DIR    reads everything, says what each language holds,
                                             ends with status 2 at the first fault

File names: the short ones (``LANG/corpus/docs-*.jsonl.gz``,
``LANG/topics/topics.LANG-SPLIT.tsv``, ``LANG/qrels/…``) and the hub's
(``miracl-corpus-v1.0-LANG/docs-*.jsonl.gz``,
``miracl-v1.0-LANG/topics/topics.miracl-v1.0-LANG-SPLIT.tsv``; its test-a is testA).
"""

import argparse
import gzip
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from core.errors import InputError, at_line, exit_with_message
from core.passages import Passages, build_passages
from core.records import Document, Qrels, Query
from core.text import (
    check_id,
    columns,
    existing_file,
    json_value,
    text_lines,
    whole_number,
)

FILE_NAME = re.compile(r"(?:topics|qrels)\.(?:miracl-v[\d.]+-)?([a-z]{2,3})-([\w-]+)\.tsv$")
"""Of topics and judgments: its groups are language and split."""

HUB_SPLITS = {"test-a": "testA", "test-b": "testB"}
HIGHEST_GRADE = 1000
"""Of a judgment: nDCG with grades of 2^31 is made of rounding."""

ALLOWABLE = ("unknown_passages", "empty_passages")
DOCUMENT_OBJECT = 'an object with "docid", "title" and "text"'
DOCUMENT_FIELDS = 'strings "docid", "title" and "text"'


class Collection:
    """The files of a folder, by language and split; reading is strict.

    ``languages``: those in use, all that have topics without it. ``allow`` names faults that are
    reported, not raised. Raises InputError for a folder without topics and for unknown languages.
    """

    def __init__(self, root: Path | str, languages: Sequence[str] = (), allow: Sequence[str] = ()):
        self.root = Path(root)
        self.allow = tuple(allow)
        if not self.root.is_dir():
            raise InputError(
                f"{self.root}: no such folder; "
                "collection.path must name a collection in MIRACL's format"
            )
        self.topics = self.find("topics")
        self.qrels = self.find("qrels")
        self.all_languages = sorted({language for language, _ in self.topics})
        if not self.all_languages:
            raise InputError(
                f"{self.root}: found no topics, "
                "expected LANG/topics/topics.LANG-SPLIT.tsv or the hub's file names"
            )
        self.check_languages(languages, "")
        self.languages = sorted(languages) or self.all_languages

    def check_languages(self, languages: Sequence[str], setting: str) -> None:
        """Raises InputError for languages without topics; ``setting`` (``KEY: ``) names them."""
        unknown = [language for language in languages if language not in self.all_languages]
        if unknown:
            raise InputError(
                f"{setting}{self.root}: no topics for language {', '.join(unknown)}; "
                f"topics are there for {', '.join(self.all_languages)}"
            )

    def find(self, kind: str) -> dict[tuple[str, str], Path]:
        """The files of ``topics`` or ``qrels`` by language and split."""
        files: dict[tuple[str, str], Path] = {}
        for path in sorted(self.root.glob(f"*/{kind}/{kind}.*.tsv")):
            match = FILE_NAME.match(path.name)
            if not match:
                raise InputError(
                    f"{path}: its name says neither language nor split, expected "
                    f"{kind}.LANG-SPLIT.tsv with the language in two or three small letters"
                )
            language, split = match.groups()
            split = HUB_SPLITS.get(split, split)
            if (language, split) in files:
                raise InputError(
                    f"{path}: a second file of {kind} for {language}-{split} beside "
                    f"{files[language, split]}; remove one of them"
                )
            files[language, split] = path
        return files

    def corpus_files(self, language: str) -> list[Path]:
        """Of a language, by the numbers in their names. Raises InputError if there are none."""
        patterns = (
            f"{language}/corpus/docs*.jsonl*",
            f"miracl-corpus-v*-{language}/docs*.jsonl*",
            f"miracl-v*-{language}/corpus/docs*.jsonl*",
        )
        files: list[Path] = []
        for pattern in patterns:
            files += self.root.glob(pattern)
        if not files:
            raise InputError(
                f"{self.root}: no corpus for {language}, "
                f"expected {language}/corpus/docs-*.jsonl.gz or the hub's file names"
            )
        return sorted(files, key=by_numbers)

    def has(self, language: str, split: str) -> bool:
        """Whether the split has topics."""
        return (language, split) in self.topics

    def surprise(self, language: str, train: str = "train") -> bool:
        """A language without training topics."""
        return not self.has(language, train)

    def queries(self, language: str, split: str) -> list[Query]:
        """In the file's order.

        Raises InputError for a wrong line, an empty query, a query id given twice, a missing file.
        """
        path = self.topics.get((language, split))
        if path is None:
            others = [other for la, other in self.topics if la == language]
            raise InputError(
                f"{self.root}: language {language} has no topics for split {split}; "
                f"it has {', '.join(others)}"
            )
        return read_topics(path)

    def judgments(self, language: str, split: str) -> Qrels:
        """Of a train or dev split.

        Test judgments are for ``core.evaluate`` alone: asking for them here is an InputError.
        """
        if split.lower().startswith("test"):
            raise InputError(
                f"judgments of {language}-{split} are read by the evaluation only; "
                "train and choose on train and dev"
            )
        return read_qrels(self.qrels_file(language, split))

    def qrels_file(self, language: str, split: str) -> Path:
        """Where a split's judgments are. Raises InputError if it has none."""
        path = self.qrels.get((language, split))
        if path is None:
            raise InputError(
                f"{self.root}: language {language} has no judgments for split {split}, "
                f"expected {language}/qrels/qrels.{language}-{split}.tsv"
            )
        return path

    def documents(self, language: str) -> Iterator[Document]:
        """All passages of a language, streamed.

        An empty text is an InputError at the end of the corpus, with count and first five, or a
        report where ``empty_passages`` is allowed.
        """
        empty: list[str] = []
        for path in self.corpus_files(language):
            for number, line in corpus_lines(path):
                document = parse_document(path, number, line)
                if not document.text.strip():
                    empty.append(document.docid)
                yield document
        self.fault("empty_passages", empty, f"{self.root}: {language}: passages without text")

    def fault(self, kind: str, docids: Sequence[str], what: str) -> None:
        """Raises InputError if any ``docids`` have a fault, or reports one that is allowed."""
        if not docids:
            return
        text = f"{what}: {len(docids)}, first {', '.join(docids[:5])}"
        if kind not in self.allow:
            raise InputError(f"{text}; mend the files, or go on with collection.allow=[{kind}]")
        print(f"allowed: {text}", flush=True)

    def check_judged(self, language: str, split: str, qrels: Qrels, passages: Passages) -> None:
        """Raises InputError for judgments about queries or passages that there are not.

        ``unknown_passages`` allows passages that the corpus lacks.
        """
        file = self.qrels_file(language, split)
        known = {query.qid for query in self.queries(language, split)}
        strangers = [qid for qid in qrels if qid not in known]
        if strangers:
            raise InputError(
                f"{file}: judgments for queries without a topic: "
                f"{len(strangers)}, first {', '.join(strangers[:5])}"
            )
        judged: set[str] = set()
        for by_passage in qrels.values():
            judged |= by_passage.keys()
        docids = sorted(judged)
        rows = passages.rows(docids, strict=False)
        missing = [docid for docid, row in zip(docids, rows, strict=True) if row < 0]
        self.fault("unknown_passages", missing, f"{file}: judgments for unknown passages")


def by_numbers(path: Path) -> list[int | str]:
    """A key that sorts docs-2 before docs-10."""
    pieces = re.split(r"(\d+)", path.name)
    return [int(piece) if piece.isdigit() else piece for piece in pieces]


def read_topics(path: Path) -> list[Query]:
    """Strict topics: ``query-id TAB query``, each id once, at least one."""
    queries: dict[str, Query] = {}
    for number, line in enumerate(text_lines(path), 1):
        parts = line.split("\t")
        if len(parts) != 2:
            raise at_line(path, number, f"{len(parts)} columns", "2: query-id TAB query")
        qid, text = parts[0].strip(), parts[1].strip()
        if not qid or not text:
            lacking = "query" if qid else "query id"
            raise at_line(path, number, f"an empty {lacking}", "query-id TAB query")
        check_id(path, number, "query id", qid)
        if qid in queries:
            raise at_line(
                path, number, f"query id {qid} a second time", "each query id once a split"
            )
        queries[qid] = Query(qid, text)
    if not queries:
        raise InputError(f"{path}: no queries, expected lines of query-id TAB query")
    return list(queries.values())


def read_qrels(path: Path) -> Qrels:
    """Strict TREC judgments: ``query-id Q0 docid relevance``, a whole number >= 0, each once."""
    qrels: Qrels = {}
    for number, line in enumerate(text_lines(path), 1):
        parts = columns(path, number, line)
        if len(parts) != 4:
            raise at_line(path, number, f"{len(parts)} columns", "4: query-id Q0 docid relevance")
        qid, _, docid, relevance = parts
        grade = whole_number(path, number, relevance, "relevance", most=HIGHEST_GRADE)
        judged = qrels.setdefault(qid, {})
        if docid in judged:
            twice = f"passage {docid} a second time for query {qid}"
            raise at_line(path, number, twice, "one judgment a pair")
        judged[docid] = grade
    if not qrels:
        raise InputError(
            f"{path}: no judgments, expected lines of query-id Q0 docid relevance; "
            "a split without any has no such file"
        )
    return qrels


def corpus_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number, line) of a corpus file, unpacked. Raises InputError where it is cut short."""
    existing_file(path)
    opened = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
    number = 0
    try:
        with opened as file:
            for number, line in enumerate(file, 1):
                yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}, after line {number}: the file is cut short or damaged ({error}); "
            "copy or download it again"
        ) from None


def parse_document(path: Path, number: int, line: bytes) -> Document:
    """The passage of a line of JSON. Raises InputError, with file and line, for any other."""
    record = json_value(path, number, line, DOCUMENT_OBJECT)
    if not isinstance(record, dict):
        raise at_line(path, number, type(record).__name__, DOCUMENT_FIELDS)
    docid, title, text = record.get("docid"), record.get("title", ""), record.get("text")
    if not (isinstance(docid, str) and isinstance(title, str) and isinstance(text, str)):
        raise at_line(path, number, str(sorted(record))[:100], DOCUMENT_FIELDS)
    check_id(path, number, "docid", docid)
    return Document(docid, title, text)


def check(root: Path, allow: Sequence[str], scratch: Path) -> None:
    """Reads every file of a collection and prints a line a language.

    Test judgments are checked like the others. ``scratch`` is a folder to write to.
    """
    collection = Collection(root, allow=allow)
    for language in collection.languages:
        folder = scratch / language
        folder.mkdir(parents=True)
        count = build_passages(collection.documents(language), folder)
        passages = Passages(folder)
        splits = sorted(split for of, split in collection.topics if of == language)
        contents = [check_split(collection, language, split, passages) for split in splits]
        print(f"{language}: {count} passages; {'; '.join(contents)}", flush=True)
        shutil.rmtree(folder)


def check_split(collection: Collection, language: str, split: str, passages: Passages) -> str:
    """Reads a split's topics and judgments; what it holds, in words."""
    contents = f"{split} {len(collection.queries(language, split))} queries"
    if (language, split) in collection.qrels:
        qrels = read_qrels(collection.qrels_file(language, split))
        collection.check_judged(language, split, qrels, passages)
        contents += f" {sum(map(len, qrels.values()))} judgments"
    return contents


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m core.collection", description="checks a collection in MIRACL's format"
    )
    parser.add_argument("--check", metavar="DIR", required=True, type=Path)
    parser.add_argument("--allow", nargs="*", default=[], choices=ALLOWABLE)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        check(options.check, options.allow, Path(scratch))
    print(f"{options.check}: all well")


if __name__ == "__main__":
    exit_with_message(main)
