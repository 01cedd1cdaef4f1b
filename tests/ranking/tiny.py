"""A tiny model and tokenizer for tests of the training loop."""

import torch

from core import distributed
from core.records import TrainingPair
from core.settings import Ranker
from ranking.data import TrainingData
from ranking.model import CrossEncoder
from ranking.train import Training


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

    def __init__(self):
        self.tokenizer = self

    def __call__(self, queries, passages):
        return [
            {"input_ids": [1, *map(ord, q), 2, *map(ord, p)]} for q, p in zip(queries, passages)
        ]

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

    def save_pretrained(self, folder):
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


def training(s, dev=None, dropout=0.1, **more):
    size = 1 if s.loss == "binary_cross_entropy" else s.group_size
    data = TrainingData(
        [pairs()],
        texts,
        s.seed,
        s.batch_size // size * s.accumulation * distributed.world_size(),
        size,
    )
    return Training(
        "tiny", s, CrossEncoder(body(dropout), s.dropouts), Letters(), data, dev, **more
    )
