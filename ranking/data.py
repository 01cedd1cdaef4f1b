"""What a cross-encoder learns from, in index arrays over mapped pairs: no Python object a pair.

Each epoch reads one draw of negatives, in an order that is a function of seed and epoch alone.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from core.console import say
from core.distributed import generator
from core.errors import InputError
from core.groups import PairTable
from training.order import Order, share

if TYPE_CHECKING:
    import numpy


class Part(NamedTuple):
    """What one process takes of a step: rows of ``draw`` for each sample of it."""

    draw: int
    samples: "list[numpy.ndarray]"


class TrainingData:
    """The pairs of each draw of negatives; epoch e reads draw e modulo their number.

    A sample is what the loss sees together. With ``size`` 1 it is one pair; otherwise a relevant
    passage of a query and up to ``size`` - 1 others of that query with lower labels, drawn anew
    each epoch. ``per_step``: samples of an optimizer step, of all processes. ``languages``: of the
    queries; all without it.
    """

    def __init__(
        self,
        draws: Sequence[PairTable],
        seed: int,
        per_step: int,
        size: int = 1,
        languages: Sequence[str] = (),
    ):
        self.draws = draws
        self.seed = seed
        self.size = size
        self.rows = [rows_of(draw, languages) for draw in draws]
        self.check_labels()
        self.pools: list[Rows | Pools] = []
        for draw, rows in zip(draws, self.rows, strict=True):
            self.pools.append(Rows(rows) if size == 1 else Pools(draw, rows))
        fewest = min(len(pools) for pools in self.pools)
        if size > 1:
            self.say_groups(fewest)
        self.order = Order(fewest, per_step, seed)
        if not self.order.steps_per_epoch:
            what = "pairs" if size == 1 else "groups"
            raise InputError(
                f"{fewest} training {what} do not fill one step of {per_step}; "
                "lower batch_size or accumulation"
            )

    def check_labels(self) -> None:
        """Raises InputError where all labels are one."""
        import numpy as np

        labels: set[float] = set()
        for draw, rows in zip(self.draws, self.rows, strict=True):
            labels.update(np.unique(draw.labels[rows]).tolist())
        if len(labels) == 1:
            raise InputError(
                f"all {len(self.rows[0])} training pairs have the label {labels.pop()}; "
                "a ranker needs relevant and other passages"
            )

    def say_groups(self, fewest: int) -> None:
        """How many groups there are, and how many queries have none."""
        first = self.pools[0]
        assert isinstance(first, Pools)
        unused = first.queries - first.queries_used
        say(
            f"  groups: {fewest} of up to {self.size} passages; "
            f"{unused} of {first.queries} queries have no "
            "passage above another and are in none"
        )

    def part(self, step: int, rank: int = 0, world: int = 1) -> Part:
        """The samples that process ``rank`` of ``world`` takes of a step, in all micro-batches."""
        epoch = self.order.epoch(step)
        draw = epoch % len(self.draws)
        pools = self.pools[draw]
        numbers = share(self.order.of_step(step, len(pools)), rank, world)
        return Part(draw, [self.sample(pools, int(number), epoch) for number in numbers])

    def sample(self, pools: "Rows | Pools", number: int, epoch: int) -> "numpy.ndarray":
        """The rows of a sample: a relevant passage first, others drawn by (seed, epoch, number)."""
        import numpy as np

        first, others = pools[number]
        if len(others) >= self.size:
            random = generator(self.seed, epoch, "group", number)
            chosen = random.permutation(len(others))[: self.size - 1]
            others = others[np.sort(chosen)]
        return np.concatenate([[first], others])


def rows_of(draw: PairTable, languages: Sequence[str]) -> "numpy.ndarray":
    """The rows whose queries are in ``languages``, int32; all rows without it."""
    import numpy as np

    if not languages:
        return np.arange(len(draw), dtype=np.int32)
    names = np.array(draw.dictionary("language").to_pylist())
    is_wanted = np.isin(names, list(languages))  # by a language's code
    return np.flatnonzero(is_wanted[draw.codes("language")]).astype(np.int32)


class Rows:
    """Each pair by itself."""

    def __init__(self, rows: "numpy.ndarray"):
        import numpy as np

        self.rows = rows
        self.none = np.empty(0, np.int32)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> "tuple[int, numpy.ndarray]":
        return int(self.rows[number]), self.none


class Pools:
    """Each relevant passage with the passages of its query that have lower labels.

    Only passages above another are relevant here. Queries come in the order of their first row,
    a query's passages in the order of theirs.
    """

    def __init__(self, draw: PairTable, rows: "numpy.ndarray"):
        import numpy as np

        # A query id may be in two languages, so a query is known by both codes in one number
        languages = draw.codes("language")[rows].astype(np.int64)
        keys = languages * len(draw.dictionary("qid")) + draw.codes("qid")[rows]
        _, first_row, query = np.unique(keys, return_index=True, return_inverse=True)
        count = len(first_row)
        place = np.empty(count, np.int32)  # of a query, in the order of first rows
        place[np.argsort(first_row)] = np.arange(count)
        by_query = np.argsort(place[query], kind="stable")
        self.rows = rows[by_query]  # a query's rows lie together
        place_of_row = place[query[by_query]]
        self.starts = np.searchsorted(place_of_row, np.arange(count + 1))
        self.labels = draw.labels
        labels = self.labels[self.rows]
        lowest = labels  # of each query
        if len(rows):
            lowest = np.minimum.reduceat(labels, self.starts[:-1])
        self.firsts = np.flatnonzero(labels > lowest[place_of_row])
        self.query = place_of_row[self.firsts]

    def __len__(self) -> int:
        return len(self.firsts)

    def __getitem__(self, number: int) -> "tuple[int, numpy.ndarray]":
        first = self.rows[self.firsts[number]]
        query = self.query[number]
        of_query = self.rows[self.starts[query] : self.starts[query + 1]]
        is_lower = self.labels[of_query] < self.labels[first]
        return int(first), of_query[is_lower]

    @property
    def queries(self) -> int:
        """Of all rows."""
        return len(self.starts) - 1

    @property
    def queries_used(self) -> int:
        """Those with a passage above another."""
        import numpy as np

        return len(np.unique(self.query))
