"""TREC runs: the strict reader, the atomic writer, and the one order of ties."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from core.errors import InputError, at_line
from core.files import finished_file
from core.records import Ranking, Run, ScoredDocument
from core.text import columns, decoded, existing_file, finite, text_lines


def ranked(scores: Mapping[str, float]) -> list[ScoredDocument]:
    """Score descending, ties by docid descending, as trec_eval breaks them."""
    with_score_first = [(score, docid) for docid, score in scores.items()]
    by_score = sorted(with_score_first, reverse=True)
    return [ScoredDocument(docid, score) for score, docid in by_score]


def top_k(scores: Mapping[str, float], k: int) -> dict[str, float]:
    """The ``k`` best, in their order."""
    return dict(ranked(scores)[:k])


def by_depth(scores: Mapping[str, float]) -> dict[str, float]:
    """The same order with depth - rank as the score: no ties are left for a reader to break."""
    order = ranked(scores)
    return {docid: float(len(order) - place) for place, (docid, _) in enumerate(order)}


def append_below(block: Mapping[str, float], rest: Iterable[str]) -> dict[str, float]:
    """``block`` with the unscored ``rest`` in its given order under it, a whole point apart."""
    lowest = min(block.values(), default=0.0)
    unscored = [docid for docid in rest if docid not in block]
    below = {docid: lowest - 1.0 - place for place, docid in enumerate(unscored)}
    return {**block, **below}


def read_run(path: Path) -> Run:
    """Reads six TREC columns. The scores decide the order; the rank column is not used.

    Raises InputError with file and line for a wrong column count, a score that is no finite
    number, a passage named twice for a query, bytes that are not UTF-8, and for an empty file.
    """
    run: Run = {}
    for number, line in enumerate(text_lines(path), 1):
        qid, docid, score = parse_line(path, number, line)
        scores = run.setdefault(qid, {})
        check_new(path, number, qid, docid, scores)
        scores[docid] = score
    if not run:
        raise InputError(
            f"{path}: the run is empty, expected lines of query-id Q0 docid rank score tag"
        )
    return run


def read_rankings(path: Path) -> Iterator[Ranking]:
    """As ``read_run``, a query at a time: of a file in which the lines of a query lie together.

    None of an empty file. Raises InputError as ``read_run`` does, and for a query that comes again
    after others.
    """
    seen: set[str] = set()
    current = None
    scores: dict[str, float] = {}
    for number, line in enumerate(text_lines(path), 1):
        qid, docid, score = parse_line(path, number, line)
        if qid != current:
            if current is not None:
                yield current, scores
            if qid in seen:
                raise at_line(
                    path, number, f"query {qid} again after others", "a query's lines together"
                )
            seen.add(qid)
            current, scores = qid, {}
        check_new(path, number, qid, docid, scores)
        scores[docid] = score
    if current is not None:
        yield current, scores


def check_new(path: Path, number: int, qid: str, docid: str, scores: Mapping[str, float]) -> None:
    """Raises InputError, for a line of a run, where a query has its passage already."""
    if docid in scores:
        twice = f"passage {docid} a second time for query {qid}"
        raise at_line(path, number, twice, "each passage once a query")


def parse_line(path: Path, number: int, line: str) -> tuple[str, str, float]:
    """(query id, docid, score) of a run's line."""
    parts = columns(path, number, line)
    if len(parts) != 6:
        expected = "6: query-id Q0 docid rank score tag"
        raise at_line(path, number, f"{len(parts)} columns", expected)
    qid, _, docid, _, score, _ = parts
    return qid, docid, finite(path, number, score)


class StoredRun(Mapping[str, dict[str, float]]):
    """A run that ``write_run`` wrote, by query id, without holding its scores.

    In memory are the places of the queries in the file, about 150 bytes a query: a run of 100,000
    queries and depth 1000 would take 12 GB as a Run. The file may be empty. Each look-up reads the
    query's lines. Raises InputError if the lines of a query do not lie together.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.places: dict[str, tuple[int, int, int]] = {}  # offset, bytes, number of the first line
        # The lines of the query being read: they begin at ``start``, and ``end`` is behind them.
        qid = b""
        start = end = 0
        first_line = 1
        with existing_file(self.path).open("rb") as file:
            for number, line in enumerate(file, 1):
                qid_of_line = line[: line.find(b" ")]
                if qid_of_line != qid:
                    self.add(qid, start, end, first_line)
                    qid, start, first_line = qid_of_line, end, number
                end += len(line)
        self.add(qid, start, end, first_line)

    def add(self, name: bytes, start: int, end: int, line: int) -> None:
        """Notes where the lines of a query are."""
        if start == end:
            return
        qid = decoded(self.path, line, name)
        if qid in self.places:
            raise at_line(
                self.path, line, f"query {qid} again after others", "a query's lines together"
            )
        self.places[qid] = start, end - start, line

    def __getitem__(self, qid: str) -> dict[str, float]:
        offset, size, first_line = self.places[qid]
        with self.path.open("rb") as file:
            file.seek(offset)
            raw_lines = file.read(size).rstrip(b"\n").split(b"\n")
        scores: dict[str, float] = {}
        for number, raw in enumerate(raw_lines, first_line):
            line = decoded(self.path, number, raw)
            _, docid, score = parse_line(self.path, number, line)
            scores[docid] = score
        return scores

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def run_file(folder: str | Path, language: str, split: str, otherwise: str) -> Path:
    """LANG-SPLIT.trec of a folder.

    A missing one is an InputError that ends with ``otherwise``: what needs it.
    """
    path = Path(folder) / f"{language}-{split}.trec"
    if not path.is_file():
        raise InputError(f"{path}: no such file; {otherwise}")
    return path


def write_run(path: Path, run: Run, tag: str) -> None:
    """Scores in full, queries in the order of ``run``, passages in the one order."""
    write_rankings(path, run.items(), tag)


def write_rankings(path: Path, rankings: Iterable[Ranking], tag: str) -> None:
    """``write_run`` for a stream of (query id, scores): written as they come, none is kept."""
    with finished_file(path) as file:
        for qid, scores in rankings:
            for place, (docid, score) in enumerate(ranked(scores), 1):
                file.write(f"{qid} Q0 {docid} {place} {float(score)!r} {tag}\n")
