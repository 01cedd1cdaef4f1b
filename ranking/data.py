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
        self.draws, self.seed, self.size = draws, seed, size
        self.rows = [rows_of(draw, languages) for draw in draws]
        self.check_labels()
        self.pools: list[Rows | Pools]
        if size == 1:
            self.pools = [Rows(rows) for rows in self.rows]
        else:
            self.pools = [Pools(draw, rows) for draw, rows in zip(draws, self.rows, strict=True)]
        fewest = min(len(pools) for pools in self.pools)
        if size > 1:
            self.say_groups(fewest)
        self.order = Order(fewest, per_step, seed)
        if not self.order.steps_per_epoch:
            raise InputError(
                f"{fewest} training {'pairs' if size == 1 else 'groups'} do not fill one step of "
                f"{per_step}; lower batch_size or accumulation"
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
        say(
            f"  groups: {fewest} of up to {self.size} passages; "
            f"{first.queries - first.queries_used} of {first.queries} queries have no "
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
    wanted = np.isin(np.array(draw.dictionary("language").to_pylist()), list(languages))
    return np.flatnonzero(wanted[draw.codes("language")]).astype(np.int32)


class Rows:
    """Each pair by itself."""

    def __init__(self, rows: "numpy.ndarray"):
        import numpy as np

        self.rows, self.none = rows, np.empty(0, np.int32)

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

        qids = len(draw.dictionary("qid"))
        keys = draw.codes("language")[rows].astype(np.int64) * qids + draw.codes("qid")[rows]
        _, first_row, query = np.unique(keys, return_index=True, return_inverse=True)
        place = np.empty(len(first_row), np.int32)  # of a query, in the order of first rows
        place[np.argsort(first_row)] = np.arange(len(first_row))
        by_query = np.argsort(place[query], kind="stable")
        self.rows = rows[by_query]  # a query's rows lie together
        of_query = place[query[by_query]]
        self.starts = np.searchsorted(of_query, np.arange(len(first_row) + 1))
        self.labels = draw.labels
        labels = self.labels[self.rows]
        lowest = np.minimum.reduceat(labels, self.starts[:-1]) if len(rows) else labels
        self.firsts = np.flatnonzero(labels > lowest[of_query])
        self.query = of_query[self.firsts]

    def __len__(self) -> int:
        return len(self.firsts)

    def __getitem__(self, number: int) -> "tuple[int, numpy.ndarray]":
        first, query = self.rows[self.firsts[number]], self.query[number]
        of_query = self.rows[self.starts[query] : self.starts[query + 1]]
        return int(first), of_query[self.labels[of_query] < self.labels[first]]

    @property
    def queries(self) -> int:
        """Of all rows."""
        return len(self.starts) - 1

    @property
    def queries_used(self) -> int:
        """Those with a passage above another."""
        import numpy as np

        return len(np.unique(self.query))
