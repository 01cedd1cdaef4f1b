"""FAISS indexes over a language's vectors: INDEXES, trained, saved, memory-mapped, measured."""

from pathlib import Path
from typing import Any

import numpy as np

from core.console import progress
from core.errors import InputError
from core.files import write_json
from core.records import Run
from core.settings import Index
from retrieval.vectors import Vectors

BLOCK = 65536  # vectors in fp32 at a time while adding
SAMPLE = 256  # training vectors a list or centroid; FAISS uses no more
CENTROIDS = 256  # of each part of a product-quantised vector: what its one byte can name
VECTORS_A_LIST = 39  # at least, as FAISS asks for


def lists_of(settings: Index, count: int) -> int:
    """The lists of an inverted file over ``count`` vectors.

    As set, or four times the square root of their number; at most one list for every 39 vectors.
    """
    wanted = settings.lists or round(4 * count**0.5)
    return max(1, min(wanted, count // VECTORS_A_LIST))


# kind -> FAISS factory string, filled in with the settings and the number of lists
INDEXES: dict[str, str] = {
    "flat": "Flat",
    "sq": "SQ8",
    "ivf": "IVF{lists},Flat",
    "ivfpq": "IVF{lists},PQ{settings.code_bytes}",
    "hnsw": "HNSW{settings.links},Flat",
}


def build(
    vectors: Vectors | np.ndarray, settings: Index, folder: Path, what: str, seed: int
) -> None:
    """Writes ``index.faiss`` over ``vectors``, fp16 [passages, dimension].

    They are read in blocks; what the index itself holds must fit in memory while it is made.
    Raises InputError for settings that do not fit the vectors.
    """
    import faiss

    count, dimension = vectors.shape
    if settings.kind == "ivfpq" and dimension % settings.code_bytes:
        raise InputError(
            f"retrieval.dense.index.code_bytes: found {settings.code_bytes}, "
            f"expected a divisor of the {dimension} dimensions"
        )
    if settings.kind == "ivfpq" and count < CENTROIDS:
        raise InputError(
            f"{what}: product quantisation needs at least {CENTROIDS} passages to learn from, "
            f"found {count}; set retrieval.dense.index.kind=exact"
        )
    lists = lists_of(settings, count)
    recipe = INDEXES[settings.kind].format(settings=settings, lists=lists)
    index: Any = faiss.index_factory(dimension, recipe, faiss.METRIC_INNER_PRODUCT)
    if settings.kind == "ivfpq":
        # an order of codes that nothing here uses, and most of the training time
        index.do_polysemous_training = False
    if not index.is_trained:
        index.train(training_vectors(vectors, settings, seed))
    for start in progress(range(0, count, BLOCK), what=f"index {what}", unit="block"):
        index.add(vectors[start : start + BLOCK].astype(np.float32))
    faiss.write_index(index, str(folder / "index.faiss"))


def training_vectors(vectors: Vectors | np.ndarray, settings: Index, seed: int) -> np.ndarray:
    """A sample that the seed fixes, in fp32 and in the order of the corpus."""
    count = len(vectors)
    learned = max(lists_of(settings, count), CENTROIDS)
    wanted = min(count, SAMPLE * learned)
    shuffled = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    return vectors[np.sort(shuffled[:wanted])].astype(np.float32)


def load(folder: Path, settings: Index) -> Any:
    """Memory-mapped where FAISS can; on GPUs where faiss-gpu finds some."""
    import faiss

    flags = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
    index: Any = faiss.read_index(str(folder / "index.faiss"), flags)
    if settings.kind in ("ivf", "ivfpq"):
        index.nprobe = settings.probes
    if settings.kind == "hnsw":
        index.hnsw.efSearch = settings.ef
    gpus = getattr(faiss, "get_num_gpus", int)()  # faiss-cpu of old has no such function
    return faiss.index_cpu_to_all_gpus(index) if gpus else index


def recall(exact: Run, of_index: Run) -> float:
    """Share of the exact hits that the index has, too; mean over queries."""
    shares = []
    for qid, expected in exact.items():
        got = expected.keys() & of_index[qid].keys()
        shares.append(len(got) / max(len(expected), 1))
    return float(np.mean(shares))


def report(folder: Path, settings: Index, what: str, share: float, depth: int, queries: int) -> str:
    """A line about ``share``, the recall at ``depth``, which is also kept in ``recall.json``."""
    note = {"kind": settings.kind, "depth": depth, "queries": queries, "recall": share}
    write_json(folder / "recall.json", note)
    return (
        f"  index {what} ({settings.kind}): recall@{depth} against exact search {share:.4f} "
        f"over {queries} queries"
    )
