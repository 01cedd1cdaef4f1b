import json

import numpy as np
import pytest

from core import files
from core.errors import InputError
from core.passages import Passages, build_passages
from core.records import Document, Query
from retrieval import dense


def passages(folder, count=30):
    folder.mkdir()
    build_passages([Document(f"d{i}", "", "word " * (1 + i % 7)) for i in range(count)], folder)
    return Passages(folder)


class Lengths:
    """Stands for an encoder: [length, 1], and notes what it was asked; the code under test is the streaming around it."""
    dimension = 2

    def __init__(self, stop_after=None):
        self.asked, self.stop_after = [], stop_after

    def encode_passages(self, texts):
        if self.stop_after is not None and len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(len(texts))
        return np.array([[len(t), 1] for t in texts], np.float32)


def test_token_batches():
    lengths = [3, 9, 1, 5, 5, 20]
    batches = list(dense.token_batches(lengths, 15))
    assert sorted(r for b in batches for r in b) == list(range(6))
    assert batches == [[5], [1], [3, 4, 0], [2]], "a text over the budget goes alone; else rows x longest stay within it"


def test_a_stopped_encoding_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(dense, "CHUNK", 10)
    texts, out = passages(tmp_path / "p"), tmp_path / "v"
    out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        dense.encode_corpus(Lengths(stop_after=1), texts, out, "en")
    assert json.loads((out / "progress.json").read_text()) == {"rows": 10}
    second = Lengths()
    dense.encode_corpus(second, texts, out, "en")
    assert second.asked == [10, 10] and not (out / "progress.json").exists()
    vectors = np.load(out / "vectors.npy")
    assert vectors.dtype == np.float16 and vectors[:, 0].tolist() == [len(t.text) for t in texts.documents()]


def test_no_room_for_the_vectors(tmp_path, monkeypatch):
    texts, out = passages(tmp_path / "p"), tmp_path / "v"
    out.mkdir()
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(InputError, match=r"the dense vectors of en \(30 passages\) need"):
        dense.encode_corpus(Lengths(), texts, out, "en")


def test_search_equals_numpy_over_several_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(dense, "BLOCK", 7)
    texts, random = passages(tmp_path / "p"), np.random.default_rng(0)
    vectors = random.normal(size=(30, 8)).astype(np.float16)
    queries = random.normal(size=(3, 8)).astype(np.float32)
    found = dense.search(vectors, texts, [Query(str(i), "") for i in range(3)], queries, 5)
    scores = queries @ vectors.astype(np.float32).T
    for i in range(3):
        best = np.argsort(-scores[i])[:5]
        assert list(found[str(i)]) == [f"d{j}" for j in best]
        assert list(found[str(i)].values()) == pytest.approx(scores[i][best].tolist(), rel=1e-5)
    assert len(dense.search(vectors, texts, [Query("1", "")], queries[:1], 1000)["1"]) == 30


def test_encoder_by_hand(models, embedded_folder):
    """Mean over the tokens, unit length, with the prefixes of E5; batching and padding change nothing."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    encoder = dense.Encoder("embedded", models, None, 32, 64, "fp32")
    texts = ["Nairobi is the capital of Kenya.", "Oslo", "a longer passage about the long narrow inlets of the sea in Norway " * 3]
    tokenizer, model = AutoTokenizer.from_pretrained(embedded_folder), AutoModel.from_pretrained(embedded_folder, add_pooling_layer=False).eval()
    for encode, prefix in ((encoder.encode_passages, "passage: "), (encoder.encode_queries, "query: ")):
        for text, vector in zip(texts, encode(texts)):
            inputs = tokenizer(prefix + text, truncation=True, max_length=32, return_tensors="pt")
            with torch.inference_mode():
                mean = model(**inputs).last_hidden_state[0].mean(0)
            assert np.allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)
