"""A tiny model and tokenizer for tests of the training loop."""

import torch

from core.groups import as_table, pair_tables
from core.records import TrainingPair
from core.settings import Ranker
from ranking.adapters import choose_trained
from ranking.data import TrainingData
from ranking.learner import RankerLearner
from ranking.model import CrossEncoder
from training.loop import Loop


def body(dropout=0.1):
    """A randomly drawn BERT with a classification head: 2 layers of 16, 130 pieces."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=130,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=40,
            num_labels=1,
            initializer_range=0.2,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
    )


class Letters:
    """Pairs as their characters' code points; what a PairTokenizer offers to the loop."""

    def __call__(self, queries, passages):
        rows = []
        for query, passage in zip(queries, passages, strict=True):
            rows.append({"input_ids": [1, *map(ord, query), 2, *map(ord, passage)]})
        return rows

    def pad(self, rows, _device):
        longest = max(len(r["input_ids"]) for r in rows)
        return {
            "input_ids": torch.tensor(
                [r["input_ids"] + [0] * (longest - len(r["input_ids"])) for r in rows]
            ),
            "attention_mask": torch.tensor(
                [[1] * len(r["input_ids"]) + [0] * (longest - len(r["input_ids"])) for r in rows]
            ),
        }

    def save(self, folder):
        (folder / "letters.txt").write_text("no vocabulary")


def pairs(count=24):
    return [
        TrainingPair("en", f"q{i}", f"d{i}", float(i % 3 == 0), "judged", 0, "", "")
        for i in range(count)
    ]


def texts(pair):
    return pair.qid, "yes" if pair.label else "no"


def settings(folder, stage=0, **more):
    """Six steps of eight pairs."""
    (folder / "ds.json").write_text(f'{{"zero_optimization": {{"stage": {stage}}}}}')
    return Ranker(
        **{
            "steps": 6,
            "batch_size": 4,
            "accumulation": 2,
            "learning_rate": 1e-2,
            "evaluate_every": 2,
            "precision": "fp32",
            "deepspeed": str(folder / "ds.json"),
            "dropouts": [0.1, 0.3],
            **more,
        }
    )


def data_of(draws, seed=0, per_step=8, size=1, **more):
    """Training data of lists of pairs, one a draw."""
    return TrainingData(
        pair_tables([as_table(draw) for draw in draws]), seed, per_step, size, **more
    )


def step_of(data, step, rank=0, world=1):
    """The samples of a step, as lists of pairs."""
    part = data.part(step, rank, world)
    return [data.draws[part.draw].pairs(rows) for rows in part.samples]


def learner(s, dev=None, dropout=0.1, rows=None, **more):
    size = 1 if s.loss == "binary_cross_entropy" else s.group_size
    data = data_of([rows or pairs()], s.seed, s.batch_size // size * s.accumulation, size)
    chosen = body(dropout)
    choose_trained(chosen, s, "tiny")
    model = CrossEncoder(chosen, s.dropouts)
    return RankerLearner("tiny", s, model, Letters(), data, texts, dev, **more)


def loop(s, folder, dev=None, dropout=0.1, **more):
    return Loop(learner(s, dev, dropout), s, folder, s.precision, **more)
