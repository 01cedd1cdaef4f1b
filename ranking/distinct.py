"""The pairs of a training, each once however many draws and rows have it, and a value for each."""

from typing import TYPE_CHECKING

from core.records import TrainingPair
from ranking.data import TrainingData

if TYPE_CHECKING:
    import numpy

SORTED_BY = ("docid", "qid", "passage_language", "language")
"""Columns that tell pairs apart; the last one decides first."""


class DistinctPairs:
    """The pairs of all draws, each once: by language, passage's language, query and passage.

    ``draw`` and ``row`` say where each pair in use stands. Of these pairs, ``first`` has one place
    for each distinct pair, and ``number`` has, for each pair, which of the distinct ones it is.
    """

    def __init__(self, data: TrainingData):
        import numpy as np

        self.draws = data.draws
        self.rows = data.rows
        self.kept: dict[str, numpy.ndarray] = {}  # codes of the distinct pairs, by column
        counts = [len(rows) for rows in data.rows]
        self.draw = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self.row = np.concatenate(data.rows)
        places = [self.places(column) for column in SORTED_BY]
        order = np.lexsort(places)
        is_first = np.zeros(len(order), bool)  # in that order, whether another than the one before
        is_first[:1] = True
        for place in places:
            in_order = place[order]
            is_first[1:] |= in_order[1:] != in_order[:-1]
        self.first = order[is_first]
        self.number = np.empty(len(order), np.int64)
        self.number[order] = np.cumsum(is_first) - 1

    def __len__(self) -> int:
        return len(self.first)

    def places(self, column: str) -> "numpy.ndarray":
        """Of each pair's string in the order of all strings of a column."""
        import numpy as np
        import pyarrow.compute

        strings = self.draws[0].dictionary(column)
        place = np.empty(len(strings), np.int32)
        place[pyarrow.compute.sort_indices(strings).to_numpy()] = np.arange(len(strings))
        return place[np.concatenate(self.columns(column))]

    def by_language(self) -> list[tuple[str, range]]:
        """Each language with the numbers of its distinct pairs, in order."""
        codes = self.codes("language")
        names = self.draws[0].dictionary("language")
        spans = []
        for span in equal_spans(codes):
            spans.append((names[int(codes[span.start])].as_py(), span))
        return spans

    def by_query(self, span: range) -> dict[str, list[range]]:
        """The queries of a language's pairs; each has a range for each language of passages."""
        codes = self.codes("qid")[span.start : span.stop]
        languages = self.codes("passage_language")[span.start : span.stop]
        names = self.draws[0].dictionary("qid")
        queries: dict[str, list[range]] = {}
        for part in equal_spans(codes, languages):
            qid = names[int(codes[part.start])].as_py()
            numbers = range(span.start + part.start, span.start + part.stop)
            queries.setdefault(qid, []).append(numbers)
        return queries

    def is_foreign(self, part: range) -> bool:
        """Whether the passages of some pairs are of another language than their queries.

        The first pair tells: of a query's, or a language's, those of its own language come first.
        """
        first = int(self.codes("passage_language")[part.start])
        return self.draws[0].dictionary("passage_language")[first].as_py() != ""

    def docids(self, part: range) -> list[str]:
        """Of some distinct pairs."""
        import pyarrow

        codes = pyarrow.array(self.codes("docid")[part.start : part.stop])
        return self.draws[0].dictionary("docid").take(codes).to_pylist()

    def codes(self, column: str) -> "numpy.ndarray":
        """A string column's codes of the distinct pairs: int32; kept, as it is asked for often."""
        import numpy as np

        if column not in self.kept:
            self.kept[column] = np.concatenate(self.columns(column))[self.first]
        return self.kept[column]

    def columns(self, column: str) -> "list[numpy.ndarray]":
        """A string column's codes of the rows in use, an array a draw."""
        arrays = []
        for draw, rows in zip(self.draws, self.rows, strict=True):
            arrays.append(draw.codes(column)[rows])
        return arrays

    def pairs(self, numbers: range) -> list[TrainingPair]:
        """Some of them as Python objects."""
        import numpy as np

        firsts = self.first[numbers.start : numbers.stop : numbers.step]
        pairs: list[TrainingPair | None] = [None] * len(firsts)
        for number, draw in enumerate(self.draws):
            places = np.flatnonzero(self.draw[firsts] == number)
            of_draw = draw.pairs(self.row[firsts[places]])
            for place, pair in zip(places.tolist(), of_draw, strict=True):
                pairs[place] = pair
        return [pair for pair in pairs if pair is not None]

    def by_row(self, values: "numpy.ndarray") -> "list[numpy.ndarray]":
        """A value for each distinct pair, at the rows that are that pair; NaN elsewhere."""
        import numpy as np

        arrays = [np.full(len(draw), np.nan, np.float32) for draw in self.draws]
        for draw, array in enumerate(arrays):
            chosen = self.draw == draw
            array[self.row[chosen]] = values[self.number[chosen]]
        return arrays


def equal_spans(*columns: "numpy.ndarray") -> list[range]:
    """Where the rows of columns, which lie together by their values, have the same ones."""
    import numpy as np

    is_first = np.zeros(len(columns[0]), bool)
    is_first[:1] = True
    for column in columns:
        is_first[1:] |= column[1:] != column[:-1]
    starts = np.flatnonzero(is_first).tolist()
    ends = [*starts[1:], len(is_first)]
    return [range(start, end) for start, end in zip(starts, ends, strict=True)]
