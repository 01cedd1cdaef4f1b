"""The first stage beside what people use, in one run on a collection in MIRACL's format.

Ratios, not seconds, are to be compared.

    python -m benchmarks.retrieval COLLECTION [QUERIES a language] [PASSAGES to encode]

BM25: our one process for all languages, Pyserini's own modules with a process a language (its usual
way), and bm25s. Dense: our encoder and ``SentenceTransformer.encode`` with the same weights and
texts. Search: our blocks over memory-mapped fp16 vectors, and FAISS flat in memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from core.collection import Collection
from core.passages import Passages, build_passages, document_text
from core.records import Document, Query
from retrieval import bm25, dense

HEAP = "2g"
PYSERINI = """
import runpy, sys
from retrieval import jvm
jvm.start({heap!r})
for name, *arguments in {commands!r}:
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)
"""


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def report(what: str, ours: float, **others: float) -> None:
    parts = [f"{what:24} ours {ours:7.2f} s"]
    for name, seconds in others.items():
        parts.append(f"{name} {seconds:7.2f} s, ratio {seconds / ours:5.2f}")
    print("   ".join(parts), flush=True)


def pyserini(commands: list[list[str]]) -> None:
    subprocess.run(
        [sys.executable, "-c", PYSERINI.format(heap=HEAP, commands=commands)],
        check=True,
        capture_output=True,
        env={**os.environ, "OPENAI_API_KEY": "none"},
    )


def index_command(language: str, folder: Path) -> list[str]:
    return [
        "pyserini.index.lucene",
        *("-collection", "JsonCollection"),
        *("-input", str(folder / "source")),
        *("-index", str(folder / "theirs")),
        *("-generator", "DefaultLuceneDocumentGenerator"),
        *("-threads", "1"),
        "-optimize",
        "-quiet",
        *("-language", language),
    ]


def search_command(language: str, folder: Path) -> list[str]:
    return [
        "pyserini.search.lucene",
        *("--index", str(folder / "theirs")),
        *("--topics", str(folder / "topics.tsv")),
        *("--output", str(folder / "run.trec")),
        "--bm25",
        *("--hits", "1000"),
        *("--language", language),
        *("--threads", str(os.cpu_count())),
        *("--batch-size", "1000"),
    ]


def bm25_part(
    collection: Collection, stores: dict[str, Passages], count: int, scratch: Path
) -> None:
    """``stores``: those of languages that Lucene has an analyser for, as Pyserini uses it."""
    queries: dict[str, list[Query]] = {}
    for language, passages in stores.items():
        queries[language] = collection.queries(language, "testA")[:count]
        write_for_pyserini(passages, queries[language], scratch / language)
        (scratch / language / "ours").mkdir()
    total = sum(map(len, stores.values()))
    asked = sum(map(len, queries.values()))
    print(f"BM25: {len(stores)} languages, {total} passages, {asked} queries, 1000 hits")
    bm25.tokens("en", "start", HEAP)

    def ours_index() -> None:
        for language, passages in stores.items():
            bm25.build_index(language, passages, scratch / language / "ours", HEAP)

    def ours_search() -> None:
        for language in stores:
            searcher = bm25.open_searcher(language, scratch / language / "ours", 0.9, 0.4, HEAP)
            bm25.search(searcher, language, queries[language], 1000, HEAP)

    def pyserini_index() -> None:
        for language in stores:
            pyserini([index_command(language, scratch / language)])

    def pyserini_search() -> None:
        for language in stores:
            pyserini([search_command(language, scratch / language)])

    indexes: dict[str, Any] = {}
    report(
        "index",
        timed(ours_index),
        pyserini=timed(pyserini_index),
        bm25s=timed(lambda: indexes.update(index_bm25s(stores))),
    )
    report(
        "search",
        min(timed(ours_search), timed(ours_search)),  # the first warms Java up
        pyserini=timed(pyserini_search),
        bm25s=timed(lambda: search_bm25s(indexes, stores, queries)),
    )
    # what starting Python and Java alone costs
    one = timed(lambda: pyserini([["core.evaluate", "--help"]]))
    print(
        f"  of Pyserini's times, {one * len(stores):.1f} s are for starting {len(stores)} "
        "processes; bm25s splits at white space and punctuation, without each language's analyser"
    )


def index_bm25s(stores: dict[str, Passages]) -> dict[str, Any]:
    """Language -> index."""
    import bm25s

    indexes = {}
    for language, passages in stores.items():
        texts = [document_text(document) for document in passages.documents()]
        tokens = bm25s.tokenize(texts, show_progress=False)
        indexes[language] = bm25s.BM25()
        indexes[language].index(tokens, show_progress=False)
    return indexes


def search_bm25s(
    indexes: dict[str, Any], stores: dict[str, Passages], queries: dict[str, list[Query]]
) -> None:
    import bm25s

    for language, index in indexes.items():
        texts = [query.text for query in queries[language]]
        index.retrieve(
            bm25s.tokenize(texts, show_progress=False),
            k=min(1000, len(stores[language])),
            show_progress=False,
            n_threads=os.cpu_count(),
        )


def write_for_pyserini(passages: Passages, queries: list[Query], folder: Path) -> None:
    """Passages and topics of a language as Pyserini reads them."""
    (folder / "source").mkdir(parents=True)
    with (folder / "source" / "a.jsonl").open("w", encoding="utf-8") as file:
        for document in passages.documents():
            contents = document_text(document)
            file.write(json.dumps({"id": document.docid, "contents": contents}) + "\n")
    with (folder / "topics.tsv").open("w", encoding="utf-8") as file:
        for query in queries:
            file.write(f"{query.qid}\t{query.text}\n")


def dense_part(stores: dict[str, Passages], count: int, scratch: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    from core import embedded

    models = scratch / "models"
    folder = embedded.folder(models)
    random = np.random.default_rng(0)
    texts = []
    for passages in stores.values():
        for row in random.permutation(len(passages))[: count // len(stores)]:
            texts.append(document_text(passages.document(int(row))))
    # mixed lengths: titles and short passages beside long ones
    texts += [text[: int(random.integers(20, 60))] for text in texts[::2]]
    transformer = Transformer(str(folder), max_seq_length=256)
    theirs = SentenceTransformer(modules=[transformer, Pooling(384, "mean"), Normalize()])
    theirs.encode(texts[:8])
    for backend in dense.BACKENDS:
        ours = dense.Encoder("embedded", models, None, 256, 8192, "fp32", backend=backend)
        ours.encode_passages(texts[:8])
        start = time.perf_counter()
        our_vectors = ours.encode_passages(texts)
        our_seconds = time.perf_counter() - start
        start = time.perf_counter()
        prefixed = ["passage: " + text for text in texts]
        their_vectors = theirs.encode(prefixed, batch_size=32, convert_to_numpy=True)
        their_seconds = time.perf_counter() - start
        what = f"encode {len(texts)} texts, {backend}"
        report(what, our_seconds, sentence_transformers=their_seconds)
        difference = np.abs(our_vectors - their_vectors).max()
        print(
            f"  largest difference of an output {difference:.1e}; "
            f"{len(texts) / our_seconds:.0f} and {len(texts) / their_seconds:.0f} texts a second"
        )


def search_part(scratch: Path, count: int = 200_000) -> None:
    import faiss

    random = np.random.default_rng(0)
    file = scratch / "vectors.npy"
    np.save(file, random.normal(size=(count, 384)).astype(np.float16))
    encoded = random.normal(size=(200, 384)).astype(np.float32)
    queries = [Query(str(number), "x") for number in range(200)]
    store = scratch / "names"
    store.mkdir()
    build_passages((Document(f"d{row}", "", "x") for row in range(count)), store)
    passages = Passages(store)
    whole = faiss.IndexFlatIP(384)
    whole.add(np.load(file).astype(np.float32))

    def ours() -> None:
        dense.search(np.load(file, mmap_mode="c"), passages, queries, encoded, 1000)

    def flat() -> None:
        whole.search(encoded, 1000)

    report(
        f"search {count} vectors",
        min(timed(ours), timed(ours)),  # the first imports torch
        faiss_flat=min(timed(flat), timed(flat)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval")
    parser.add_argument("collection", type=Path)
    parser.add_argument("queries", nargs="?", type=int, default=400, help="a language")
    parser.add_argument("passages", nargs="?", type=int, default=1500, help="to encode")
    options = parser.parse_args()
    collection = Collection(options.collection)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        stores: dict[str, Passages] = {}
        for language in collection.languages:
            store = scratch / "stores" / language
            store.mkdir(parents=True)
            build_passages(collection.documents(language), store)
            stores[language] = Passages(store)
        with_analyser: dict[str, Passages] = {}
        for language, passages in stores.items():
            if bm25.analyser(language) == "lucene":
                with_analyser[language] = passages
        bm25_part(collection, with_analyser, options.queries, scratch)
        dense_part(stores, options.passages, scratch)
        search_part(scratch)


if __name__ == "__main__":
    main()
