"""The one writer of collections in MIRACL's format.

A language is whole or absent, and a second start keeps what is whole.
"""

import gzip
import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from core.console import progress
from core.errors import InputError
from core.files import finished_folder
from core.records import Document, Qrels, Query
from core.text import LONGEST_ID, is_text, shortened

Split = tuple[Iterable[Query], Qrels]


def plain_id(text: object) -> str:
    """An id that TREC's columns can hold: each run of white space becomes an underscore."""
    return "_".join(str(text).split())


def by_split(texts: Sequence[str], what: str) -> dict[str, Path]:
    """Arguments SPLIT=FILE; raises InputError for others."""
    files = {}
    for text in texts:
        split, _, path = text.partition("=")
        if not split or not path:
            raise InputError(f"{what}: found {' '.join(texts)}, expected SPLIT=FILE")
        files[split] = Path(path)
    return files


def write_language(
    out: Path,
    language: str,
    documents: Callable[[], Iterable[Document]],
    splits: Callable[[], Mapping[str, Split]],
) -> str:
    """OUT/LANGUAGE with corpus, topics and qrels; a line about it.

    Raises InputError for what no collection can have: a language or a split of another name, no
    passage, a split without queries, an id that TREC's columns cannot hold or that stands twice, a
    query without text, judgments about none of the queries.
    """
    if not re.fullmatch("[a-z]{2,3}", language):
        raise InputError(f"{out}: language {language!r}, expected two or three small letters")
    if (out / language).exists():
        return f"{language}: is there already"
    out.mkdir(parents=True, exist_ok=True)
    with finished_folder(out / language) as part:
        count = write_corpus(part / "corpus" / "docs-0.jsonl.gz", documents(), language)
        lines = []
        for split, (queries, qrels) in splits().items():
            lines.append(write_split(part, language, split, list(queries), qrels))
    return f"{language}: {count} passages; {'; '.join(lines)}"


def write_corpus(path: Path, documents: Iterable[Document], language: str) -> int:
    """JSON lines, gzipped without a name and a time: the same passages give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    seen = array("Q")
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0, compresslevel=5) as file,
    ):
        for document in progress(documents, what=f"corpus {language}", unit="passage"):
            check_document(f"{language}, passage {count + 1}", document)
            seen.append(hash_of(document.docid))
            line = json.dumps(document._asdict(), ensure_ascii=False)
            file.write(f"{line}\n".encode())
            count += 1
    if not count:
        raise InputError(f"{language}: found no passage, expected some; is it the right file?")
    places = np.argsort(np.frombuffer(seen, np.uint64), kind="stable")
    is_double = np.diff(np.frombuffer(seen, np.uint64)[places]) == 0
    if is_double.any():
        place = int(np.argmax(is_double))
        first, second = sorted((int(places[place]) + 1, int(places[place + 1]) + 1))
        raise InputError(
            f"{language}: {int(is_double.sum())} docids stand twice, first those of the passages "
            f"{first} and {second}; expected each passage under an id of its own"
        )
    return count


def check_document(where: str, document: Document) -> None:
    """Raises InputError for a passage that a collection cannot hold."""
    docid, title, text = document
    is_plain = len(docid.split()) == 1 and docid.split()[0] == docid and docid.isprintable()
    if not is_plain or len(docid.encode("utf-8", "replace")) > LONGEST_ID:
        raise InputError(
            f"{where}: docid {shortened(docid)}, expected one without white space and control "
            f"characters, of at most {LONGEST_ID} bytes"
        )
    if not isinstance(title, str) or not is_text([title, text]):
        raise InputError(f"{where}: docid {docid}: expected a title and a text, both UTF-8")


def hash_of(docid: str) -> int:
    """64 bits of a docid: a language's 33 million would not fit as texts."""
    return int.from_bytes(blake2b(docid.encode("utf-8"), digest_size=8).digest(), "little")


def write_split(folder: Path, language: str, split: str, queries: list[Query], qrels: Qrels) -> str:
    """A split's topics and, if there are any, the judgments of its queries; a line about it.

    Raises InputError as ``write_language`` does.
    """
    if not re.fullmatch(r"[\w-]+", split, re.ASCII):
        raise InputError(f"split {split!r}, expected a name of letters, digits, '_' and '-'")
    for kind in ("topics", "qrels"):
        (folder / kind).mkdir(exist_ok=True)
    check_split(f"{language}-{split}", queries, qrels)
    topics_file = folder / "topics" / f"topics.{language}-{split}.tsv"
    with topics_file.open("w", encoding="utf-8", newline="\n") as file:
        for query in queries:
            on_one_line = " ".join(query.text.split())
            file.write(f"{query.qid}\t{on_one_line}\n")

    known = {query.qid for query in queries}
    judged = {qid: gains for qid, gains in qrels.items() if qid in known}
    if judged:
        write_qrels(folder / "qrels" / f"qrels.{language}-{split}.tsv", judged)
    judgments = sum(map(len, judged.values()))
    return f"{split} {len(queries)} queries, {judgments} judgments"


def write_qrels(path: Path, qrels: Qrels) -> None:
    """TREC's four columns, a judgment a line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for qid, gains in qrels.items():
            for docid, gain in gains.items():
                file.write(f"{qid} Q0 {docid} {gain}\n")


def check_split(name: str, queries: list[Query], qrels: Qrels) -> None:
    """Raises InputError for queries that topics cannot hold and judgments of other queries."""
    if not queries:
        raise InputError(f"{name}: no topics, expected some; is it the right file?")
    twice = [qid for qid, count in Counter(query.qid for query in queries).items() if count > 1]
    if twice:
        raise InputError(
            f"{name}: {len(twice)} query ids stand twice, first {', '.join(twice[:5])}; "
            "expected each query under an id of its own"
        )
    for query in queries:
        is_one_word = len(query.qid.split()) == 1 and query.qid.isprintable()
        if not is_text(query.text) or not query.text.strip() or not is_one_word:
            raise InputError(
                f"{name}: query {query.qid!r} with the text {query.text!r}, "
                "expected an id without white space and some text"
            )
    known = {query.qid for query in queries}
    if qrels and not known & qrels.keys():
        raise InputError(
            f"{name}: none of the {len(qrels)} judged queries is among the {len(queries)} topics "
            f"(the first: {next(iter(qrels))})"
        )
