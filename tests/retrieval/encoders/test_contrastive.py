"""The loss by hand, and against sentence-transformers'."""

from math import exp, log

import numpy as np
import pytest
import torch

from retrieval.encoders.contrastive import Scored, contrastive

SCORES = [[2.0, 1.0, 0.0], [0.5, 1.5, -1.0]]


def loss(positive, negative, weights=(1.0, 1.0), count=2.0):
    return contrastive(
        torch.tensor(SCORES),
        torch.tensor(positive, dtype=torch.bool),
        torch.tensor(negative, dtype=torch.bool),
        torch.tensor(weights),
        count,
    ).item()


def test_one_positive_each():
    first = -log(exp(2) / (exp(2) + exp(1) + exp(0)))
    second = -log(exp(1.5) / (exp(0.5) + exp(1.5) + exp(-1)))
    masks = ([[1, 0, 0], [0, 1, 0]], [[0, 1, 1], [1, 0, 1]])
    assert loss(*masks) == pytest.approx((first + second) / 2, abs=1e-6)
    assert loss(*masks, weights=(0.5, 3.0)) == pytest.approx((0.5 * first + 3 * second) / 2, 1e-6)
    assert loss(*masks, count=4.0) == pytest.approx((first + second) / 4, abs=1e-6)


def test_a_column_in_neither_mask_is_left_out():
    alone = -log(exp(2) / (exp(2) + exp(0)))
    assert loss([[1, 0, 0], [0] * 3], [[0, 0, 1], [0] * 3]) == pytest.approx(alone / 2, abs=1e-6)


def test_several_positives_are_not_each_others_negatives():
    """Equation 9 of mhfn-2022: the false negative, column 1, is a positive of the second term."""
    own = -log(exp(2) / (exp(2) + exp(0)))
    false_negative = -log(exp(1) / (exp(1) + exp(0)))
    found = loss([[1, 1, 0], [0] * 3], [[0, 0, 1], [0] * 3], count=1.0)
    assert found == pytest.approx(own + false_negative, abs=1e-6)


def test_without_negatives_there_is_nothing_to_learn():
    scores = torch.tensor(SCORES, requires_grad=True)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    positive = nothing.clone()
    positive[0, 0] = True
    value = contrastive(scores, positive, nothing, torch.ones(2), 2.0)
    value.backward()
    assert value.item() == 0.0 and scores.grad.abs().max() == 0.0


def test_gradients_by_hand():
    """Softmax less one at the positive; nothing at a column that is left out."""
    scores = torch.tensor([[2.0, 1.0, 0.0]], requires_grad=True)
    positive = torch.tensor([[True, False, False]])
    negative = torch.tensor([[False, False, True]])
    contrastive(scores, positive, negative, torch.ones(1), 1.0).backward()
    share = exp(0) / (exp(2) + exp(0))
    assert scores.grad[0].tolist() == pytest.approx([-share, 0.0, share], abs=1e-6)


def test_large_scores_stay_finite():
    scores = torch.tensor([[1e4, -1e4]], requires_grad=True)
    positive = torch.tensor([[False, True]])
    value = contrastive(scores, positive, ~positive, torch.ones(1), 1.0)
    value.backward()
    assert value.item() == 2e4 and scores.grad[0].tolist() == [1.0, -1.0]


def unit(*shape, seed):
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=-1)


def scored():
    """Three queries, their positives and a negative each: columns 0, 2, 4 and 1, 3, 5."""
    positive = torch.zeros(3, 6, dtype=torch.bool)
    positive[[0, 1, 2], [0, 2, 4]] = True
    ids = np.array([10, 11, 20, 21, 30, 31])
    return Scored(unit(3, 4, seed=1), unit(6, 4, seed=2), ids, positive, ~positive)


@pytest.mark.parametrize("temperature", [1.0, 0.05])
def test_the_value_of_sentence_transformers(temperature):
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    class Given(torch.nn.Module):
        """Vectors in place of a model, which the loss calls once a column of texts."""

        def forward(self, features):
            return {"sentence_embedding": features["vectors"]}

    made = scored()
    columns = [made.queries, made.passages[0::2], made.passages[1::2]]
    theirs = MultipleNegativesRankingLoss(Given(), scale=1 / temperature)
    expected = theirs([{"vectors": column} for column in columns], torch.zeros(3))
    found = made.loss(temperature, torch.ones(3), 3.0)
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)


def test_more_columns_for_all_and_for_one():
    made = scored()
    before = made.loss(0.5, torch.ones(3), 3.0).item()
    extra = unit(2, 4, seed=3)
    seen = torch.tensor([[True, False], [False, False], [True, True]])
    made.add(extra, np.array([40, 41]), seen)
    own = unit(3, 1, 4, seed=4)
    counts = torch.tensor([[False], [True], [True]])
    made.add_own(own, counts)
    assert made.ids.tolist() == [10, 11, 20, 21, 30, 31, 40, 41]

    expected = 0.0
    for row, query in enumerate(made.queries):
        scores = [float(query @ made.passages[2 * row]) / 0.5]
        for column in range(6):
            if column != 2 * row:
                scores.append(float(query @ made.passages[column]) / 0.5)
        for column in range(2):
            if seen[row, column]:
                scores.append(float(query @ extra[column]) / 0.5)
        if counts[row, 0]:
            scores.append(float(query @ own[row, 0]) / 0.5)
        expected += log(sum(map(exp, scores))) - scores[0]
    found = made.loss(0.5, torch.ones(3), 3.0).item()
    assert found == pytest.approx(expected / 3, abs=1e-6) and found > before
