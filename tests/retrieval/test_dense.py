import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core import files
from core.errors import InputError
from core.passages import Passages, build_passages
from core.records import Document, Query
from core.task import Task
from retrieval import dense, retrievers, search, vectors
from retrieval.vectors import open_vectors

ROOT = Path(__file__).parents[2]


def passages(folder, count=30):
    folder.mkdir()
    build_passages([Document(f"d{i}", "", "word " * (1 + i % 7)) for i in range(count)], folder)
    return Passages(folder)


class Lengths:
    """Stands for an encoder: [length, 1], and notes what it was asked; the code under test is the
    streaming around it."""

    dimension = 2

    def __init__(self, stop_after=None):
        self.asked, self.stop_after = [], stop_after

    def encode_passages(self, texts):
        if self.stop_after is not None and len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(len(texts))
        return np.array([[len(t), 1] for t in texts], np.float32)


def test_a_stopped_encoding_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(vectors, "CHUNK", 10)
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
    assert second.asked == [30, 10, 10]
    assert sorted(path.name for path in out.iterdir()) == [
        "chunk-0.npy",
        "chunk-10.npy",
        "chunk-20.npy",
        "vectors.json",
    ], "nothing is copied, and what was half written is gone"
    stored = open_vectors(out)
    assert stored.shape == (30, 2) and stored[:].dtype == np.float16
    assert stored[:][:, 0].tolist() == [len(t.text) for t in texts.documents()]


def same_files(one, other):
    """Whether two folders hold the same names and bytes."""
    contents = []
    for folder in (one, other):
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    return contents[0] == contents[1]


def test_shards_share_the_work_and_make_the_same_files(tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "CHUNK", 7)
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
    assert same_files(tmp_path / "whole", tmp_path / "shared")


TWO = """
import sys
from pathlib import Path
import torch
from core.passages import Passages
from retrieval import dense, vectors
vectors.CHUNK = 10  # the processes read this file, too
if __name__ == "__main__":
    torch.set_num_threads(1)
    model, store, *outs = map(Path, sys.argv[1:])
    spec = dense.EncoderSpec(str(model), store, None, 16, 65536, "fp32", (), "torch")
    for out, helpers in zip(outs, (None, dense.Helpers(2, spec)), strict=True):
        out.mkdir()
        dense.encode_corpus(spec.load(), Passages(store), out, "en", helpers=helpers)
    print(len(helpers.team.workers))
"""


def test_two_processes_encode_the_bytes_of_one(tmp_path):
    """As with two GPUs, here on the CPU."""
    import little

    little.write(tmp_path / "model", num_hidden_layers=1)
    passages(tmp_path / "p", 35)
    (tmp_path / "two.py").write_text(TWO)
    names = ["two.py", "model", "p", "one", "two"]
    command = [sys.executable, *(str(tmp_path / name) for name in names)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2"
    assert len(list((tmp_path / "one").glob("chunk-*.npy"))) == 4
    assert same_files(tmp_path / "one", tmp_path / "two")


def test_several_gpus_encode_without_being_told(config, monkeypatch):
    """One process each; a setting counts over that, and OpenVINO has no use for them."""

    def count(**settings):
        task = Task(config(retrieval={"sources": ["dense"], "dense": settings}))
        search.plan(task)
        helpers = retrievers.helpers_of(task)
        assert helpers is retrievers.helpers_of(task), "kept for the next language"
        return helpers and helpers.team.count

    assert count() is None and count(processes=2) == 2
    monkeypatch.setattr(dense, "search_devices", lambda: ["cuda:0", "cuda:1", "cuda:2"])
    assert count() == 3 and count(processes=1) is None and count(backend="openvino") is None


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
    search.encode_shards([made], (0, 2))
    plan = search.plan(Task(made))
    assert plan["passages/sw"].done, "a shard makes the passages that it needs"
    part = plan["vectors/sw"].path.with_name(plan["vectors/sw"].path.name + ".part")
    assert [p.name for p in part.iterdir()] == ["chunk-0.npy"]
    chunk = np.load(part / "chunk-0.npy")
    search.run(made)
    assert np.array_equal(open_vectors(plan["vectors/sw"].path)[:], chunk)


class NoWork(Lengths):
    """Everything is there already: nothing may be encoded again."""

    def encode_passages(self, texts):
        raise AssertionError(f"encodes {len(texts)} passages")


def test_what_an_older_version_was_joining_is_encoded_again(tmp_path, monkeypatch, capsys):
    """Chunks that it had not taken up are used; those that it had are gone."""
    monkeypatch.setattr(vectors, "CHUNK", 10)
    texts, out = passages(tmp_path / "p"), tmp_path / "v"
    out.mkdir()
    dense.encode_corpus(Lengths(), texts, out, "en")
    (out / "vectors.json").unlink()
    (out / "chunk-0.npy").rename(out / "joining.npy")
    again = Lengths()
    dense.encode_corpus(again, texts, out, "en")
    assert again.asked == [10] and not (out / "joining.npy").exists()
    assert "joining.npy: was being joined by an older version" in capsys.readouterr().out
    assert len(open_vectors(out)) == 30


def free(monkeypatch, count):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": count})())


def test_no_room_for_the_vectors(tmp_path, monkeypatch):
    """30 passages of 2 dimensions in fp16 are 120 bytes, and nothing stands twice."""
    monkeypatch.setattr(vectors, "CHUNK", 10)
    texts, out = passages(tmp_path / "p"), tmp_path / "v"
    out.mkdir()
    free(monkeypatch, 119)
    with pytest.raises(
        InputError,
        match=r"the dense vectors of en \(30 of 30 passages to be encoded\) need 0.00 GB",
    ):
        dense.encode_corpus(Lengths(), texts, out, "en")
    free(monkeypatch, 120)
    dense.encode_corpus(Lengths(), texts, out, "en")
    assert (out / "vectors.json").exists()


def test_room_is_asked_for_what_is_still_to_be_written(tmp_path, monkeypatch):
    """Two of three chunks are there: 40 bytes for the third."""
    monkeypatch.setattr(vectors, "CHUNK", 10)
    texts, out = passages(tmp_path / "p"), tmp_path / "v"
    out.mkdir()
    free(monkeypatch, 40)
    for shard in ((0, 3), (1, 3)):
        dense.encode_corpus(Lengths(), texts, out, "en", shard)
    free(monkeypatch, 39)
    with pytest.raises(InputError, match="10 of 30 passages to be encoded"):
        dense.encode_corpus(Lengths(), texts, out, "en")
    free(monkeypatch, 40)
    dense.encode_corpus(Lengths(), texts, out, "en")
    assert (out / "vectors.json").exists()


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


def test_queries_come_one_by_one_and_in_their_order(tmp_path, monkeypatch):
    """As many passes over the vectors as blocks of queries; the hits are those of one search."""
    texts, random = passages(tmp_path / "p"), np.random.default_rng(0)
    vectors = random.normal(size=(30, 8)).astype(np.float16)
    encoded = random.normal(size=(7, 8)).astype(np.float32)
    queries = [Query(str(i), "") for i in range(7)]
    at_once = dense.search(vectors, texts, queries, encoded, 12)
    for name, size in (("BLOCK", 4), ("QUERY_BLOCK", 3), ("MERGED", 2)):
        monkeypatch.setattr(dense, name, size)
    each = dense.search_each(vectors, texts, queries, encoded, 12)
    assert next(each)[0] == "0", "before the second block of queries is searched"
    assert dict(dense.search_each(vectors, texts, queries, encoded, 12)) == {
        qid: pytest.approx(scores, rel=1e-6) for qid, scores in at_once.items()
    }
    assert [list(scores) for _, scores in each] == [
        list(scores) for qid, scores in at_once.items() if qid != "0"
    ]


@pytest.mark.parametrize("size", [2, 3, 7, 30])
def test_ties_do_not_depend_on_the_blocks(size, tmp_path, monkeypatch):
    """Passages with the same vector have the same score, and the written run orders them by docid,
    descending, wherever the blocks of vectors end."""
    from core.runs import write_run

    monkeypatch.setattr(dense, "BLOCK", size)
    texts = passages(tmp_path / "p")
    vectors = np.array([[i % 3, 1] for i in range(30)], np.float16)
    run = dense.search(vectors, texts, [Query("1", "")], np.array([[1, 1]], np.float32), 20)
    write_run(tmp_path / "run.trec", run, "dense")
    rows = [line.split() for line in (tmp_path / "run.trec").read_text().splitlines()]
    best = sorted((f"d{i}" for i in range(2, 30, 3)), reverse=True)
    second = sorted((f"d{i}" for i in range(1, 30, 3)), reverse=True)
    assert [row[2] for row in rows] == best + second
    assert [row[4] for row in rows] == ["3.0"] * 10 + ["2.0"] * 10


def test_devices_share_the_blocks(tmp_path, monkeypatch):
    """One for each GPU, here the CPU thrice: blocks come back in order, wherever searched."""
    import time

    texts, random = passages(tmp_path / "p"), np.random.default_rng(0)
    numbers = random.normal(size=(30, 8)).astype(np.float16)
    encoded = random.normal(size=(3, 8)).astype(np.float32)
    queries = [Query(str(i), "") for i in range(3)]
    monkeypatch.setattr(dense, "BLOCK", 7)
    assert dense.search_devices() == ["cpu"], "no GPU here"
    by_one = dense.search(numbers, texts, queries, encoded, 9)
    starts = []
    nearest_of = dense.nearest_of

    def slow_at_first(stored, start, *others):
        time.sleep(0.05 if start == 0 else 0)
        starts.append(start)
        return nearest_of(stored, start, *others)

    monkeypatch.setattr(dense, "nearest_of", slow_at_first)
    monkeypatch.setattr(dense, "search_devices", lambda: ["cpu"] * 3)
    assert dense.search(numbers, texts, queries, encoded, 9) == by_one
    assert sorted(starts) == [0, 7, 14, 21, 28] and starts[0] != 0, "side by side"


def test_queries_are_multiplied_in_parts(tmp_path, monkeypatch):
    texts, random = passages(tmp_path / "p"), np.random.default_rng(0)
    numbers = random.integers(-9, 9, size=(30, 8)).astype(np.float16)
    encoded = random.integers(-9, 9, size=(7, 8)).astype(np.float32)
    queries = [Query(str(i), "") for i in range(7)]
    at_once = dense.search(numbers, texts, queries, encoded, 12)
    monkeypatch.setattr(dense, "MULTIPLIED", 3)
    assert dense.search(numbers, texts, queries, encoded, 12) == at_once


def test_chunks_are_searched_as_an_array_is(tmp_path, monkeypatch):
    """Blocks that begin and end within chunks; the last chunk is short."""
    monkeypatch.setattr(vectors, "CHUNK", 4)
    monkeypatch.setattr(dense, "BLOCK", 7)
    texts, random = passages(tmp_path / "p"), np.random.default_rng(0)
    numbers = random.normal(size=(30, 8)).astype(np.float16)
    for start in range(0, 30, 4):
        vectors.write_chunk(tmp_path, start, numbers[start : start + 4])
    vectors.finish(tmp_path, numbers.shape)
    encoded = random.normal(size=(3, 8)).astype(np.float32)
    queries = [Query(str(i), "") for i in range(3)]
    stored = open_vectors(tmp_path)
    assert dense.search(stored, texts, queries, encoded, 9) == dense.search(
        numbers, texts, queries, encoded, 9
    )


def test_encoder_by_hand(models, embedded_folder):
    """Mean over the tokens, unit length, with the prefixes of E5; batching and padding change
    nothing."""
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
        for text, vector in zip(texts, encode(texts), strict=True):
            inputs = tokenizer(prefix + text, truncation=True, max_length=32, return_tensors="pt")
            with torch.inference_mode():
                mean = model(**inputs).last_hidden_state[0].mean(0)
            assert np.allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)


def test_texts_of_odd_shapes(models, embedded_folder):
    """A text of 100,000 words is its first tokens; control characters and marks of direction are
    read as the tokenizer reads them; an empty text has a vector, too."""
    encoder = dense.Encoder("embedded", models, 1, 16, 64, "fp32")
    long, start, odd, empty = encoder.encode_passages(
        ["tea " * 100_000, "tea " * 20, "\u202etea\u202c\x07", ""]
    )
    assert (
        np.allclose(long, start, atol=1e-5)
        and np.isfinite(odd).all()
        and abs(np.linalg.norm(empty) - 1) < 1e-4
    )


def test_openvino_gives_the_same_vectors(models, embedded_folder):
    texts = ["Nairobi is the capital of Kenya.", "ナイロビ", "x " * 40]
    plain, compiled = (
        dense.Encoder("embedded", models, 2, 32, 64, "fp32", backend=backend)
        for backend in ("torch", "openvino")
    )
    assert np.abs(plain.encode_passages(texts) - compiled.encode_passages(texts)).max() < 1e-4


def test_of_equal_scores_the_first_rows_are_taken():
    import torch

    products = torch.tensor([[1.0, 3.0, 2.0, 2.0, 2.0], [5.0, 5.0, 5.0, 5.0, 5.0]])
    values, places = dense.first_of_equals(products, 3)
    assert values.tolist() == [[3.0, 2.0, 2.0], [5.0, 5.0, 5.0]]
    assert places.tolist() == [[1, 2, 3], [0, 1, 2]]
    random = torch.randint(0, 4, (50, 30), generator=torch.Generator().manual_seed(0)).float()
    values, places = dense.first_of_equals(random, 7)
    expected = random.argsort(dim=1, descending=True, stable=True)[:, :7]
    assert torch.equal(places, expected) and torch.equal(values, random.gather(1, expected))
