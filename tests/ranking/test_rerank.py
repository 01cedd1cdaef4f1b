import numpy as np
import pytest
import torch

from core.errors import InputError
from core.runs import ranked
from ranking import rerank as module
from ranking.rerank import candidate_pairs, rerank, reranked, score_pairs


class Words:
    """A tokenizer of single characters for these tests: ids are code points."""

    def __call__(self, queries, passages):
        return [{"input_ids": [ord(c) for c in q + p]} for q, p in zip(queries, passages)]

    def pad(self, rows, _device):
        longest = max(len(r["input_ids"]) for r in rows)
        return {"input_ids": torch.tensor([r["input_ids"] + [0] * (longest - len(r["input_ids"])) for r in rows])}


def total(inputs):
    return inputs["input_ids"].sum(1).float()


PAIRS = [("1", "aa"), ("1", "b"), ("2", "cccc"), ("2", "a")]


def texts(pairs):
    return [q for q, _ in pairs], [d for _, d in pairs]


def test_scores_come_in_the_order_of_the_pairs():
    expected = [float(sum(map(ord, q + d))) for q, d in PAIRS]
    for budget in (1, 7, 1000):
        assert score_pairs(total, Words(), *texts(PAIRS), budget, "cpu").tolist() == expected


def test_finished_chunks_are_not_scored_again(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 2)
    calls = []

    def stopped(inputs):
        calls.append(len(inputs["input_ids"]))
        if sum(calls) > 2:
            raise KeyboardInterrupt
        return total(inputs)

    with pytest.raises(KeyboardInterrupt):
        rerank(stopped, Words(), PAIRS, texts, 100, "cpu", tmp_path, "test")
    counted = []
    scores = rerank(lambda i: (counted.append(len(i["input_ids"])), total(i))[1], Words(), PAIRS, texts, 100, "cpu", tmp_path, "test")
    assert counted == [2] and scores.tolist() == score_pairs(total, Words(), *texts(PAIRS), 100, "cpu").tolist()


def test_scores_that_are_not_finite(tmp_path):
    with pytest.raises(InputError, match="the score of query 2 and passage cccc is not finite; train or score with precision=fp32"):
        rerank(lambda i: torch.where(total(i) > 400, torch.nan, total(i)), Words(), PAIRS, texts, 100, "cpu", tmp_path, "test")


def test_the_rest_follows_in_hybrid_order():
    run = {"1": {"a": 9.0, "b": 8.0, "c": 7.0, "d": 6.0}, "2": {}}
    pairs = candidate_pairs(run, 2)
    assert pairs == [("1", "a"), ("1", "b")]
    made = reranked(run, pairs, np.array([-3.0, 5.0], np.float32))
    assert [d for d, _ in ranked(made["1"])] == ["b", "a", "c", "d"] and made["2"] == {}
