"""A tiny model and tokenizer for tests of the training loop."""
import torch


def body():
    """A randomly drawn BERT with a classification head: 2 layers of 16, 130 pieces."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(
        vocab_size=130, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=40, num_labels=1, initializer_range=0.2))


class Letters:
    """Pairs as their characters' code points; what a PairTokenizer offers to the loop."""

    def __init__(self):
        self.tokenizer = self

    def __call__(self, queries, passages):
        return [{"input_ids": [1, *map(ord, q), 2, *map(ord, p)]} for q, p in zip(queries, passages)]

    def pad(self, rows, _device):
        longest = max(len(r["input_ids"]) for r in rows)
        return {"input_ids": torch.tensor([r["input_ids"] + [0] * (longest - len(r["input_ids"])) for r in rows]),
                "attention_mask": torch.tensor([[1] * len(r["input_ids"]) + [0] * (longest - len(r["input_ids"])) for r in rows])}

    def save_pretrained(self, folder):
        (folder / "letters.txt").write_text("no vocabulary")
