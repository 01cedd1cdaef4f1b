import numpy as np
import pytest

from core import files
from core.errors import InputError
from core.passages import Passages, build_passages
from core.records import Document, Query
from core.task import Task
from retrieval import dense, search


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


def test_a_stopped_encoding_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dense, "CHUNK", 10)
    texts, out = passages(tmp_path / "p"), tmp_path / "v"
    out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        dense.encode_corpus(Lengths(stop_after=2), texts, out, "en")
    assert [p.name for p in out.iterdir()] == ["chunk-0.npy"], (
        "the sample that tells the time, and one chunk"
    )
    assert "en: 30 passages, 0.00 GB of vectors on disk, about" in capsys.readouterr().out
    (out / "chunk-10.npy.77.part").write_bytes(b"half a chunk")
    second = Lengths()
    dense.encode_corpus(second, texts, out, "en")
    assert second.asked == [30, 10, 10] and not list(out.glob("chunk-*.npy"))
    vectors = np.load(out / "vectors.npy")
    assert vectors.dtype == np.float16 and vectors[:, 0].tolist() == [
        len(t.text) for t in texts.documents()
    ]


def test_shards_share_the_work_and_make_the_same_file(tmp_path, monkeypatch):
    monkeypatch.setattr(dense, "CHUNK", 7)
    texts = passages(tmp_path / "p")
    for name in ("whole", "shared"):
        (tmp_path / name).mkdir()
    dense.encode_corpus(Lengths(), texts, tmp_path / "whole", "en")
    for shard in ((1, 3), (0, 3)):
        dense.encode_corpus(Lengths(), texts, tmp_path / "shared", "en", shard)
    assert sorted(p.name for p in (tmp_path / "shared").iterdir()) == [
        "chunk-0.npy",
        "chunk-21.npy",
        "chunk-28.npy",
        "chunk-7.npy",
    ]
    last = Lengths()
    dense.encode_corpus(last, texts, tmp_path / "shared", "en")
    assert last.asked == [7], "the chunk of the shard that never ran"
    assert (tmp_path / "whole" / "vectors.npy").read_bytes() == (
        tmp_path / "shared" / "vectors.npy"
    ).read_bytes()


@pytest.mark.parametrize("text", ["3", "0/2", "3/2", "a/b", "1/1", "-1/2"])
def test_a_shard_that_is_none(text):
    with pytest.raises(
        InputError, match="--shard: found .*, expected NUMBER/COUNT, for example 3/8"
    ):
        search.parse_shard(text)
    assert search.parse_shard("3/8") == (2, 8)


def test_shards_of_the_stage(config, models, embedded_folder):
    made = config(
        work=str(models.parent),
        languages=["sw"],
        retrieval={"sources": ["dense"], "dense": {"layers": 1, "max_length": 24}},
    )
    with pytest.raises(InputError, match="--shard: passages/sw is not made; run retrieval/run.sh"):
        search.encode_shard(made, (0, 2))
    plan = search.plan(Task(made))
    plan["passages/sw"].path.mkdir(parents=True)
    plan["passages/sw"].build(plan["passages/sw"].path)
    search.encode_shard(made, (0, 2))
    part = plan["vectors/sw"].path.with_name(plan["vectors/sw"].path.name + ".part")
    assert [p.name for p in part.iterdir()] == ["chunk-0.npy"]
    chunk = np.load(part / "chunk-0.npy")
    search.run(made)
    assert np.array_equal(np.load(plan["vectors/sw"].path / "vectors.npy"), chunk)


def test_no_room_for_the_vectors(tmp_path, monkeypatch):
    texts, out = passages(tmp_path / "p"), tmp_path / "v"
    out.mkdir()
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(
        InputError, match=r"the dense vectors of en \(30 passages, chunks beside the whole\) need"
    ):
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
    texts = [
        "Nairobi is the capital of Kenya.",
        "Oslo",
        "a longer passage about the long narrow inlets of the sea in Norway " * 3,
    ]
    tokenizer, model = (
        AutoTokenizer.from_pretrained(embedded_folder),
        AutoModel.from_pretrained(embedded_folder, add_pooling_layer=False).eval(),
    )
    for encode, prefix in (
        (encoder.encode_passages, "passage: "),
        (encoder.encode_queries, "query: "),
    ):
        for text, vector in zip(texts, encode(texts)):
            inputs = tokenizer(prefix + text, truncation=True, max_length=32, return_tensors="pt")
            with torch.inference_mode():
                mean = model(**inputs).last_hidden_state[0].mean(0)
            assert np.allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)


def test_texts_of_odd_shapes(models, embedded_folder):
    """A text of 100,000 words is its first tokens; control characters and marks of direction are read as the tokenizer reads them; an empty
    text has a vector, too."""
    encoder = dense.Encoder("embedded", models, 1, 16, 64, "fp32")
    long, start, odd, empty = encoder.encode_passages(
        ["tea " * 100_000, "tea " * 20, "\u202etea\u202c\x07", ""]
    )
    assert (
        np.allclose(long, start, atol=1e-5)
        and np.isfinite(odd).all()
        and abs(np.linalg.norm(empty) - 1) < 1e-4
    )


@pytest.fixture(scope="module")
def sentence_folder(embedded_folder, tmp_path_factory):
    """A sentence-transformers model with CLS pooling, prompts and normalisation."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer

    body = Transformer(str(embedded_folder), max_seq_length=24)
    model = SentenceTransformer(
        modules=[body, Pooling(body.get_word_embedding_dimension(), "cls"), Normalize()],
        prompts={"query": "ask: ", "document": "text: "},
    )
    folder = tmp_path_factory.mktemp("st")
    model.save(str(folder))
    return folder, model


def test_a_sentence_transformers_model_gives_its_own_vectors(sentence_folder, models):
    folder, model = sentence_folder
    texts = [
        "Nairobi is the capital of Kenya.",
        "a longer passage about the long narrow inlets of the sea in Norway " * 3,
    ]
    encoder = dense.Encoder(str(folder), models, None, 512, 64, "fp32")
    assert (encoder.entry.pooling, encoder.entry.normalise, encoder.max_length) == ("cls", True, 24)
    assert np.allclose(
        encoder.encode_queries(texts), model.encode(texts, prompt_name="query"), atol=1e-4
    )
    assert np.allclose(
        encoder.encode_passages(texts), model.encode(texts, prompt_name="document"), atol=1e-4
    )
    plain = dense.Encoder(
        str(folder),
        models,
        None,
        512,
        64,
        "fp32",
        {"normalise": False, "query_prefix": "", "pooling": "mean"},
    )
    assert (
        plain.entry.query_prefix == ""
        and abs(np.linalg.norm(plain.encode_queries(texts[:1])) - 1) > 1e-3
    )


def test_another_pooling_is_another_model(sentence_folder, models, tmp_path):
    """The pooling's file lies in a folder of its own; vectors of the old pooling must not be reused."""
    import shutil

    from core.backbones import fingerprint

    shutil.copytree(sentence_folder[0], tmp_path / "m")
    before, file = (
        fingerprint(str(tmp_path / "m"), models),
        tmp_path / "m" / "1_Pooling" / "config.json",
    )
    file.write_text(file.read_text().replace('"cls"', '"mean"'))
    assert fingerprint(str(tmp_path / "m"), models) != before


def test_sentence_transformers_modules_that_are_not_known(sentence_folder, tmp_path):
    import json
    import shutil

    from core.backbones import sentence_transformer

    shutil.copytree(sentence_folder[0], tmp_path / "m")
    modules = json.loads((tmp_path / "m" / "modules.json").read_text())
    (tmp_path / "m" / "modules.json").write_text(
        json.dumps(
            [
                *modules,
                {
                    "idx": 3,
                    "name": "3",
                    "path": "3_Dense",
                    "type": "sentence_transformers.models.Dense",
                },
            ]
        )
    )
    with pytest.raises(
        InputError,
        match="has the module Dense, which is not supported; expected a transformer, mean or CLS pooling",
    ):
        sentence_transformer(str(tmp_path / "m"))
    (tmp_path / "m" / "modules.json").unlink()
    assert sentence_transformer(str(tmp_path / "m")) is None


def test_openvino_gives_the_same_vectors(models, embedded_folder):
    texts = ["Nairobi is the capital of Kenya.", "ナイロビ", "x " * 40]
    plain, compiled = (
        dense.Encoder("embedded", models, 2, 32, 64, "fp32", backend=backend)
        for backend in ("torch", "openvino")
    )
    assert np.abs(plain.encode_passages(texts) - compiled.encode_passages(texts)).max() < 1e-4
