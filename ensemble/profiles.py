"""What a submission looks like: PROFILES, one short entry a competition's format.

An entry says how hits are written, and how they are read back.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from core.errors import InputError, at_line
from core.passages import Passages
from core.records import Run
from core.runs import ranked
from core.text import columns, finite, shortened


@dataclass(frozen=True)
class Entry:
    """A language's part of a submission; ``track``: known or surprise."""

    language: str
    track: str
    run: Run
    queries: Sequence[str]
    passages: Passages


class Hit(NamedTuple):
    """A passage of a query as a file has it; rank and score as written, None where it has none."""

    qid: str
    docid: str
    rank: str | None = None
    score: str | None = None


@dataclass(frozen=True)
class Profile:
    """A format.

    ``depth``: passages a query, at most. ``tracks``: files lie in the folders known/ and
    surprise/. ``lines(entry, depth, tag)`` writes, ``hits(file, number, line)`` reads a line and
    raises InputError. ``head``: the first line of every file, where there is one.
    """

    suffix: str
    depth: int
    tracks: bool
    lines: Callable[[Entry, int, str], Iterator[str]]
    hits: Callable[[Path, int, str], list[Hit]]
    head: str | None = None

    def name(self, language: str, split: str, track: str) -> str:
        """A file's name within the submission."""
        folder = f"{track}/" if self.tracks else ""
        return f"{folder}{language}-{split}.{self.suffix}"


def strictly_decreasing(scores: Sequence[float]) -> list[float]:
    """The same order with scores that also differ in float32.

    Each is at least one float32 step below the one before.
    """
    lowered: list[float] = []
    for score in scores:
        value = np.float32(score)
        if lowered and value >= np.float32(lowered[-1]):
            value = np.nextafter(np.float32(lowered[-1]), np.float32(-np.inf))
        lowered.append(float(value))
    return lowered


def trec_lines(entry: Entry, depth: int, tag: str) -> Iterator[str]:
    """Six columns a passage, ranks from 1."""
    for qid in entry.queries:
        best = ranked(entry.run.get(qid, {}))[:depth]
        scores = strictly_decreasing([score for _, score in best])
        for rank, ((docid, _), score) in enumerate(zip(best, scores, strict=True), 1):
            yield f"{qid} Q0 {docid} {rank} {score!r} {tag}"


def trec_hits(where: Path, number: int, line: str) -> list[Hit]:
    """The one hit of a line of ``trec_lines``."""
    parts = columns(where, number, line)
    if len(parts) != 6:
        raise at_line(where, number, f"{len(parts)} columns", "6: query-id Q0 docid rank score tag")
    qid, _, docid, rank, score, _ = parts
    finite(where, number, score)
    return [Hit(qid, docid, rank, score)]


def csv_lines(entry: Entry, depth: int, _tag: str) -> Iterator[str]:
    """A line a query, its passages separated by spaces."""
    for qid in entry.queries:
        best = ranked(entry.run.get(qid, {}))[:depth]
        refuse_formulas([qid, *(docid for docid, _ in best)])
        yield f"{qid},{' '.join(docid for docid, _ in best)}"


def refuse_formulas(ids: Sequence[str]) -> None:
    """Raises InputError for an id that a table's program would calculate, or take for two cells."""
    for text in ids:
        if text.startswith(("=", "+", "-", "@")) or "," in text or '"' in text:
            raise InputError(
                f"submission.profile: csv cannot hold the id {shortened(text)}: a cell must not "
                "begin with =, +, - or @, nor hold a comma or a quotation mark; take trec"
            )


def csv_hits(where: Path, number: int, line: str) -> list[Hit]:
    """The hits of a line of ``csv_lines``."""
    cells = line.split(",")
    docids = columns(where, number, cells[1]) if len(cells) == 2 else []
    if not docids:
        raise at_line(
            where, number, repr(line[:60]), "a query id, a comma, and docids separated by spaces"
        )
    return [Hit(cells[0], docid) for docid in docids]


PROFILES = {
    "miracl": Profile("trec", 100, tracks=True, lines=trec_lines, hits=trec_hits),
    "trec": Profile("trec", 1000, tracks=False, lines=trec_lines, hits=trec_hits),
    "csv": Profile(
        "csv", 1000, tracks=False, lines=csv_lines, hits=csv_hits, head="query_id,passage_ids"
    ),
}
