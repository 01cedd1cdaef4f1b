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
    search.encode_shards([made], (0, 2))
    plan = search.plan(Task(made))
    assert plan["passages/sw"].done, "a shard makes the passages that it needs"
    part = plan["vectors/sw"].path.with_name(plan["vectors/sw"].path.name + ".part")
    assert [p.name for p in part.iterdir()] == ["chunk-0.npy"]
    chunk = np.load(part / "chunk-0.npy")
    search.run(made)
    assert np.array_equal(np.load(plan["vectors/sw"].path / "vectors.npy"), chunk)


class NoWork(Lengths):
    """Everything is there already: nothing may be encoded again."""

    def encode_passages(self, texts):
        raise AssertionError(f"encodes {len(texts)} passages")


def test_a_stopped_joining_goes_on(tmp_path, monkeypatch):
    """Each chunk goes once it is in the whole file; a stop at any point loses no vector."""
    monkeypatch.setattr(dense, "CHUNK", 10)
    texts = passages(tmp_path / "p", 35)
    (tmp_path / "v").mkdir()
    append = dense.append

    def stopped(stage):
        def work(file, vectors):
            if len(vectors) == stage:
                file.write(vectors.tobytes()[:7])  # half a row
                file.flush()
                raise KeyboardInterrupt
            append(file, vectors)

        return work

    monkeypatch.setattr(dense, "append", stopped(5))  # at the last chunk
    with pytest.raises(KeyboardInterrupt):
        dense.encode_corpus(Lengths(), texts, tmp_path / "v", "en")
    assert sorted(p.name for p in (tmp_path / "v").iterdir()) == ["chunk-30.npy", "joining.npy"]
    assert dense.joined_rows(tmp_path / "v", 2) == 30
    monkeypatch.setattr(dense, "append", append)
    dense.encode_corpus(NoWork(), texts, tmp_path / "v", "en")
    assert [p.name for p in (tmp_path / "v").iterdir()] == ["vectors.npy"]
    expected = np.array([[len(d.text), 1] for d in texts.documents()], np.float16)
    reference = np.lib.format.open_memmap(
        tmp_path / "expected.npy", "w+", np.float16, expected.shape
    )
    reference[:] = expected
    reference.flush()
    written = (tmp_path / "v" / "vectors.npy").read_bytes()
    assert written == (tmp_path / "expected.npy").read_bytes()


def test_a_chunk_that_may_not_be_whole_in_the_joined_file_is_joined_again(tmp_path, monkeypatch):
    """Stopped between the writing and the removing: the chunk's own file counts."""
    monkeypatch.setattr(dense, "CHUNK", 10)
    texts = passages(tmp_path / "p")
    (tmp_path / "v").mkdir()
    dense.encode_corpus(Lengths(), texts, tmp_path / "v", "en")
    whole = (tmp_path / "v" / "vectors.npy").read_bytes()
    vectors = np.load(tmp_path / "v" / "vectors.npy")
    (tmp_path / "v" / "vectors.npy").unlink()
    (tmp_path / "v" / "joining.npy").write_bytes(whole[:-40] + bytes(40))  # not on the disk
    np.save(tmp_path / "v" / "chunk-20.npy", vectors[20:])
    assert dense.joined_rows(tmp_path / "v", 2) == 20
    dense.encode_corpus(NoWork(), texts, tmp_path / "v", "en")
    assert (tmp_path / "v" / "vectors.npy").read_bytes() == whole


def free(monkeypatch, count):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": count})())


def test_no_room_for_the_vectors(tmp_path, monkeypatch):
    """30 passages of 2 dimensions in fp16 are 120 bytes, and a chunk of 10 stands twice: 40."""
    monkeypatch.setattr(dense, "CHUNK", 10)
    texts, out = passages(tmp_path / "p"), tmp_path / "v"
    out.mkdir()
    free(monkeypatch, 159)
    with pytest.raises(
        InputError,
        match=r"the dense vectors of en \(30 of 30 passages to be encoded, 10 twice while they "
        r"are joined\) need",
    ):
        dense.encode_corpus(Lengths(), texts, out, "en")
    free(monkeypatch, 160)
    dense.encode_corpus(Lengths(), texts, out, "en")
    assert (out / "vectors.npy").exists()


def test_room_is_asked_for_what_is_still_to_be_written(tmp_path, monkeypatch):
    """Two of three chunks are there: 40 bytes for the third, 40 for one that stands twice."""
    monkeypatch.setattr(dense, "CHUNK", 10)
    texts, out = passages(tmp_path / "p"), tmp_path / "v"
    out.mkdir()
    for shard in ((0, 3), (1, 3)):
        free(monkeypatch, 40)  # a shard writes its own chunk, and joins nothing
        dense.encode_corpus(Lengths(), texts, out, "en", shard)
    free(monkeypatch, 79)
    with pytest.raises(InputError, match="10 of 30 passages to be encoded"):
        dense.encode_corpus(Lengths(), texts, out, "en")
    free(monkeypatch, 80)
    dense.encode_corpus(Lengths(), texts, out, "en")
    assert (out / "vectors.npy").exists()


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


def test_without_gpus_the_cpu_searches():
    assert dense.block_searchers(1000) == [dense.search_on_cpu]


def test_gpus_share_the_blocks(tmp_path, monkeypatch):
    """No GPU here: FAISS's own call is stood in for, to see which block goes where, and that the
    blocks come back in order."""
    import time

    import faiss

    asked = []

    def on_gpu(resources, encoded, block, depth, metric, device):
        time.sleep(0.05 if device == 0 else 0)  # the first GPU is slower
        asked.append((resources, device, len(block), block.dtype, metric))
        return dense.search_on_cpu(encoded, block, depth)

    texts, random = passages(tmp_path / "p"), np.random.default_rng(0)
    vectors = random.normal(size=(30, 8)).astype(np.float16)
    encoded = random.normal(size=(3, 8)).astype(np.float32)
    queries = [Query(str(i), "") for i in range(3)]
    monkeypatch.setattr(dense, "BLOCK", 7)
    by_cpu = dense.search(vectors, texts, queries, encoded, 9)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    monkeypatch.setattr(
        faiss, "StandardGpuResources", iter(["of 0", "of 1"]).__next__, raising=False
    )
    monkeypatch.setattr(faiss, "knn_gpu", on_gpu)
    assert dense.search(vectors, texts, queries, encoded, 9) == by_cpu
    assert sorted(asked, key=lambda call: call[1]) == [
        *[("of 0", 0, rows, np.float32, faiss.METRIC_INNER_PRODUCT) for rows in (7, 7, 2)],
        *[("of 1", 1, rows, np.float32, faiss.METRIC_INNER_PRODUCT) for rows in (7, 7)],
    ]
    assert dense.block_searchers(2049) == [dense.search_on_cpu], "FAISS selects 2,048 at most"


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
