import json

import numpy as np
import pytest

from core.errors import InputError
from core.passages import Passages, build_passages
from core.records import Document, Query
from core.settings import Index
from retrieval import dense, indexes, search


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """4,000 unit vectors of 32 dimensions in 40 clusters, fp16, and passages of their names;
    queries near some of them."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(40, 32))
    vectors = centres[random.integers(40, size=4000)] + 0.3 * random.normal(size=(4000, 32))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    folder = tmp_path_factory.mktemp("p")
    build_passages([Document(f"d{i}", "", "x") for i in range(4000)], folder)
    return (
        vectors,
        Passages(folder),
        (vectors[:50].astype(np.float32) + 0.05 * random.normal(size=(50, 32)).astype(np.float32)),
    )


@pytest.fixture(autouse=True)
def one_thread():
    """Small trainings spend their time waiting for each other's threads."""
    import faiss  # its libraries are limited once they are loaded
    from threadpoolctl import threadpool_limits

    assert faiss.__version__
    with threadpool_limits(1):
        yield


QUERIES = [Query(str(i), "x") for i in range(50)]


def found(kind, stored, folder, **settings):
    vectors, passages, queries = stored
    s = Index(kind=kind, **settings)
    indexes.build(vectors, s, folder, "en", 0)
    return dense.search_index(indexes.load(folder, s), passages, QUERIES, queries, 20)


@pytest.mark.parametrize(
    "kind, least, settings",
    [
        ("flat", 1.0, {}),
        ("sq", 0.95, {}),
        ("ivf", 0.95, {"probes": 16}),
        ("ivfpq", 0.5, {"code_bytes": 16, "probes": 16}),
        ("hnsw", 0.97, {"ef": 200}),
    ],
)
def test_recall_of_each_kind(kind, least, settings, stored, tmp_path):
    vectors, passages, queries = stored
    exact = dense.search(vectors, passages, QUERIES, queries, 20)
    run = found(kind, stored, tmp_path, **settings)
    share = indexes.recall(exact, run)
    assert least <= share <= 1.0
    assert (
        kind in indexes.report(tmp_path, Index(kind=kind), "en", share, 20, 50)
        and json.loads((tmp_path / "recall.json").read_text())["recall"] == share
    )
    if kind == "flat":
        assert {q: dict(sorted(s.items())) for q, s in run.items()} == {
            q: pytest.approx(dict(sorted(s.items())), abs=1e-5) for q, s in exact.items()
        }


def test_fewer_lists_looked_into_finds_less(stored, tmp_path):
    exact = dense.search(*stored[:2], QUERIES, stored[2], 20)
    shares = []
    for probes in (1, 8):
        (tmp_path / str(probes)).mkdir()
        run = found("ivf", stored, tmp_path / str(probes), lists=64, probes=probes)
        shares.append(indexes.recall(exact, run))
    assert shares[0] < shares[1]


def test_the_same_seed_gives_the_same_index(stored, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        found("ivfpq", stored, tmp_path / name, code_bytes=8)
    assert (tmp_path / "a" / "index.faiss").read_bytes() == (
        tmp_path / "b" / "index.faiss"
    ).read_bytes()


def test_recall_by_hand():
    exact = {"q1": {"a": 2.0, "b": 1.0}, "q2": {"c": 1.0}}
    of_index = {"q1": {"a": 2.0, "x": 1.0}, "q2": {"c": 1.0}}
    assert indexes.recall(exact, of_index) == 0.75


def test_bad_settings(stored, tmp_path):
    with pytest.raises(
        InputError, match="code_bytes: found 48, expected a divisor of the 32 dimensions"
    ):
        found("ivfpq", stored, tmp_path)
    with pytest.raises(
        InputError,
        match="product quantisation needs at least 256 passages to learn from, found 100",
    ):
        found("ivfpq", (stored[0][:100], *stored[1:]), tmp_path, code_bytes=8)


def test_the_stage_reports_an_indexs_recall(config, models, embedded_folder, capsys):
    made = config(
        work=str(models.parent),
        languages=["en"],
        retrieval={
            "sources": ["dense"],
            "dense": {"layers": 1, "max_length": 32, "index": {"kind": "hnsw"}},
        },
    )
    search.run(made)
    assert (
        "index en (hnsw): recall@5 against exact search 1.0000 over 2 queries"
        in capsys.readouterr().out
    )
