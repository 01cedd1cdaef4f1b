"""The filter of false negatives: equations 6 to 8 of mhfn-2022 by hand, and what it changes."""

from dataclasses import replace
from math import exp, log
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.encoders import Encoder
from retrieval.encoders.batch import Batch, Shape
from retrieval.encoders.contrastive import Scored
from retrieval.encoders.in_batch.false_negatives import FalseNegatives, shares_of, soft_labels
from retrieval.encoders.material import Relevant


def test_shares_by_hand():
    found = shares_of(np.array([[0.6, 0.2, 0.2], [0.9, 0.3, -0.4], [-0.1, -0.9, -0.5]]))
    assert found[0] == pytest.approx([0.6, 0.2, 0.2])
    assert found[1] == pytest.approx([0.75, 0.25, 0], abs=1e-5), "a negative one counts as none"
    assert found[1, 2] > 0
    assert found[2] == pytest.approx([1 / 3] * 3), "unlike all centres: any label"


def test_labels_by_hand():
    shares, noise = np.array([[0.75, 0.25]]), np.array([[0.0, 1.0]])
    # (log P + g) / 2: log(.75) / 2 and (log(.25) + 1) / 2
    weights = [exp(log(0.75) / 2), exp((log(0.25) + 1) / 2)]
    assert soft_labels(shares, noise, 2.0, scheduled=False)[0] == pytest.approx(
        [weights[0] / sum(weights), weights[1] / sum(weights)]
    )
    # log P / 2 + g
    weights = [exp(log(0.75) / 2), exp(log(0.25) / 2 + 1)]
    assert soft_labels(shares, noise, 2.0, scheduled=True)[0] == pytest.approx(
        [weights[0] / sum(weights), weights[1] / sum(weights)]
    )


def test_the_equations_temperature_changes_no_label_and_the_schedules_does():
    random = np.random.default_rng(0)
    shares = shares_of(random.random((2000, 4)))
    noise = random.gumbel(size=shares.shape)
    labels = [soft_labels(shares, noise, tau, False).argmax(1) for tau in (100.0, 1.0, 0.05)]
    assert np.array_equal(labels[0], labels[1]) and np.array_equal(labels[1], labels[2])
    agreeing = []
    for tau in (100.0, 1.0, 0.05):
        drawn = soft_labels(shares, noise, tau, True).argmax(1)
        agreeing.append((drawn == shares.argmax(1)).mean())
    assert agreeing[0] == pytest.approx(0.25, abs=0.03), "any of four labels"
    assert agreeing[0] < agreeing[1] < agreeing[2] and agreeing[2] > 0.9
    drawn = soft_labels(shares, noise, 1.0, True).argmax(1)
    assert np.array_equal(drawn, labels[1]), "at 1 both are draws by P"


# Two directions: the positives of queries 0 and 1, and passages like the one or the other
A, B = [1.0, 0.1], [-0.1, 1.0]


def batch(step, columns=4, negatives=1):
    """Two queries of a negative each: columns are positive, negative, positive, negative."""
    return Batch(
        number=step,
        step=step,
        shape=Shape(2, negatives),
        examples=np.array([0, 1]),
        languages=["en", "en"],
        queries=[[1], [1]],
        passages=[],
        passage_places=np.arange(4),
        columns=np.arange(columns),
        own_columns=np.array([0, 1 + negatives]),
        own_relevant=Relevant(np.array([0, 1]), np.array([0, 1 + negatives])),
        weights=np.ones(2, np.float32),
        count=2,
    )


def scored(vectors, cached=0):
    """Four passages of the batch, and cached ones behind."""
    positive = torch.zeros(2, len(vectors), dtype=torch.bool)
    positive[[0, 1], [0, 2]] = True
    return Scored(
        torch.ones(2, 2), torch.tensor(vectors), np.arange(len(vectors)), positive, ~positive
    )


def link(**more):
    settings = {"clusters": 2, "temperature": 0.01, **more}
    chosen = Encoder(steps=10, in_batch=["false_negatives"], false_negatives=settings)
    return FalseNegatives(SimpleNamespace(settings=chosen))


VECTORS = [A, A, B, A, A, B, B]  # the batch's four, and three cached


def test_until_a_share_of_the_steps_they_are_left_out():
    now = scored(VECTORS)
    link().score(now, batch(step=1))
    assert now.positive.int().tolist() == [[1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0]]
    # of query 0: column 1 is its own negative and is spared, 3 and 4 are like its positive
    assert now.negative.int().tolist() == [[0, 1, 1, 0, 0, 1, 1], [1, 1, 0, 1, 1, 0, 0]]


def test_then_they_are_positives():
    now = scored(VECTORS)
    link().score(now, batch(step=2))
    assert now.positive.int().tolist() == [[1, 0, 0, 1, 1, 0, 0], [0, 0, 1, 0, 0, 1, 1]]
    assert now.negative.int().tolist() == [[0, 1, 1, 0, 0, 1, 1], [1, 1, 0, 1, 1, 0, 0]]


def test_the_loss_is_both_terms_of_equation_9():
    now = scored(VECTORS)
    link().score(now, batch(step=2))
    scores = (now.queries @ now.passages.T)[0].tolist()
    negatives = sum(exp(scores[column]) for column in (1, 2, 5, 6))
    of_first = 0.0
    for column in (0, 3, 4):  # the first term; the second
        of_first -= log(exp(scores[column]) / (exp(scores[column]) + negatives))
    found = now.loss(1.0, torch.tensor([1.0, 0.0]), 1.0)
    assert found.item() == pytest.approx(of_first, abs=1e-6)


def test_a_querys_own_negatives_may_be_filtered_too():
    now = scored(VECTORS)
    link(mined=True).score(now, batch(step=1))
    assert now.negative.int().tolist() == [[0, 0, 1, 0, 0, 1, 1], [1, 1, 0, 1, 1, 0, 0]]


def test_what_is_no_negative_stays_none():
    now = scored(VECTORS)
    now.negative[0, 4] = False  # relevant
    link().score(now, batch(step=5))
    assert not now.negative[0, 4] and not now.positive[0, 4]


def test_one_cluster_has_nothing_to_tell_apart():
    random = np.random.default_rng(0)
    vectors = (np.ones((300, 8)) + random.normal(size=(300, 8))).astype(np.float32)
    positive = torch.zeros(2, 300, dtype=torch.bool)
    positive[[0, 1], [0, 2]] = True
    now = Scored(torch.ones(2, 8), torch.from_numpy(vectors), np.arange(300), positive, ~positive)
    link(clusters=None).score(now, batch(step=5))
    assert torch.equal(now.positive, positive) and torch.equal(now.negative, ~positive)


def test_the_number_of_clusters_is_found():
    random = np.random.default_rng(0)
    centres = np.eye(6)[:3] * 4
    of = np.arange(150) % 3
    vectors = (centres[of] + 0.1 * random.normal(size=(150, 6))).astype(np.float32)
    labels = link(clusters=None, temperature=1e-3).labels(vectors, batch=0, step=1)
    assert len(set(labels.tolist())) == 3
    for cluster in range(3):
        assert len(set(labels[of == cluster].tolist())) == 1


def test_what_all_passages_have_in_common_can_be_taken_away():
    random = np.random.default_rng(0)
    of = np.arange(400) % 2
    common = np.full(8, 10.0)  # all cosines are above .99
    vectors = (common + np.eye(8)[of] + 0.01 * random.normal(size=(400, 8))).astype(np.float32)

    def agreeing(**more):
        labels = link(temperature=1.0, **more).labels(vectors, batch=0, step=1)
        return max((labels == of).mean(), (labels != of).mean())

    assert agreeing() < 0.6, "any label is as likely"
    assert agreeing(centred=True) == 1.0


def test_empty_places_have_no_label():
    now = scored([*VECTORS[:3], [0.0, 0.0], *VECTORS[4:]])
    now.ids[3] = -1
    now.negative[:, 3] = False
    made = batch(step=5)
    made = replace(made, columns=np.array([0, 1, 2, -1]))
    link(mined=True).score(now, made)
    assert not now.positive[:, 3].any() and not now.negative[:, 3].any()


def test_processes_that_share_a_batch_label_its_passages_alike(monkeypatch):
    """The first of two has queries 0 and 2, the second 1 and 3; columns stand by process."""
    random = np.random.default_rng(1)
    passages = random.normal(size=(8, 4)).astype(np.float32)
    filter_of = link(temperature=1.0, mined=True)
    whole = replace(
        batch(step=5),
        shape=Shape(4, 1),
        columns=np.arange(8),
        own_columns=np.array([0, 2, 4, 6]),
    )
    found = masks(filter_of, whole, passages)
    by_process = np.array([0, 1, 4, 5, 2, 3, 6, 7])  # queries 0, 2; then 1, 3
    for rank, rows in enumerate([[0, 2], [1, 3]]):
        part = replace(
            whole, shape=Shape(2, 1), columns=by_process, own_columns=4 * rank + ids(0, 2)
        )
        own = masks(filter_of, part, passages[by_process])
        assert torch.equal(own, found[rows][:, by_process])


def ids(*numbers):
    return np.array(numbers)


def masks(filter_of, made, passages):
    own = len(made.own_columns)
    positive = torch.zeros(own, 8, dtype=torch.bool)
    positive[torch.arange(own), torch.from_numpy(made.own_columns)] = True
    now = Scored(torch.ones(own, 4), torch.from_numpy(passages), made.columns, positive, ~positive)
    filter_of.score(now, made)
    assert (now.positive.sum(1) > 1).any()
    return now.positive
