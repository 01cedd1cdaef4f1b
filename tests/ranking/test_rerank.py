import numpy as np
import pytest
import torch

from core.errors import InputError
from core.runs import ranked
from ranking import rerank as module
from ranking.rerank import Scorer, candidate_pairs, reranked, score_pairs
from ranking.scores import Scores


class Words:
    """A tokenizer of single characters for these tests: ids are code points."""

    def __call__(self, queries, passages):
        texts = [query + passage for query, passage in zip(queries, passages, strict=True)]
        return [{"input_ids": [ord(c) for c in text]} for text in texts]

    def pad(self, rows, _device):
        longest = max(len(r["input_ids"]) for r in rows)
        return {
            "input_ids": torch.tensor(
                [r["input_ids"] + [0] * (longest - len(r["input_ids"])) for r in rows]
            )
        }


class Counted:
    """Logits are sums of code points.

    Counts the pairs it was given, and does what ``then`` says before it answers.
    """

    def __init__(self, then=lambda counted: None):
        self.pairs, self.sizes, self.then = 0, [], then

    def __call__(self, inputs):
        self.sizes.append(tuple(inputs["input_ids"].shape))
        self.then(self)
        self.pairs += len(inputs["input_ids"])
        return inputs["input_ids"].sum(1).float()


PAIRS = [("1", "aa"), ("1", "b"), ("2", "cccc"), ("2", "a")]
EXPECTED = [float(sum(map(ord, q + d))) for q, d in PAIRS]


def texts(pairs):
    return [q for q, _ in pairs], [d for _, d in pairs]


def scored(forward, folder, pairs=PAIRS, budget=100):
    return score_pairs(
        Scorer(forward, Words(), budget), Scores(folder), pairs, texts, "test"
    ).tolist()


def test_scores_come_in_the_order_of_the_pairs():
    for budget in (1, 7, 1000):
        assert Scorer(Counted(), Words(), budget)(*texts(PAIRS)).tolist() == EXPECTED


def test_a_stopped_run_scores_what_is_left(tmp_path):
    def stop(counted):
        if counted.pairs == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scored(Counted(stop), tmp_path, budget=1)
    rest = Counted()
    assert scored(rest, tmp_path) == EXPECTED and rest.pairs == 2


def test_deeper_scores_the_new_pairs_alone(tmp_path):
    assert scored(Counted(), tmp_path, PAIRS[:3]) == EXPECTED[:3]
    again = Counted()
    assert scored(again, tmp_path) == EXPECTED and again.pairs == 1
    again = Counted()
    assert scored(again, tmp_path, PAIRS[::-1]) == EXPECTED[::-1] and again.pairs == 0


def test_two_processes_share_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 2)
    monkeypatch.setattr(module.distributed, "world_size", lambda: 2)
    monkeypatch.setattr(module.distributed, "barrier", lambda: None)
    counts = []
    for rank in (1, 0):
        monkeypatch.setattr(module.distributed, "rank", lambda rank=rank: rank)
        counts.append(Counted())
        found = scored(counts[-1], tmp_path)
    assert found == EXPECTED and [c.pairs for c in counts] == [2, 2]


def test_memory_that_runs_out(capsys):
    def small(counted):
        rows, longest = counted.sizes[-1]
        if rows * longest > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")

    forward = Counted(small)
    scorer = Scorer(forward, Words(), 1000)
    assert scorer(*texts(PAIRS)).tolist() == EXPECTED and forward.pairs == 4
    assert (
        "memory ran out at 4 pairs of 5 tokens; going on with ranking.rerank.batch_tokens=10"
        in capsys.readouterr().out
        and scorer.batch_tokens == 5
    )

    def smaller(counted):
        if counted.sizes[-1][1] > 4:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: "
                "you tried to allocate 9 bytes"
            )

    with pytest.raises(
        InputError, match="a single pair of 5 tokens does not fit into memory; lower max_length"
    ):
        Scorer(Counted(smaller), Words(), 1000)(*texts(PAIRS))

    def broken(_counted):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        Scorer(Counted(broken), Words(), 1000)(*texts(PAIRS))


def test_scores_that_are_not_finite(tmp_path):
    with pytest.raises(
        InputError,
        match="test: the score of query 2 and passage cccc is not finite; "
        "train or score with precision=fp32",
    ):
        scored(lambda i: torch.where(i["input_ids"].sum(1) > 400, torch.nan, 1.0), tmp_path)
    assert not list(tmp_path.iterdir()), "nothing of such a batch is kept"


def test_the_rest_follows_in_hybrid_order():
    run = {"1": {"a": 9.0, "b": 8.0, "c": 7.0, "d": 6.0}, "2": {}}
    pairs = candidate_pairs(run, 2)
    assert pairs == [("1", "a"), ("1", "b")]
    made = reranked(run, pairs, np.array([-3.0, 5.0], np.float32))
    assert [d for d, _ in ranked(made["1"])] == ["b", "a", "c", "d"] and made["2"] == {}
