"""Our index and search against Pyserini's own command-line modules.

These run in this process: their JVM is the one that we started.
"""

import json
import runpy
import sys

import pytest

from core.distributed import generator
from core.passages import Passages, build_passages, document_text
from core.records import Document, Query
from core.runs import read_run
from retrieval import bm25, jvm

HEAP = "512m"
LANGUAGES = (
    "ar",
    "bn",
    "de",
    "en",
    "es",
    "fa",
    "fi",
    "fr",
    "hi",
    "id",
    "ja",
    "ko",
    "ru",
    "te",
    "zh",
)  # of MIRACL, those that Anserini covers


def passages_of(language):
    """200 passages of names that CLDR has in the language."""
    from babel import Locale

    locale = Locale(language)
    names = [*locale.territories.values(), *locale.languages.values(), *locale.currencies.values()]
    random = generator(0, 0, "parity", language)
    return [
        Document(
            f"{language}{i}#0",
            names[i],
            " ".join(names[j] for j in random.integers(len(names), size=random.integers(3, 30))),
        )
        for i in range(200)
    ]


def module(name, *arguments):
    """A module's command line."""
    before = sys.argv
    sys.argv = [name, *map(str, arguments)]
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    finally:
        sys.argv = before


@pytest.mark.parametrize("language", LANGUAGES)
def test_docids_and_scores_are_pyserinis(language, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")  # an import of pyserini.search asks for one
    jvm.start(HEAP)
    documents = passages_of(language)
    queries = [
        Query(str(i), document_text(d)[:60].replace("\n", " "))
        for i, d in enumerate(documents[::7])
    ]
    for part in ("store", "ours", "source"):
        (tmp_path / part).mkdir()
    build_passages(documents, tmp_path / "store")
    bm25.build_index(language, Passages(tmp_path / "store"), tmp_path / "ours", HEAP)
    found = bm25.search(
        bm25.open_searcher(language, tmp_path / "ours", 1.1, 0.6, HEAP), language, queries, 50, HEAP
    )

    (tmp_path / "source" / "a.jsonl").write_text(
        "".join(
            json.dumps({"id": d.docid, "contents": document_text(d)}) + "\n" for d in documents
        ),
        "utf-8",
    )
    (tmp_path / "topics.tsv").write_text("".join(f"{q.qid}\t{q.text}\n" for q in queries), "utf-8")
    module(
        "pyserini.index.lucene",
        "-collection",
        "JsonCollection",
        "-input",
        tmp_path / "source",
        "-index",
        tmp_path / "theirs",
        "-generator",
        "DefaultLuceneDocumentGenerator",
        "-threads",
        "1",
        "-optimize",
        "-quiet",
        "-language",
        language,
    )
    module(
        "pyserini.search.lucene",
        "--index",
        tmp_path / "theirs",
        "--topics",
        tmp_path / "topics.tsv",
        "--output",
        tmp_path / "run.trec",
        "--bm25",
        "--k1",
        "1.1",
        "--b",
        "0.6",
        "--hits",
        "50",
        "--language",
        language,
    )
    theirs = read_run(tmp_path / "run.trec")
    assert sum(map(len, theirs.values())) > 200
    for q in queries:
        assert found[q.qid] == pytest.approx(theirs.get(q.qid, {}), abs=1e-6), q
