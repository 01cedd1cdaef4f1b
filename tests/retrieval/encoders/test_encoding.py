"""Texts in batches by length, as many on every process."""

import little
import numpy as np
import pytest
import torch

from retrieval.encoder import BiEncoder
from retrieval.encoders.encoding import Chunk, Encode, as_many, budget_of, chunks, placed
from retrieval.encoders.texts import Tokens


def test_texts_of_like_length_go_together():
    rows = [[1] * length for length in (3, 9, 2, 4)]
    made = chunks(rows, [7, 5, 0, 1], budget=8)
    assert made == [
        Chunk([[1] * 9], [5]),  # longer than the budget, and alone
        Chunk([[1] * 4, [1] * 3], [1, 7]),
        Chunk([[1] * 2], [0]),
    ]
    assert sum(len(chunk.rows) * len(chunk.rows[0]) for chunk in made) == 9 + 8 + 2, "one pads"


def test_as_many_chunks_of_the_same_texts():
    own = [Chunk([[1], [2], [3]], [0, 1, 2]), Chunk([[4]], [3])]
    three = as_many(own, 3)
    assert three == [Chunk([[1]], [0]), Chunk([[2], [3]], [1, 2]), Chunk([[4]], [3])]
    six = as_many(own, 6)
    assert six[:4] == [Chunk([[1]], [0]), Chunk([[2]], [1]), Chunk([[3]], [2]), Chunk([[4]], [3])]
    assert six[4:] == [Chunk([[0]], []), Chunk([[0]], [])], "nothing left to divide"
    assert as_many([], 1) == [Chunk([[0]], [])] and as_many(own, 2) == own


def test_vectors_at_their_places():
    vectors = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    whole = placed(vectors, torch.tensor([2, 0]), 4)
    assert whole.tolist() == [[3.0, 4.0], [0.0, 0.0], [1.0, 2.0], [0.0, 0.0]]
    (whole * torch.arange(8.0).view(4, 2)).sum().backward()
    assert vectors.grad.tolist() == [[4.0, 5.0], [0.0, 1.0]]


@pytest.mark.parametrize("side", ["query", "passage"])
def test_encoding_is_in_order_and_leaves_the_model_as_it_was(side):
    model = BiEncoder({"query": little.body(1), "passage": little.body(2)}, "mean", True).train()
    tokens = Tokens(
        little.tokenizer(), {"query": "q: ", "passage": ""}, {"query": 9, "passage": 20}
    )
    encode = Encode(model, tokens, batch_tokens=24)
    texts = ["tea in kenya", "a", "b c d e f g", "oslo"]
    found = encode.texts(texts, side)
    assert model.training and found.shape == (4, 16) and found.dtype == np.float32
    model.eval()
    for text, vector in zip(texts, found, strict=True):
        inputs = tokens.pad(tokens.rows([text], side), "cpu")
        with torch.no_grad():
            expected = model(side, **inputs)[0].numpy()
        assert np.allclose(vector, expected, atol=1e-6)
    assert encode.texts([], side).shape == (0, 16)


def test_a_budget_is_the_devices_where_none_is_set(monkeypatch):
    assert budget_of(100) == 100 and budget_of(None) == 1024
    monkeypatch.setattr("core.distributed.device", lambda: "cuda")
    assert budget_of(None) == 16384
