"""Candidates for negatives on disk: a parquet file a language, a row a candidate.

A candidate that a link of the chain drops stays in the file with the reason, so what each link does
can be counted and looked at.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from core.errors import InputError
from core.files import finished_file

RELEVANT = "relevant"
"""Why a judged relevant passage is dropped."""

AT_ONCE = 2000  # queries whose candidates are written together


class Candidate(NamedTuple):
    """A passage that may become a negative of a query."""

    docid: str
    place: int  # in the ranking that it comes from, from 1
    score: float
    origin: str  # the system or the link that brought it
    dropped: str = ""  # why it is none; empty: it is one
    passage_language: str = ""  # where it is not the query's


Pool = tuple[str, list[Candidate]]
"""A query id with its candidates."""

KINDS = {
    "qid": "string",
    "docid": "string",
    "place": "int32",
    "score": "float64",
    "origin": "string",
    "dropped": "string",
    "passage_language": "string",
}
"""The columns of a file."""


def write_pools(path: Path, pools: Iterable[Pool]) -> Counter:
    """Writes them as they come; each query once. Counts candidates by why they were dropped.

    ``""`` counts those that are negatives, ``"queries"`` the queries, ``"empty"`` those of them
    without any.
    """
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in KINDS.items()])
    counts: Counter = Counter()
    with finished_file(path, "wb") as file, pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for rows in in_parts(pools, counts):
            columns = {name: list(values) for name, values in zip(KINDS, rows, strict=True)}
            writer.write_table(pyarrow.table(columns, schema=schema))
    return counts


def in_parts(pools: Iterable[Pool], counts: Counter) -> Iterator[list[list]]:
    """Columns of AT_ONCE queries at a time."""
    columns: list[list] = [[] for _ in KINDS]
    for qid, candidates in pools:
        counts["queries"] += 1
        own = Counter(candidate.dropped for candidate in candidates)
        counts.update(own)
        counts["empty"] += own[""] == 0
        for candidate in candidates:
            for column, value in zip(columns, (qid, *candidate), strict=True):
                column.append(value)
        if counts["queries"] % AT_ONCE == 0:
            yield columns
            columns = [[] for _ in KINDS]
    yield columns


class Pools:
    """The candidates of a file, by query id or one query after another.

    Held as Arrow columns with strings as codes. A query without candidates is not in the file.
    Raises InputError for other columns.
    """

    def __init__(self, path: Path):
        import pyarrow.parquet

        strings = [name for name, kind in KINDS.items() if kind == "string"]
        table = pyarrow.parquet.read_table(path, read_dictionary=strings)
        if table.column_names != list(KINDS):
            raise InputError(f"{path}: found columns {table.column_names}, expected {list(KINDS)}")
        self.table = table.unify_dictionaries().combine_chunks()
        codes, qids = self.coded("qid")
        starts = np.flatnonzero(np.diff(codes, prepend=-1))
        ends = np.append(starts[1:], len(codes))
        self.rows: dict[str, range] = {}  # of each query
        for start, end in zip(starts.tolist(), ends.tolist(), strict=False):
            self.rows[qids[codes[start]]] = range(start, end)

    def coded(self, column: str) -> tuple[np.ndarray, list[str]]:
        """A string column as codes, int32 [rows], and the strings that they stand for."""
        if not self.table.num_rows:
            return np.zeros(0, np.int32), []
        (chunk,) = self.table.column(column).chunks
        return chunk.indices.to_numpy(), chunk.dictionary.to_pylist()

    def of(self, qid: str) -> list[Candidate]:
        """A query's candidates in their order, dropped ones too."""
        rows = self.rows.get(qid, range(0))
        part = self.table.slice(rows.start, len(rows))
        candidates = []
        for row in part.to_pylist():
            del row["qid"]
            candidates.append(Candidate(**row))
        return candidates

    def __iter__(self) -> Iterator[Pool]:
        for qid in self.rows:
            yield qid, self.of(qid)

    def live(self) -> "Live":
        """The candidates that no link dropped, as columns."""
        dropped, reasons = self.coded("dropped")
        is_live = np.array([reason == "" for reason in reasons], bool)
        rows = np.flatnonzero(is_live[dropped]) if len(dropped) else np.zeros(0, np.int64)
        columns = {}
        for name in ("qid", "docid", "passage_language"):
            codes, strings = self.coded(name)
            columns[name] = (codes[rows], strings)
        return Live(**columns)


class Live(NamedTuple):
    """Columns of candidates: codes, and the strings that they stand for."""

    qid: tuple[np.ndarray, list[str]]
    docid: tuple[np.ndarray, list[str]]
    passage_language: tuple[np.ndarray, list[str]]
