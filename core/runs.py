"""TREC runs: the strict reader, the atomic writer, and the one order of ties."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from core.errors import InputError, at_line
from core.files import finished_file
from core.records import Run, ScoredDocument


def ranked(scores: Mapping[str, float]) -> list[ScoredDocument]:
    """Score descending, ties by docid descending, as trec_eval breaks them."""
    return [
        ScoredDocument(d, s) for s, d in sorted(((s, d) for d, s in scores.items()), reverse=True)
    ]


def top_k(scores: Mapping[str, float], k: int) -> dict[str, float]:
    return {d: s for d, s in ranked(scores)[:k]}


def by_depth(scores: Mapping[str, float]) -> dict[str, float]:
    """The same order with depth - rank as the score: no ties are left for a reader to break in its own way."""
    order = ranked(scores)
    return {d: float(len(order) - i) for i, (d, _) in enumerate(order)}


def append_below(block: Mapping[str, float], rest: Iterable[str]) -> dict[str, float]:
    """``block`` with the unscored ``rest`` in its given order under it, a whole point apart."""
    lowest = min(block.values(), default=0.0)
    tail = [d for d in rest if d not in block]
    return {**block, **{d: lowest - 1.0 - i for i, d in enumerate(tail)}}


def read_run(path: Path) -> Run:
    """Reads six TREC columns. The scores decide the order; the rank column is not used.

    Raises InputError with file and line for a wrong column count, a score that is no finite number, a passage named twice for
    a query, bytes that are not UTF-8, and for an empty file.
    """
    run: Run = {}
    for number, line in enumerate(text_lines(path), 1):
        columns = line.split()
        if len(columns) != 6:
            raise at_line(
                path, number, f"{len(columns)} columns", "6: query-id Q0 docid rank score tag"
            )
        qid, _, docid, _, text, _ = columns
        score = finite(path, number, text)
        if docid in run.setdefault(qid, {}):
            raise at_line(
                path,
                number,
                f"passage {docid} a second time for query {qid}",
                "each passage once a query",
            )
        run[qid][docid] = score
    if not run:
        raise InputError(
            f"{path}: the run is empty, expected lines of query-id Q0 docid rank score tag"
        )
    return run


def run_file(folder: str | Path, language: str, split: str, otherwise: str) -> Path:
    """LANG-SPLIT.trec of a folder; a missing one is an InputError that ends with ``otherwise``: what needs it."""
    path = Path(folder) / f"{language}-{split}.trec"
    if not path.is_file():
        raise InputError(f"{path}: no such file; {otherwise}")
    return path


def write_run(path: Path, run: Run, tag: str) -> None:
    """Scores in full, queries in the order of ``run``, passages in the one order."""
    with finished_file(path) as file:
        for qid, scores in run.items():
            for rank, (docid, score) in enumerate(ranked(scores), 1):
                file.write(f"{qid} Q0 {docid} {rank} {float(score)!r} {tag}\n")


def finite(path, number, text) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise at_line(path, number, f"score {text!r}", "a finite number")
    return score


def text_lines(path: Path) -> Iterable[str]:
    """Lines of a UTF-8 text file without their ends; a missing file or other bytes are an InputError."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                yield raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise at_line(
                    path,
                    number,
                    f"byte 0x{raw[error.start]:02x} at column {error.start + 1}",
                    "UTF-8 text",
                ) from None
