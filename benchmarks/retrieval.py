"""The first stage beside what people use, in one run on a collection in MIRACL's format.

Ratios, not seconds, are to be compared.

    python -m benchmarks.retrieval COLLECTION [QUERIES a language] [PASSAGES to encode]

BM25: our one process for all languages, Pyserini's own modules with a process a language (its usual
way), and bm25s. Dense: our encoder and ``SentenceTransformer.encode`` with the same weights and
texts. Search: our blocks over memory-mapped fp16 vectors, and FAISS flat in memory.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def report(what: str, ours: float, **others: float) -> None:
    print(
        f"{what:24} ours {ours:7.2f} s"
        + "".join(f"   {name} {t:7.2f} s, ratio {t / ours:5.2f}" for name, t in others.items()),
        flush=True,
    )


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
        "-collection",
        "JsonCollection",
        "-input",
        str(folder / "source"),
        "-index",
        str(folder / "theirs"),
        "-generator",
        "DefaultLuceneDocumentGenerator",
        "-threads",
        "1",
        "-optimize",
        "-quiet",
        "-language",
        language,
    ]


def search_command(language: str, folder: Path) -> list[str]:
    return [
        "pyserini.search.lucene",
        "--index",
        str(folder / "theirs"),
        "--topics",
        str(folder / "topics.tsv"),
        "--output",
        str(folder / "run.trec"),
        "--bm25",
        "--hits",
        "1000",
        "--language",
        language,
        "--threads",
        str(os.cpu_count()),
        "--batch-size",
        "1000",
    ]


def bm25_part(
    collection: Collection, stores: dict[str, Passages], count: int, scratch: Path
) -> None:
    import bm25s

    languages = [la for la in stores if bm25.analyser(la) == "lucene"]
    queries = {la: collection.queries(la, "testA")[:count] for la in languages}
    for la in languages:
        (scratch / la / "source").mkdir(parents=True)
        (scratch / la / "ours").mkdir()
        (scratch / la / "source" / "a.jsonl").write_text(
            "".join(
                json.dumps({"id": d.docid, "contents": document_text(d)}) + "\n"
                for d in stores[la].documents()
            ),
            "utf-8",
        )
        (scratch / la / "topics.tsv").write_text(
            "".join(f"{q.qid}\t{q.text}\n" for q in queries[la]), "utf-8"
        )
    passages = sum(len(stores[la]) for la in languages)
    print(
        f"BM25: {len(languages)} languages, {passages} passages, "
        f"{sum(map(len, queries.values()))} queries, 1000 hits"
    )
    bm25.tokens("en", "start", HEAP)

    def ours_search():
        for la in languages:
            bm25.search(
                bm25.open_searcher(la, scratch / la / "ours", 0.9, 0.4, HEAP),
                la,
                queries[la],
                1000,
                HEAP,
            )

    indexes = {}

    def bm25s_index():
        for la in languages:
            indexes[la] = bm25s.BM25()
            indexes[la].index(
                bm25s.tokenize(
                    [document_text(d) for d in stores[la].documents()], show_progress=False
                ),
                show_progress=False,
            )

    def bm25s_search():
        for la in languages:
            indexes[la].retrieve(
                bm25s.tokenize([q.text for q in queries[la]], show_progress=False),
                k=min(1000, len(stores[la])),
                show_progress=False,
                n_threads=os.cpu_count(),
            )

    ours = timed(
        lambda: [bm25.build_index(la, stores[la], scratch / la / "ours", HEAP) for la in languages]
    )
    report(
        "index",
        ours,
        pyserini=timed(lambda: [pyserini([index_command(la, scratch / la)]) for la in languages]),
        bm25s=timed(bm25s_index),
    )
    warm = timed(ours_search)
    report(
        "search",
        min(warm, timed(ours_search)),
        pyserini=timed(lambda: [pyserini([search_command(la, scratch / la)]) for la in languages]),
        bm25s=timed(bm25s_search),
    )
    # what starting Python and Java alone costs
    one = timed(lambda: pyserini([["core.evaluate", "--help"]]))
    print(
        f"  of Pyserini's times, {one * len(languages):.1f} s are for starting {len(languages)} "
        "processes; bm25s splits at white space and punctuation, without each language's analyser"
    )


def dense_part(stores: dict[str, Passages], count: int, scratch: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer

    from core import embedded

    models = scratch / "models"
    folder = embedded.folder(models)
    random = np.random.default_rng(0)
    texts = [
        stores[la].text(stores[la].docid(int(r)))
        for la in stores
        for r in random.permutation(len(stores[la]))[: count // len(stores)]
    ]
    # mixed lengths: titles and short passages beside long ones
    texts += [t[: int(random.integers(20, 60))] for t in texts[::2]]
    theirs = SentenceTransformer(
        modules=[Transformer(str(folder), max_seq_length=256), Pooling(384, "mean"), Normalize()]
    )
    theirs.encode(texts[:8])
    for backend in dense.BACKENDS:
        ours = dense.Encoder("embedded", models, None, 256, 8192, "fp32", backend=backend)
        ours.encode_passages(texts[:8])
        start = time.perf_counter()
        our_vectors = ours.encode_passages(texts)
        first = time.perf_counter() - start
        start = time.perf_counter()
        prefixed = ["passage: " + text for text in texts]
        their_vectors = theirs.encode(prefixed, batch_size=32, convert_to_numpy=True)
        other = time.perf_counter() - start
        report(f"encode {len(texts)} texts, {backend}", first, sentence_transformers=other)
        print(
            f"  largest difference of an output {np.abs(our_vectors - their_vectors).max():.1e}; "
            f"{len(texts) / first:.0f} and {len(texts) / other:.0f} texts a second"
        )


def search_part(scratch: Path, count: int = 200_000) -> None:
    import faiss

    random = np.random.default_rng(0)
    np.save(scratch / "v.npy", random.normal(size=(count, 384)).astype(np.float16))
    (scratch / "names").mkdir()
    build_passages((Document(f"d{i}", "", "x") for i in range(count)), scratch / "names")
    queries = random.normal(size=(200, 384)).astype(np.float32)
    names, asked = Passages(scratch / "names"), [Query(str(i), "x") for i in range(200)]
    whole = faiss.IndexFlatIP(384)
    whole.add(np.load(scratch / "v.npy").astype(np.float32))
    report(
        f"search {count} vectors",
        timed(
            lambda: dense.search(
                np.load(scratch / "v.npy", mmap_mode="r"), names, asked, queries, 1000
            )
        ),
        faiss_flat=timed(lambda: whole.search(queries, 1000)),
    )


def main() -> None:
    collection = Collection(Path(sys.argv[1]))
    queries, passages = (int(a) for a in (*sys.argv[2:], *("400", "1500")[len(sys.argv) - 2 :]))
    with tempfile.TemporaryDirectory() as folder:
        scratch, stores = Path(folder), {}
        for la in collection.languages:
            (scratch / "stores" / la).mkdir(parents=True)
            build_passages(collection.documents(la), scratch / "stores" / la)
            stores[la] = Passages(scratch / "stores" / la)
        bm25_part(collection, stores, queries, scratch)
        dense_part(stores, passages, scratch)
        search_part(scratch)


if __name__ == "__main__":
    main()
