"""Training pairs in groups and batches: the order is a pure function of (seed, epoch), so a resumed run needs no replay."""

from collections.abc import Callable, Iterator, Sequence

from core.console import say
from core.distributed import generator
from core.errors import InputError
from core.records import TrainingPair

Group = list[TrainingPair]


class TrainingData:
    """``draws``: the pairs of each draw of negatives; epoch e reads draw e modulo their number. ``size`` 1: a pair is a group of its own;
    otherwise a group is a relevant passage of a query and up to ``size`` − 1 others with lower labels, drawn anew each epoch.
    ``per_step``: groups of an optimizer step, of all processes."""

    def __init__(
        self,
        draws: Sequence[Sequence[TrainingPair]],
        texts: Callable[[TrainingPair], tuple[str, str]],
        seed: int,
        per_step: int,
        size: int = 1,
    ):
        self.texts, self.seed, self.per_step, self.size = texts, seed, per_step, size
        labels = {pair.label for draw in draws for pair in draw}
        if len(labels) == 1:
            raise InputError(
                f"all {len(draws[0])} training pairs have the label {labels.pop()}; a ranker needs relevant and other passages"
            )
        self.pools = [
            list(pools(draw) if size > 1 else (([pair], []) for pair in draw)) for draw in draws
        ]
        found = min(map(len, self.pools))
        if size > 1:
            queries = len({(p.language, p.qid) for p in draws[0]})
            say(
                f"  groups: {found} of up to {size} passages; {queries - len({(p[0].language, p[0].qid) for p, _ in self.pools[0]})} of {queries} queries have no "
                "passage above another and are in none"
            )
        self.steps_per_epoch = found // per_step
        if not self.steps_per_epoch:
            raise InputError(
                f"{found} training {'pairs' if size == 1 else 'groups'} do not fill one step of {per_step}; lower batch_size or accumulation"
            )
        self._epoch, self._order = -1, None

    def step(self, step: int) -> list[Group]:
        """The groups of a step, of all processes and micro-batches."""
        epoch, at = divmod(step, self.steps_per_epoch)
        found = self.pools[epoch % len(self.pools)]
        if epoch != self._epoch:
            self._epoch, self._order = (
                epoch,
                generator(self.seed, epoch, "order").permutation(len(found)),
            )
        return [
            self.group(*found[i], epoch, int(i))
            for i in self._order[at * self.per_step : (at + 1) * self.per_step]
        ]

    def group(self, first: Group, others: Group, epoch: int, number: int) -> Group:
        if len(others) < self.size:
            return first + others
        chosen = generator(self.seed, epoch, "group", number).permutation(len(others))[
            : self.size - 1
        ]
        return first + [others[i] for i in sorted(chosen)]


def pools(draw: Sequence[TrainingPair]) -> Iterator[tuple[Group, Group]]:
    """([a relevant pair], the pairs of its query with lower labels) for each relevant pair that has such others."""
    queries: dict[tuple[str, str], Group] = {}
    for pair in draw:
        queries.setdefault((pair.language, pair.qid), []).append(pair)
    for pairs in queries.values():
        for pair in pairs:
            lower = [p for p in pairs if p.label < pair.label]
            if lower:
                yield [pair], lower


def micro_batches(rows: Sequence[list], size: int, rank: int, world: int) -> list[list[list]]:
    """A step's groups, lists of (inputs, pair) rows, in micro-batches of ``size`` groups of like length for one of ``world`` processes.
    Every group is in one micro-batch of one process, all are of one size, so the mean gradient does not depend on the arrangement."""
    rows = sorted(rows, key=lambda group: max(len(inputs["input_ids"]) for inputs, _ in group))
    return [rows[i : i + size] for i in range(0, len(rows), size)][rank::world]
