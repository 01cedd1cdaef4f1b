"""The one writer of collections in MIRACL's format: a language is whole or absent, and a second start keeps what is whole."""

import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from core.console import progress
from core.errors import InputError
from core.files import finished_folder
from core.records import Document, Qrels, Query

Split = tuple[Iterable[Query], Qrels]


def plain_id(text) -> str:
    """An id that TREC's columns can hold: each run of white space becomes an underscore."""
    return "_".join(str(text).split())


def by_split(texts: Sequence[str], what: str) -> dict[str, Path]:
    """Arguments SPLIT=FILE; raises InputError for others."""
    pairs = [text.partition("=") for text in texts]
    if not all(split and path for split, _, path in pairs):
        raise InputError(f"{what}: found {' '.join(texts)}, expected SPLIT=FILE")
    return {split: Path(path) for split, _, path in pairs}


def write_language(
    out: Path,
    language: str,
    documents: Callable[[], Iterable[Document]],
    splits: Callable[[], Mapping[str, Split]],
) -> str:
    """OUT/LANGUAGE with corpus, topics and qrels; a line about it. Raises InputError for a query without text, or with white space in its id,
    and for a split whose judgments are about none of its queries."""
    if (out / language).exists():
        return f"{language}: is there already"
    out.mkdir(parents=True, exist_ok=True)
    with finished_folder(out / language) as part:
        count = write_corpus(part / "corpus" / "docs-0.jsonl.gz", documents(), language)
        lines = [
            write_split(part, language, split, list(queries), qrels)
            for split, (queries, qrels) in splits().items()
        ]
    return f"{language}: {count} passages; {'; '.join(lines)}"


def write_corpus(path: Path, documents: Iterable[Document], language: str) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0, compresslevel=5) as file,
    ):
        for document in progress(documents, what=f"corpus {language}", unit="passage"):
            file.write((json.dumps(document._asdict(), ensure_ascii=False) + "\n").encode())
            count += 1
    return count


def write_split(folder: Path, language: str, split: str, queries: list[Query], qrels: Qrels) -> str:
    for kind in ("topics", "qrels"):
        (folder / kind).mkdir(exist_ok=True)
    for query in queries:
        if not query.text.strip() or not query.qid or len(query.qid.split()) != 1:
            raise InputError(
                f"{language}-{split}: query {query.qid!r} with the text {query.text!r}, expected an id without white space and some text"
            )
    known = {q.qid for q in queries}
    if qrels and not known & qrels.keys():
        raise InputError(
            f"{language}-{split}: none of the {len(qrels)} judged queries is among the {len(queries)} topics (the first: {next(iter(qrels))})"
        )
    with (folder / "topics" / f"topics.{language}-{split}.tsv").open(
        "w", encoding="utf-8", newline="\n"
    ) as file:
        file.writelines(f"{q.qid}\t{' '.join(q.text.split())}\n" for q in queries)
    judged = {q: found for q, found in qrels.items() if q in known}
    if judged:
        with (folder / "qrels" / f"qrels.{language}-{split}.tsv").open(
            "w", encoding="utf-8", newline="\n"
        ) as file:
            file.writelines(
                f"{q} Q0 {d} {gain}\n" for q, found in judged.items() for d, gain in found.items()
            )
    return f"{split} {len(queries)} queries, {sum(map(len, judged.values()))} judgments"
