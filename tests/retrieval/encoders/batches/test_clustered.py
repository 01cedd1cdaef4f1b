from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from core.encoders import Encoder
from core.errors import InputError
from retrieval.encoders.batches import clusters, kmeans
from retrieval.encoders.batches.clustered import Clustered
from retrieval.encoders.material import Material

# One number a vector. Examples 0, 1, 2 are near each other, 3 and 4, and 5 is alone
NUMBERS = [0, 1, 2, 100, 101, 200]


class Pairs:
    """Example i: a query with the text of its number, and passage 10 · i."""

    def __init__(self, numbers):
        self.numbers = numbers
        self.spans = {"en": range(len(numbers) - 1), "sw": range(len(numbers) - 1, len(numbers))}

    def query_texts(self, numbers):
        return [str(self.numbers[number]) for number in numbers.tolist()]

    def positives(self, numbers, batch):
        return 10 * numbers


class Encode:
    """The vector of a text is the number that it says, ``shift`` added."""

    def __init__(self, shift=0):
        self.shift = shift
        self.sides = []

    def own(self, texts, side):
        self.sides.append(side)
        return np.array([[float(text) + self.shift] for text in texts], np.float32)


def made(numbers=NUMBERS, teacher=None, **settings):
    values = {"method": "ict_q", "batch_size": 2, **settings}
    corpus = SimpleNamespace(texts=lambda ids: [str(-ident) for ident in ids.tolist()])
    material = Material(
        name="mine",
        settings=Encoder(**values),
        task=None,
        languages=["en", "sw"],
        corpus=corpus,
        tokens=None,
        folder=Path(),
        teacher=teacher,
    )
    return Clustered(material, Pairs(numbers))


def batches_of(batches, steps):
    return [sorted(batch.tolist()) for step in steps for batch in batches.of_step(step)]


def test_an_epoch_is_all_sub_clusters_as_worked_out_by_hand():
    # Of the first cluster one example is left, which goes together with the alone one
    batches = made(clustered={"clusters": 3})
    batches.begin(0, Encode())
    alone = set()
    for epoch in range(8):
        own = batches_of(batches, range(3 * epoch, 3 * epoch + 3))
        assert [3, 4] in own
        (combined,) = [batch for batch in own if 5 in batch]
        own.remove([3, 4])
        own.remove(combined)
        assert sorted(own[0] + combined) == [0, 1, 2, 5]
        alone.add(combined[0])
    assert alone == {0, 1, 2}  # drawn anew each epoch


def test_clusters_stand_for_so_many_epochs():
    batches = made(clustered={"clusters": 3, "every": 2}, accumulation=1)
    assert batches.waits(0)
    batches.begin(0, Encode())
    assert [step for step in range(1, 10) if batches.waits(step)] == [6]  # three steps an epoch
    before = batches.assigned
    batches.begin(5, None)  # not time: no model is asked
    assert batches.assigned is before
    batches.pairs.numbers = [0, 100, 1, 101, 2, 200]
    batches.begin(6, Encode())
    assert [3, 1] not in batches_of(batches, [6, 7, 8])
    assert [1, 3] in batches_of(batches, [6, 7, 8])
    assert batches.waits(12)


def test_without_every_the_clusters_are_made_once():
    batches = made(batches="clustered", method=None, clustered={"of": "queries", "clusters": 3})
    batches.begin(0, Encode())
    assert not any(batches.waits(step) for step in range(1, 50))


@pytest.mark.parametrize("of, side", [("queries", "query"), ("passages", "passage")])
def test_of_queries_or_of_passages(of, side):
    encode = Encode()
    batches = made(clustered={"of": of, "clusters": 2})
    batches.begin(0, encode)
    assert set(encode.sides) == {side}
    if of == "passages":  # the texts are 0, -10, ..., -50: two halves
        assert batches.sizes.tolist() == [3, 3]


def test_a_teacher_is_asked_instead_of_the_model():
    teacher = Encode()
    batches = made(
        method="tas_q", clustered={"clusters": 3, "teacher": "x"}, teacher=lambda: teacher
    )
    batches.begin(0, None)
    assert teacher.sides == ["query"]


def test_a_batch_is_drawn_within_a_cluster_and_filled_from_others():
    batches = made(method="tas_q", clustered={"clusters": 3}, teacher=Encode)
    batches.begin(0, None)
    found = batches_of(batches, range(40))
    within = [[0, 1], [0, 2], [1, 2], [3, 4]]
    for batch in found:
        assert len(set(batch)) == 2
        assert batch in within or 5 in batch  # the alone one needs another
    for batch in (*within, [0, 5], [3, 5]):
        assert batch in found


def test_a_language_of_fewer_queries_than_a_batch_has_its_example_in_each_epoch():
    batches = made(clustered={"clusters": 3}, batch_size=3)  # sw has example 5 alone
    batches.begin(0, Encode())
    assert sorted(sum(batches_of(batches, [0, 1]), [])) == [0, 1, 2, 3, 4, 5]


def test_empty_clusters_are_in_no_batch(capsys):
    batches = made([7] * 6, clustered={"clusters": 3})
    batches.begin(0, Encode())
    assert sorted(sum(batches_of(batches, [0, 1, 2]), [])) == [0, 1, 2, 3, 4, 5]
    assert (
        "6 queries in 3 clusters before step 1, 0 in the median one, 6 in the largest, 2 empty"
        in (capsys.readouterr().out)
    )


def test_a_large_set_is_learned_from_a_sample_and_assigned_in_blocks(monkeypatch):
    monkeypatch.setattr(kmeans, "LEARNED_FROM", 2)
    monkeypatch.setattr(clusters, "AT_ONCE", 4)
    numbers = [*range(5), *range(100, 105)]
    encode = Encode()
    batches = made(numbers, clustered={"clusters": 2})
    batches.begin(0, encode)
    assert len(encode.sides) == 1 + 3  # four examples to learn from, then 4 + 4 + 2
    assert len(batches.assigned) == 10
    assert len(set(batches.assigned.tolist())) == 2


def test_goes_on_from_its_state():
    batches = made(clustered={"clusters": 3, "every": 1})
    for step in range(5):
        batches.begin(step, Encode())
    again = made(clustered={"clusters": 3, "every": 1})
    again.restore(batches.state())
    assert not again.waits(5)
    assert batches_of(again, [4, 5]) == batches_of(batches, [4, 5])
    for both in (batches, again):
        both.begin(6, Encode(shift=3))
    assert again.assigned.tolist() == batches.assigned.tolist()
    assert batches_of(again, range(6, 9)) == batches_of(batches, range(6, 9))


def test_more_clusters_than_examples():
    with pytest.raises(
        InputError,
        match=r"encoders.mine.clustered.clusters: found 7, expected at most 6, the examples that "
        r"are to be clustered; lower it, or leave it out for 3",
    ):
        made(clustered={"clusters": 7})


def test_too_few_examples_for_a_step():
    with pytest.raises(InputError, match="6 examples do not fill one step of 8"):
        made(batch_size=4, accumulation=2)
