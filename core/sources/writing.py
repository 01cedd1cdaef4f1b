"""The one writer of collections in MIRACL's format.

A language is whole or absent, and a second start keeps what is whole.
"""

import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from core.console import progress
from core.errors import InputError
from core.files import finished_folder
from core.records import Document, Qrels, Query

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

    Raises InputError for a query without text, or with white space in its id, and for a split
    whose judgments are about none of its queries.
    """
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
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0, compresslevel=5) as file,
    ):
        for document in progress(documents, what=f"corpus {language}", unit="passage"):
            line = json.dumps(document._asdict(), ensure_ascii=False)
            file.write(f"{line}\n".encode())
            count += 1
    return count


def write_split(folder: Path, language: str, split: str, queries: list[Query], qrels: Qrels) -> str:
    """A split's topics and, if there are any, the judgments of its queries; a line about it.

    Raises InputError as ``write_language`` does.
    """
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
    for query in queries:
        is_one_word = len(query.qid.split()) == 1
        if not query.text.strip() or not is_one_word:
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
