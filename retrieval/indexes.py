"""FAISS indexes over a language's vectors: INDEXES, trained, saved, memory-mapped, and what each loses against exact search."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from core.console import progress
from core.errors import InputError
from core.files import write_json
from core.settings import Index

BLOCK = 65536  # vectors in fp32 at a time while adding
SAMPLE = 256  # training vectors a list or centroid; FAISS uses no more


def lists_of(s: Index, count: int) -> int:
    """The lists of an inverted file: as set, or four times the square root of the number of vectors, at most one a 39 vectors."""
    return max(1, min(s.lists or round(4 * count**0.5), count // 39))


# kind -> FAISS factory string of (settings, number of vectors)
INDEXES: dict[str, Callable[[Index, int], str]] = {
    "flat": lambda s, n: "Flat",
    "sq": lambda s, n: "SQ8",
    "ivf": lambda s, n: f"IVF{lists_of(s, n)},Flat",
    "ivfpq": lambda s, n: f"IVF{lists_of(s, n)},PQ{s.code_bytes}",
    "hnsw": lambda s, n: f"HNSW{s.links},Flat",
}


def build(vectors: np.ndarray, s: Index, folder: Path, what: str, seed: int) -> None:
    """Writes ``index.faiss``. Vectors are read in blocks; what the index itself holds must fit in memory while it is made."""
    import faiss

    count, dimension = vectors.shape
    if s.kind == "ivfpq" and dimension % s.code_bytes:
        raise InputError(
            f"retrieval.dense.index.code_bytes: found {s.code_bytes}, expected a divisor of the {dimension} dimensions"
        )
    if s.kind == "ivfpq" and count < 256:
        raise InputError(
            f"{what}: product quantisation needs at least 256 passages to learn from, found {count}; set retrieval.dense.index.kind=exact"
        )
    index = faiss.index_factory(dimension, INDEXES[s.kind](s, count), faiss.METRIC_INNER_PRODUCT)
    if s.kind == "ivfpq":
        index.do_polysemous_training = (
            False  # an order of codes that nothing here uses, and most of the training time
        )
    if not index.is_trained:
        wanted = min(count, SAMPLE * max(lists_of(s, count), 256))
        rows = np.sort(np.random.Generator(np.random.PCG64(seed)).permutation(count)[:wanted])
        index.train(vectors[rows].astype(np.float32))
    for start in progress(range(0, count, BLOCK), what=f"index {what}", unit="block"):
        index.add(vectors[start : start + BLOCK].astype(np.float32))
    faiss.write_index(index, str(folder / "index.faiss"))


def load(folder: Path, s: Index):
    """Memory-mapped where FAISS can; on GPUs where faiss-gpu finds some."""
    import faiss

    index = faiss.read_index(
        str(folder / "index.faiss"), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
    )
    if s.kind in ("ivf", "ivfpq"):
        index.nprobe = s.probes
    if s.kind == "hnsw":
        index.hnsw.efSearch = s.ef
    return faiss.index_cpu_to_all_gpus(index) if getattr(faiss, "get_num_gpus", int)() else index


def recall(exact: list[set[str]], found: list[set[str]]) -> float:
    """Share of the exact hits that the index has, too; mean over queries."""
    return float(np.mean([len(a & b) / max(len(a), 1) for a, b in zip(exact, found)]))


def report(folder: Path, s: Index, what: str, share: float, depth: int, queries: int) -> str:
    write_json(
        folder / "recall.json",
        {"kind": s.kind, "depth": depth, "queries": queries, "recall": share},
    )
    return f"  index {what} ({s.kind}): recall@{depth} against exact search {share:.4f} over {queries} queries"
