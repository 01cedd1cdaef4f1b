import numpy as np
import pytest

from core.errors import InputError
from training.order import Ahead, Order, micro_batches, per_process, share


def test_an_epoch_takes_each_once():
    order = Order(count=10, per_step=4, seed=0)
    assert order.steps_per_epoch == 2
    first = np.concatenate([order.of_step(0, 10), order.of_step(1, 10)])
    assert len(set(first.tolist())) == 8 and set(first.tolist()) <= set(range(10))
    assert [order.epoch(step) for step in range(5)] == [0, 0, 1, 1, 2]
    assert Order(10, 4, 0).of_step(3, 10).tolist() == order.of_step(3, 10).tolist()
    assert order.of_step(2, 10).tolist() != order.of_step(0, 10).tolist()


def test_processes_share_all():
    numbers = np.arange(8)
    assert [share(numbers, rank, 4).tolist() for rank in range(4)] == [
        [0, 4],
        [1, 5],
        [2, 6],
        [3, 7],
    ]


def test_micro_batches_are_of_like_length():
    assert micro_batches([5, 1, 4, 2, 8, 3, 7, 6], 2) == [[1, 3], [5, 2], [0, 7], [6, 4]]
    assert micro_batches([2, 1, 2, 1], 2) == [[1, 3], [0, 2]], "of equal length in their order"


@pytest.mark.parametrize(
    "batch_size, size, world, expected", [(32, 1, 1, 32), (32, 1, 8, 4), (64, 8, 4, 2)]
)
def test_each_process_takes_as_many(batch_size, size, world, expected):
    assert per_process("a", batch_size, size, world) == expected


@pytest.mark.parametrize(
    "batch_size, size, world, message",
    [
        (32, 1, 3, "set batch_size to 30 or 33, or start 4 or 8 or 16 or 32 processes"),
        (4, 1, 8, "set batch_size to 8, or start 1 or 2 or 4 processes"),
        (24, 8, 2, "in groups of 8, .*set batch_size to 16 or 32, or start 1 or 3 processes"),
    ],
)
def test_what_cannot_be_divided_evenly(batch_size, size, world, message):
    with pytest.raises(InputError, match=f"a: batch_size {batch_size} .*{message}"):
        per_process("a", batch_size, size, world)


def test_an_error_in_the_thread_is_raised_where_its_batches_are_taken():
    def make(step):
        if step == 1:
            raise InputError("docs.jsonl: no passage b#0")
        return [step]

    ahead = Ahead(make)
    ahead.start(1)
    assert ahead.take(0) == [0]
    with pytest.raises(InputError, match="docs.jsonl: no passage b#0"):
        ahead.take(1)
    ahead.close()
