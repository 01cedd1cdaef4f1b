"""The queue: what it holds, in which order, and what a batch sees of it."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.encoders import Encoder
from core.encoders import Queue as Settings
from core.errors import InputError
from retrieval.encoders.batch import Batch, Shape
from retrieval.encoders.contrastive import Scored
from retrieval.encoders.in_batch.queue import Queue, Ring
from retrieval.encoders.material import Relevant


def vectors(*values):
    return torch.tensor([[float(value), 0.0] for value in values])


def test_a_ring_holds_the_last_ones_and_the_oldest_go_first():
    ring = Ring(5)
    ring.put(vectors(1, 2, 3), np.array([11, 12, 13]))
    assert ring.ids.tolist() == [11, 12, 13] and ring.vectors[:, 0].tolist() == [1, 2, 3]
    ring.put(vectors(4, 5, 6, 7), np.array([14, 15, 16, 17]))  # two fill it, two go round
    assert ring.ids.tolist() == [16, 17, 13, 14, 15] and ring.next == 2
    assert ring.vectors[:, 0].tolist() == [6, 7, 3, 4, 5]
    ring.put(vectors(8, 9, 10, 11), np.array([18, 19, 20, 21]))
    assert ring.ids.tolist() == [21, 17, 18, 19, 20] and ring.next == 1
    ring.put(vectors(*range(20, 27)), np.arange(20, 27))  # more than it holds
    assert sorted(ring.ids.tolist()) == [22, 23, 24, 25, 26]
    ring.put(vectors(1)[:0], np.zeros(0, np.int64))
    assert sorted(ring.vectors[:, 0].tolist()) == [22, 23, 24, 25, 26]


def queue(**settings):
    spans = {"en": range(100), "sw": range(100, 140)}
    corpus = SimpleNamespace(
        languages=list(spans),
        span=spans.get,
        places=lambda ids: (np.array(ids) // 100, np.array(ids) % 100),
    )
    chosen = Encoder(queue=Settings(**settings))
    return Queue(SimpleNamespace(name="mine", settings=chosen, corpus=corpus))


def batch(columns, relevant, languages=("en", "en")):
    """Two queries, whose positives are the first two columns."""
    place, ids = zip(*relevant, strict=True)
    return Batch(
        number=0,
        step=0,
        shape=Shape(2, 0),
        examples=np.array([0, 1]),
        languages=list(languages),
        queries=[[1], [1]],
        passages=[[1], [1]],
        passage_places=np.array([0, 1]),
        columns=np.array(columns),
        own_columns=np.array([0, 1]),
        own_relevant=Relevant(np.array(place), np.array(ids)),
        weights=np.ones(2, np.float32),
        count=2,
    )


def scored(columns):
    positive = torch.eye(2, len(columns), dtype=torch.bool)
    passages = torch.arange(2.0 * len(columns)).view(-1, 2).requires_grad_()
    return Scored(torch.ones(2, 2), passages, np.array(columns), positive, ~positive)


def test_passages_of_batches_before_are_negatives_but_relevant_ones():
    made = queue(size=10)
    first = batch([5, 6], [(0, 5), (1, 6)])
    now = scored([5, 6])
    made.score(now, first)
    assert now.ids.tolist() == [5, 6], "it is empty at first"
    made.after(now, first)
    second = batch([7, 8], [(0, 7), (0, 6), (1, 8)])
    now = scored([7, 8])
    made.score(now, second)
    assert now.ids.tolist() == [7, 8, 5, 6]
    assert now.negative.tolist() == [[False, True, True, False], [True, False, True, True]]
    assert not now.positive[:, 2:].any()
    assert torch.equal(now.passages[2:], torch.arange(4.0).view(2, 2))
    now.passages[2:].sum().backward()
    assert now.passages.grad_fn is not None and made.rings["all"].vectors.grad is None


def test_what_is_taken_in_has_no_empty_places():
    made = queue(size=10)
    now = scored([5, 6, -1, 9])
    made.after(now, batch([5, 6, -1, 9], [(0, 5), (1, 6)]))
    assert made.rings["all"].ids.tolist() == [5, 6, 9]
    assert not made.rings["all"].vectors.requires_grad


def test_alone_it_stands_in_for_the_batch():
    made = queue(size=10, alone=True)
    first = batch([5, 6], [(0, 5), (1, 6)])
    now = scored([5, 6])
    made.score(now, first)
    assert not now.negative.any(), "nothing to tell apart in the first step"
    made.after(now, first)
    now = scored([7, 8])
    made.score(now, batch([7, 8], [(0, 7), (1, 8)]))
    assert now.negative.tolist() == [[False, False, True, True]] * 2
    assert now.positive[:, :2].tolist() == [[True, False], [False, True]]


def test_a_queue_a_language():
    made = queue(size=3, by="language")
    first = batch([5, 106], [(0, 5), (1, 106)], ["en", "sw"])
    made.after(scored([5, 106]), first)
    assert {name: ring.ids.tolist() for name, ring in made.rings.items()} == {
        "en": [5], "sw": [106]
    }  # fmt: skip
    now = scored([7, 108])
    made.score(now, batch([7, 108], [(0, 7), (1, 108)], ["sw", "en"]))
    seen = dict(zip(now.ids.tolist(), now.negative.T.tolist(), strict=True))
    assert seen[5] == [False, True] and seen[106] == [True, False], "each its own language's"


def test_the_state_is_all_of_it():
    made = queue(size=3, by="language")
    made.after(scored([5, 106, 7, 8]), batch([5, 106, 7, 8], [(0, 5), (1, 106)]))
    made.after(scored([9, 10]), batch([9, 10], [(0, 9), (1, 10)]))
    again = queue(size=3, by="language")
    again.restore({name: tensor.clone() for name, tensor in made.state().items()})
    assert list(made.state()) == list(again.state())
    for one in (made, again):
        one.after(scored([11, 12]), batch([11, 12], [(0, 11), (1, 12)]))
    for name, tensor in made.state().items():
        assert torch.equal(tensor, again.state()[name]), name
    assert made.rings["en"].ids.tolist() == [12, 10, 11]


def test_two_processes_fill_it_in_the_order_of_one():
    one, two = queue(size=3), queue(size=3)
    alone = batch([5, 6, 7, 8], [(0, 5)])
    one.after(scored([5, 6, 7, 8]), replace(alone, shape=Shape(4, 0)))
    two.after(
        scored([5, 7, 6, 8]), replace(alone, columns=ids(5, 7, 6, 8))
    )  # the first process has 5 and 7
    assert one.rings["all"].ids.tolist() == two.rings["all"].ids.tolist() == [6, 7, 8]
    one, two = queue(size=5), queue(size=5)  # with a negative each: 15, 16 …
    one.after(scored([5, 15, 6, 16]), replace(alone, columns=ids(5, 15, 6, 16), shape=Shape(2, 1)))
    two.after(scored([5, 15, 6, 16]), replace(alone, columns=ids(5, 15, 6, 16), shape=Shape(1, 1)))
    assert one.rings["all"].ids.tolist() == two.rings["all"].ids.tolist() == [5, 15, 6, 16]


def ids(*numbers):
    return np.array(numbers)


def test_a_queue_larger_than_the_data(capsys):
    assert queue(size=140).sizes == {"all": 140} and not capsys.readouterr().out
    with pytest.raises(InputError) as error:
        queue(size=141)
    assert str(error.value) == (
        "retrieval.encoders.mine.queue.size: found 141, but there are only 140 passages, so it "
        "would hold some twice; lower it, or take queue out of in_batch"
    )
    assert queue(size=50, by="language").sizes == {"en": 50, "sw": 40}
    assert capsys.readouterr().out == (
        "  note: mine: queue.size 50 is more than the passages of sw (40); "
        "the queue of such a language holds as many as it has\n"
    )
    with pytest.raises(InputError, match=r"found 101, .* only 100 passages of a language, so"):
        queue(size=101, by="language")
