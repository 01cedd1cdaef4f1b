"""What a submission looks like: PROFILES, one short entry a competition's format. How hits are written, and how they are read back."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from core.errors import at_line
from core.passages import Passages
from core.records import Run
from core.runs import finite, ranked


@dataclass(frozen=True)
class Entry:
    """A language's part of a submission."""

    language: str
    track: str  # known or surprise
    run: Run
    queries: Sequence[str]
    passages: Passages


Hit = tuple[
    str, str, str | None, str | None
]  # query id, docid, rank and score as written; None where the format has none


@dataclass(frozen=True)
class Profile:
    suffix: str
    depth: int  # at most
    tracks: bool  # a folder known/ and one surprise/
    lines: Callable[[Entry, int, str], Iterator[str]]
    hits: Callable[
        [str, int, str], list[Hit]
    ]  # (file, number, line) -> what the line says; raises InputError
    head: str | None = None

    def name(self, language: str, split: str, track: str) -> str:
        return f"{track + '/' if self.tracks else ''}{language}-{split}.{self.suffix}"


def strictly_decreasing(scores: Sequence[float]) -> list[float]:
    """The same order with scores that also differ in float32: each at least one float32 step below the one before."""
    made: list[float] = []
    for score in scores:
        value = np.float32(score)
        if made and value >= np.float32(made[-1]):
            value = np.nextafter(np.float32(made[-1]), np.float32(-np.inf))
        made.append(float(value))
    return made


def trec_lines(entry: Entry, depth: int, tag: str) -> Iterator[str]:
    for qid in entry.queries:
        best = ranked(entry.run.get(qid, {}))[:depth]
        for rank, (hit, score) in enumerate(
            zip(best, strictly_decreasing([s for _, s in best])), 1
        ):
            yield f"{qid} Q0 {hit.docid} {rank} {score!r} {tag}"


def trec_hits(where: str, number: int, line: str) -> list[Hit]:
    columns = line.split()
    if len(columns) != 6:
        raise at_line(
            where, number, f"{len(columns)} columns", "6: query-id Q0 docid rank score tag"
        )
    finite(where, number, columns[4])
    return [(columns[0], columns[2], columns[3], columns[4])]


def csv_lines(entry: Entry, depth: int, _tag: str) -> Iterator[str]:
    for qid in entry.queries:
        yield f"{qid},{' '.join(hit.docid for hit in ranked(entry.run.get(qid, {}))[:depth])}"


def csv_hits(where: str, number: int, line: str) -> list[Hit]:
    columns = line.split(",")
    if len(columns) != 2 or not columns[1].split():
        raise at_line(
            where, number, repr(line[:60]), "a query id, a comma, and docids separated by spaces"
        )
    return [(columns[0], docid, None, None) for docid in columns[1].split()]


PROFILES = {
    "miracl": Profile("trec", 100, True, trec_lines, trec_hits),
    "trec": Profile("trec", 1000, False, trec_lines, trec_hits),
    "csv": Profile("csv", 1000, False, csv_lines, csv_hits, "query_id,passage_ids"),
}
