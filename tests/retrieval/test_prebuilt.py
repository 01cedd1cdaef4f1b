"""Pyserini's prebuilt indexes, made here under their names in a cache of the test's own."""

import hashlib
import shutil
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from core.errors import InputError
from core.passages import Passages, build_passages
from core.records import Document, Query
from core.rehearsal import small
from core.settings import Config
from core.task import Task
from retrieval import bm25, dense, jvm, prebuilt, search
from retrieval.ask import ask
from retrieval.vectors import open_vectors

LUCENE, FAISS = "miracl-v1.0-LANG", "miracl-v1.0-LANG-mdpr-tied-pft-msmarco"
HEAP = "512m"


def place_of(cache: Path, kind: str, name: str) -> Path:
    """Where Pyserini looks for an index."""
    entry = prebuilt.entry_of(kind, "test", name, HEAP)
    return cache / "indexes" / f"{entry['filename'].removesuffix('.tar.gz')}.{entry['md5']}"


def write_faiss(place: Path, vectors: np.ndarray, docids: list[str], kind: str = "Flat") -> None:
    import faiss

    place.mkdir(parents=True)
    index = faiss.index_factory(vectors.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors.astype(np.float32))
    faiss.write_index(index, str(place / "index"))
    (place / "docid").write_text("".join(f"{docid}\n" for docid in docids))


@pytest.fixture(scope="module")
def own(models, embedded_folder, small_collection, tmp_path_factory) -> Config:
    """Our own route over two languages, and what it made as prebuilt indexes in a cache."""
    root = tmp_path_factory.mktemp("prebuilt")
    own = Config.model_validate(
        {
            "name": "own",
            "work": str(models.parent),
            "languages": ["de", "en"],
            "collection": {"path": str(small_collection(root / "small"))},
            "retrieval": {
                "bm25": {"heap": HEAP},
                "dense": {"layers": 1, "max_length": 24},
            },
        }
    )
    search.run(own)
    task = Task(own)
    steps = search.plan(task)
    for language in task.languages:
        place = place_of(root / "cache", "TF", LUCENE.replace("LANG", language))
        shutil.copytree(steps[f"bm25-index/{language}"].path / "index", place)
        passages = task.passages(language)
        write_faiss(
            place_of(root / "cache", "FAISS", FAISS.replace("LANG", language)),
            open_vectors(steps[f"vectors/{language}"].path)[:],
            [passages.docid(row) for row in range(len(passages))],
        )
    return own


@pytest.fixture
def cache(own, monkeypatch) -> Path:
    cache = Path(own.collection.path).parent / "cache"
    monkeypatch.setenv("PYSERINI_CACHE", str(cache))
    return cache


def taking(own: Config, **settings) -> Config:
    """The configuration with prebuilt indexes."""
    retrieval = own.retrieval.model_dump(exclude_unset=True)
    for source, more in settings.items():
        retrieval[source] = {**retrieval.get(source, {}), **more}
    changed = own.model_dump(exclude_unset=True) | {"name": "taking", "retrieval": retrieval}
    return Config.model_validate(changed)


def test_runs_are_those_of_our_own_route(own, cache):
    """Docids, scores and order: the same bytes, of both sources and of the hybrid."""
    from pyserini.util import check_downloaded

    for name in (LUCENE, FAISS):
        assert check_downloaded(name.replace("LANG", "de")), "Pyserini finds it, too"
    config = taking(own, bm25={"prebuilt": LUCENE}, dense={"prebuilt": FAISS})
    search.run(config)
    ours, theirs = Task(own), Task(config)
    mine, taken = search.plan(ours), search.plan(theirs)
    compared = 0
    for name, step in mine.items():
        run = step.path / "run.trec"
        if run.exists():
            assert taken[name].path != step.path and taken[name].done
            assert (taken[name].path / "run.trec").read_bytes() == run.read_bytes(), name
            compared += 1
    assert compared == 15, "three splits of en and two of de, by two sources and the hybrid"
    for name in ("bm25-index/en", "vectors/en"):
        inside = [path.name for path in taken[name].path.iterdir() if path.suffix != ".json"]
        assert set(inside) <= {"index", "rows.npy"}, "nothing is copied"
        assert (taken[name].path / "index").is_symlink()
        assert taken[name].settings["prebuilt"].startswith("miracl-v1.0-en")
    assert ask(own, "en", "tea", 3) == ask(config, "en", "tea", 3)


def test_an_index_may_have_another_order(passages, tmp_path, monkeypatch):
    monkeypatch.setenv("PYSERINI_CACHE", str(tmp_path))
    name = FAISS.replace("LANG", "en")
    vectors = np.array([[3, 1], [1, 2], [2, 0]], np.float32)
    write_faiss(place_of(tmp_path, "FAISS", name), vectors[[2, 0, 1]], ["d2", "d0", "d1"])
    (tmp_path / "step").mkdir()
    prebuilt.take_vectors(name, passages, "en", tmp_path / "step", HEAP)
    taken = prebuilt.Taken(tmp_path / "step", passages)
    encoded = np.array([[1, 10]], np.float32)
    found = dense.search(taken.vectors, taken, [Query("q", "")], encoded, 3)
    assert list(found["q"].items()) == [("d1", 21.0), ("d0", 13.0), ("d2", 2.0)]
    assert found == dense.search(vectors, passages, [Query("q", "")], encoded, 3)


def test_shards_have_nothing_to_do_with_prebuilt_vectors(own, cache):
    config = taking(own, dense={"prebuilt": FAISS})
    search.encode_shards([config], (0, 2))
    assert not search.plan(Task(config))["vectors/en"].part.exists()


def test_names_by_language_leave_the_others_to_us(own, cache):
    names = {"de": "miracl-v1.0-de"}
    steps = search.plan(Task(taking(own, bm25={"prebuilt": names})))
    assert steps["bm25-index/de"].settings["prebuilt"] == "miracl-v1.0-de"
    assert steps["bm25-index/en"].settings == {"analyser": "lucene"}


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"bm25": {"prebuilt": "miracl-v1.0-LANGUAGE"}},
            r"retrieval.bm25.prebuilt: found 'miracl-v1.0-deUAGE', expected the name of one of "
            r"Pyserini's prebuilt indexes \(TF\), in which LANG stands for the language; "
            r"did you mean miracl-v1.0-de\?",
        ),
        (
            {"dense": {"prebuilt": LUCENE}},
            r"retrieval.dense.prebuilt: found 'miracl-v1.0-de', .*\(FAISS\)",
        ),
        (
            {"bm25": {"prebuilt": "miracl-v1.0-en"}},
            "found 'miracl-v1.0-en' for de, en, expected a name with LANG in it",
        ),
        (
            {"dense": {"prebuilt": FAISS, "index": {"kind": "hnsw"}}},
            "which is searched exactly, but retrieval.dense.index.kind is hnsw",
        ),
    ],
)
def test_settings_that_name_no_index_or_contradict_each_other(own, cache, settings, message):
    with pytest.raises(InputError, match=message):
        search.plan(Task(taking(own, **settings)))


def test_a_rehearsal_makes_small_indexes_of_its_own(config):
    layer = small(config(retrieval={"bm25": {"prebuilt": LUCENE}}), {}, {})
    assert layer["retrieval"]["bm25"]["prebuilt"] is None
    assert "prebuilt" not in layer["retrieval"]["dense"]


def test_thai_is_left_to_us(config, folder):
    (folder / "sw").rename(folder / "th")
    for path in (folder / "th").rglob("*.sw-*.tsv"):
        path.rename(path.with_name(path.name.replace(".sw-", ".th-")))
    own = config(retrieval={"sources": ["bm25"], "bm25": {"prebuilt": LUCENE, "heap": HEAP}})
    with pytest.raises(InputError, match="no analyser of th, .* leave th out: it is indexed here"):
        search.plan(Task(own))


@pytest.fixture
def passages(tmp_path) -> Passages:
    (tmp_path / "store").mkdir()
    documents = [Document(f"d{i}", "", "tea") for i in range(3)]
    build_passages(documents, tmp_path / "store")
    return Passages(tmp_path / "store")


@pytest.mark.parametrize(
    "docids, message",
    [
        (["d0", "d1"], "miracl-v1.0-en holds 2 passages, expected the 3 of en: it is an index of"),
        (["d0", "d1", "x9"], "miracl-v1.0-en holds a passage 'x9' that en has not"),
    ],
)
def test_a_lucene_index_of_another_collection(docids, message, passages, tmp_path, monkeypatch):
    monkeypatch.setenv("PYSERINI_CACHE", str(tmp_path))
    for name in ("other", "index", "step"):
        (tmp_path / name).mkdir()
    build_passages([Document(docid, "", "tea") for docid in docids], tmp_path / "other")
    bm25.build_index("en", Passages(tmp_path / "other"), tmp_path / "index", HEAP)
    shutil.copytree(tmp_path / "index" / "index", place_of(tmp_path, "TF", "miracl-v1.0-en"))
    with pytest.raises(InputError, match=f"retrieval.bm25.prebuilt: {message}"):
        bm25.take_prebuilt("miracl-v1.0-en", "en", passages, tmp_path / "step", HEAP)


@pytest.mark.parametrize(
    "docids, message, kind",
    [
        (["d0", "d1"], "holds 2 passages, expected the 3 of en: it is an index of another", "Flat"),
        (["d0", "x9", "d1"], "holds a passage 'x9' that en has not", "Flat"),
        (["d0", "d1", "d1"], "docid: expected the 3 docids of en, each once", "Flat"),
        (
            ["d0", "d1", "d2"],
            "index: found an IndexHNSWFlat, expected an IndexFlatIP",
            "HNSW4,Flat",
        ),
    ],
)
def test_a_faiss_index_of_another_collection_or_kind(
    docids, message, kind, passages, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYSERINI_CACHE", str(tmp_path))
    name = FAISS.replace("LANG", "en")
    place = place_of(tmp_path, "FAISS", name)
    write_faiss(place, np.eye(len(docids), 4), docids, kind)
    (tmp_path / "step").mkdir()
    with pytest.raises(InputError, match=message):
        prebuilt.take_vectors(name, passages, "en", tmp_path / "step", HEAP)


@pytest.mark.parametrize("docids", [["d0", "d1"], ["d0", "d1", "d2", "d2"], None])
def test_docids_that_are_not_those_of_the_vectors(docids, passages, tmp_path, monkeypatch):
    monkeypatch.setenv("PYSERINI_CACHE", str(tmp_path))
    name = FAISS.replace("LANG", "en")
    place = place_of(tmp_path, "FAISS", name)
    write_faiss(place, np.eye(3, 4), docids or [])
    if docids is None:
        (place / "docid").unlink()
    (tmp_path / "step").mkdir()
    with pytest.raises(InputError, match="fetch (the index|it) again"):
        prebuilt.take_vectors(name, passages, "en", tmp_path / "step", HEAP)


def test_queries_of_another_encoder(own, cache, monkeypatch, tmp_path):
    monkeypatch.setenv("PYSERINI_CACHE", str(tmp_path))
    for language in ("de", "en"):
        passages = Task(own)
        search.plan(passages)
        store = passages.passages(language)
        docids = [store.docid(row) for row in range(len(store))]
        write_faiss(
            place_of(tmp_path, "FAISS", f"miracl-v1.0-{language}-mcontriever-pft-msmarco"),
            np.eye(len(docids), 7),
            docids,
        )
    other = taking(own, dense={"prebuilt": "miracl-v1.0-LANG-mcontriever-pft-msmarco"})
    with pytest.raises(
        InputError,
        match="retrieval.dense.backbone: its vectors have 384 dimensions, expected the 7",
    ):
        search.run(other)


def test_an_index_that_is_gone_since(tmp_path):
    (tmp_path / "index").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="the prebuilt index .*nowhere is gone; fetch it again"):
        prebuilt.link_of(tmp_path)


@pytest.fixture
def entry(monkeypatch) -> dict:
    """What Pyserini knows of an index, to be changed."""
    jvm.running(HEAP)
    from pyserini import prebuilt_index_info

    known = dict(prebuilt_index_info.TF_INDEX_INFO["miracl-v1.0-sw"])
    monkeypatch.setitem(prebuilt_index_info.TF_INDEX_INFO, "miracl-v1.0-sw", known)
    return known


def test_pyserini_downloads_what_its_cache_lacks(entry, tmp_path, monkeypatch, capsys):
    """From a loopback server in place of its own."""
    monkeypatch.setenv("PYSERINI_CACHE", str(tmp_path / "cache"))
    (tmp_path / "lucene-index.sw").mkdir()
    (tmp_path / "lucene-index.sw" / "segments_1").write_text("an index")
    archive = tmp_path / "lucene-index.sw.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "lucene-index.sw", "lucene-index.sw")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    entry |= {
        "urls": [f"http://127.0.0.1:{server.server_port}/{archive.name}"],
        "filename": archive.name,
        "md5": hashlib.md5(archive.read_bytes()).hexdigest(),
        "size compressed (bytes)": archive.stat().st_size,
    }
    try:
        (tmp_path / "step").mkdir()
        place = prebuilt.take("TF", prebuilt.SPARSE, "miracl-v1.0-sw", tmp_path / "step", HEAP)
        assert (place / "segments_1").read_text() == "an index"
        assert prebuilt.is_taken(tmp_path / "step")
        shutil.rmtree(tmp_path / "cache")
        entry["md5"] = "0" * 32
        with pytest.raises(InputError, match="could not download it .*does not match checksum"):
            prebuilt.take("TF", prebuilt.SPARSE, "miracl-v1.0-sw", tmp_path / "step", HEAP)
    finally:
        server.shutdown()
        server.server_close()


def test_without_cache_and_network_it_is_told_what_to_do(entry, tmp_path, monkeypatch):
    monkeypatch.setenv("PYSERINI_CACHE", str(tmp_path / "cache"))
    entry["urls"] = ["http://127.0.0.1:9/nobody-listens.tar.gz"]
    with pytest.raises(
        InputError,
        match=r"retrieval.bm25.prebuilt: miracl-v1.0-sw is not in Pyserini's cache as .*/indexes/"
        r"lucene-index.miracl-v1.0-sw.20221004.2b2856.*, and Pyserini could not download it "
        r"\(Unable to download .*; fetch it where there is a network and set PYSERINI_CACHE",
    ):
        prebuilt.take("TF", prebuilt.SPARSE, "miracl-v1.0-sw", tmp_path, HEAP)
