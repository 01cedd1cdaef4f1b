"""Synthetic negatives: equations 4 and 5 of mhfn-2022 by hand, and of what they are made."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.encoders import Encoder
from retrieval.encoders.batch import Batch, Shape
from retrieval.encoders.contrastive import Scored
from retrieval.encoders.in_batch.interpolate import Interpolate, mixtures, shares_of
from retrieval.encoders.material import Relevant


def test_shares_by_hand():
    shares = shares_of(np.array([[0.5, 0.5], [0.0, 0.25], [0.8, 1.0]]))
    assert shares == pytest.approx(
        np.array([[0.25, 0.375, 0.375], [0.0, 0.25, 0.75], [0.4, 0.6, 0.0]])
    )
    many = shares_of(np.random.default_rng(0).random((1000, 2)))
    assert many[:, 0].max() < 0.5 and many.min() > 0 and many.sum(1) == pytest.approx(1)


def test_a_mixture_by_hand():
    query, first, second = (
        torch.tensor([[2.0, 0.0]]),
        torch.tensor([[[0.0, 4.0]]]),
        torch.ones(1, 1, 2),
    )
    found = mixtures(query, first, second, torch.tensor([[[0.25, 0.5, 0.25]]]))
    # .25 (2, 0) + .5 (0, 4) + .25 (1, 1) = (.75, 2.25), of length .75 sqrt(10)
    assert found[0, 0].tolist() == pytest.approx([1 / 10**0.5, 3 / 10**0.5])


def batch(queries=2, negatives=3, number=0, rank=0, world=1):
    """As one process has it: passages count on, those of a query in a row."""
    own = len(range(rank, queries, world))
    shape = Shape(-(-queries // world), negatives)
    return Batch(
        number=number,
        step=0,
        shape=shape,
        examples=np.arange(queries)[rank::world],
        languages=["en"] * own,
        queries=[[1]] * own,
        passages=[],
        passage_places=np.zeros(0, np.int64),
        columns=np.arange(shape.passages * world),
        own_columns=rank * shape.passages + np.arange(own) * (1 + negatives),
        own_relevant=Relevant(np.zeros(0, np.int64), np.zeros(0, np.int64)),
        weights=np.ones(own, np.float32),
        count=queries,
    )


def scored(made, dimension=4):
    random = torch.Generator().manual_seed(0)
    passages = torch.randn(len(made.columns), dimension, generator=random).requires_grad_()
    queries = torch.randn(made.shape.queries, dimension, generator=random).requires_grad_()
    positive = torch.zeros(made.shape.queries, len(made.columns), dtype=torch.bool)
    positive[torch.arange(len(made.own_columns)), torch.from_numpy(made.own_columns)] = True
    return Scored(queries, passages, made.columns, positive, ~positive)


def link(number=1):
    settings = Encoder(
        in_batch=["interpolate"],
        negatives=["from_run"],
        draw={"number": 3},
        interpolate={"number": number},
    )
    return Interpolate(SimpleNamespace(settings=settings))


def test_each_query_gets_mixtures_of_itself_and_two_of_its_own_negatives():
    made = batch()
    now = scored(made)
    link(number=4).score(now, made)
    (mixed,), (is_negative,) = now.own, now.own_negative
    assert mixed.shape == (2, 4, 4) and is_negative.all()
    assert mixed.norm(dim=-1).detach() == pytest.approx(torch.ones(2, 4))
    drawn = link(number=4).drawn(made, np.ones((2, 3), bool))
    for query in range(2):
        for number in range(4):
            i, j = (int(chosen[query, number]) for chosen in drawn.chosen)
            assert i != j
            alpha, beta, gamma = drawn.shares[query, number]
            own = now.passages[4 * query + 1 :]
            expected = alpha * now.queries[query] + beta * own[i] + gamma * own[j]
            assert torch.allclose(mixed[query, number], (expected / expected.norm()).float())
    mixed.sum().backward()
    assert (now.queries.grad.norm(dim=1) > 0).all()
    assert now.passages.grad[[0, 4]].abs().max() == 0, "positives are in no mixture"


def test_relevant_passages_are_never_mixed_and_one_negative_is_too_few():
    made = batch(queries=3)
    now = scored(made)
    now.negative[0, 2] = False  # relevant: two are left
    now.negative[1, [5, 6]] = False  # one is left
    link(number=5).score(now, made)
    (mixed,), (is_negative,) = now.own, now.own_negative
    assert is_negative.all(1).tolist() == [True, False, True]
    assert is_negative.any(1).tolist() == [True, False, True]
    mixed[0].sum().backward()
    moved = now.passages.grad.norm(dim=1) > 0
    assert moved[:4].tolist() == [False, True, False, True]


def test_places_of_a_short_batch_stay_empty(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    made = batch(queries=3, world=2, rank=1)  # the second process has one query and two places
    now = scored(made)
    link().score(now, made)
    assert now.own[0].shape == (2, 1, 4) and now.own_negative[0].tolist() == [[True], [False]]
    assert now.loss(1.0, torch.tensor([1.0, 0.0]), 1.0).isfinite()


def test_two_processes_draw_what_one_draws(monkeypatch):
    whole = link(number=2).drawn(batch(queries=5), np.ones((5, 3), bool))
    again = link(number=2).drawn(batch(queries=5, number=1), np.ones((5, 3), bool))
    assert not np.array_equal(whole.shares, again.shares), "anew in each batch"
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        own = batch(queries=5, rank=rank, world=2)
        part = link(number=2).drawn(own, np.ones((len(own.examples), 3), bool))
        assert np.array_equal(part.shares, whole.shares[rank::2])
        assert np.array_equal(part.chosen[0], whole.chosen[0][rank::2])


def test_an_own_negative_adds_to_the_denominator_alone():
    made = batch(queries=1)
    now = scored(made)
    before = now.loss(0.5, torch.ones(1), 1.0)
    link().score(now, made)
    scores = torch.cat([now.queries @ now.passages.T, now.queries @ now.own[0][0].T], 1) / 0.5
    by_hand = torch.log_softmax(scores[0], 0)[0] * -1
    after = now.loss(0.5, torch.ones(1), 1.0)
    assert after.item() == pytest.approx(by_hand.item(), abs=1e-6)
    assert after > before
