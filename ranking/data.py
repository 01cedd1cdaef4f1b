"""Training pairs as batches: the order is a pure function of (seed, epoch), so a resumed run needs no replay."""
from collections.abc import Callable, Sequence

from core.distributed import generator
from core.errors import InputError
from core.records import TrainingPair


class TrainingData:
    """``draws``: the pairs of each draw of negatives; epoch e reads draw e modulo their number."""

    def __init__(self, draws: Sequence[Sequence[TrainingPair]], texts: Callable[[TrainingPair], tuple[str, str]], seed: int, per_step: int):
        self.draws, self.texts, self.seed, self.per_step = draws, texts, seed, per_step
        self.steps_per_epoch = min(map(len, draws)) // per_step
        if not self.steps_per_epoch:
            raise InputError(f"{min(map(len, draws))} training pairs do not fill one step of {per_step}; lower batch_size or accumulation")
        labels = {pair.label for draw in draws for pair in draw}
        if len(labels) == 1:
            raise InputError(f"all {len(draws[0])} training pairs have the label {labels.pop()}; a ranker needs relevant and other passages")
        self._epoch, self._order = -1, None

    def step(self, step: int) -> list[TrainingPair]:
        """The pairs of a step, of all processes and micro-batches."""
        epoch, at = divmod(step, self.steps_per_epoch)
        pairs = self.draws[epoch % len(self.draws)]
        if epoch != self._epoch:
            self._epoch, self._order = epoch, generator(self.seed, epoch, "order").permutation(len(pairs))
        return [pairs[i] for i in self._order[at * self.per_step:(at + 1) * self.per_step]]


def micro_batches(rows: Sequence[tuple[dict, float]], size: int, rank: int, world: int) -> list[list[tuple[dict, float]]]:
    """A step's (inputs, label) rows in micro-batches of like length for one of ``world`` processes. Every row is in one micro-batch
    of one process, all are of one size, so the mean gradient does not depend on the arrangement."""
    rows = sorted(rows, key=lambda row: len(row[0]["input_ids"]))
    return [rows[i:i + size] for i in range(0, len(rows), size)][rank::world]
