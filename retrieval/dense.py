"""Dense retrieval: a bi-encoder's vectors in fp16, memory-mapped, and exact search by block."""

import io
import math
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from core.console import progress, say
from core.files import finished_file, require_room
from core.passages import Passages, document_text
from core.records import Query, Ranking, Run
from retrieval.bodies import BACKENDS, load_body

__all__ = ["BACKENDS", "Encoder", "encode_corpus", "search", "search_each", "search_index"]

CHUNK = 4096  # passages between two notes of progress
BLOCK = 262144  # vectors in fp32 at a time while searching: 400 MB at 384 dimensions
QUERY_BLOCK = 32768  # queries that a pass over the vectors serves: 400 MB of hits at depth 1000
MERGED = 2048  # queries whose hits of two blocks are put together at a time
GPU_DEPTH = 2048  # the most hits that FAISS selects on a GPU
JOINING = "joining.npy"  # what chunks are appended to until all are

# the best of a block: (scores, rows within it), [queries, depth] each
Hits = tuple[np.ndarray, np.ndarray]


class Encoder:
    """Text to vectors: fp32 [texts, dimension].

    Pooling, prefixes and normalisation are those of the backbone's table entry, or the modules and
    prompts of a sentence-transformers model; ``overrides`` (pooling, normalise, query_prefix,
    passage_prefix) come before both. ``max_length`` in tokens, cut to what the model takes.
    """

    def __init__(
        self,
        name: str,
        models: Path,
        layers: int | None,
        max_length: int,
        batch_tokens: int,
        precision: str,
        overrides: dict | None = None,
        backend: str = "torch",
    ):
        self.body = load_body(
            name=name,
            models=models,
            layers=layers,
            max_length=max_length,
            batch_tokens=batch_tokens,
            precision=precision,
            overrides=overrides or {},
            backend=backend,
        )
        self.dimension: int = self.body.dimension

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """With the prefix of queries."""
        return self.body.encode(texts, "query")

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        """With the prefix of passages."""
        return self.body.encode(texts, "passage")


def encode_corpus(
    encoder: Encoder, passages: Passages, folder: Path, what: str, shard: tuple[int, int] = (0, 1)
) -> None:
    """Writes ``vectors.npy``, fp16 [passages, dimension].

    Chunks are files of their own until all are there, so a stopped run goes on, and several
    processes or machines can share the work: ``shard`` (i, n) makes the chunks i, i + n, … and
    leaves the joining to (0, 1). Raises InputError without room on the disk.
    """
    joins = shard == (0, 1)
    missing = missing_chunks(folder, len(passages), encoder.dimension, shard)
    tell_cost(encoder, passages, folder, what, missing, joins)
    count = len(chunk_starts(len(passages), shard))
    with progress(None, count * CHUNK, f"dense {what}", "passage") as bar:
        bar.update((count - len(missing)) * CHUNK)
        for start in missing:
            bar.update(encode_chunk(encoder, passages, folder, start))
    if joins:
        join(folder, (len(passages), encoder.dimension))


def chunk_starts(count: int, shard: tuple[int, int] = (0, 1)) -> range:
    """The first rows of the chunks of ``count`` passages, or of a shard of them."""
    number, shards = shard
    return range(number * CHUNK, count, shards * CHUNK)


def missing_chunks(
    folder: Path, count: int, dimension: int, shard: tuple[int, int] = (0, 1)
) -> list[int]:
    """The first rows of the chunks that are not in ``folder``, as files or joined."""
    joined = joined_rows(folder, dimension)
    missing = []
    for start in chunk_starts(count, shard):
        if start >= joined and not chunk_file(folder, start).exists():
            missing.append(start)
    return missing


def encode_chunk(encoder: Encoder, passages: Passages, folder: Path, start: int) -> int:
    """Writes the vectors of the chunk from row ``start``, and returns how many."""
    rows = range(start, min(start + CHUNK, len(passages)))
    texts = [document_text(passages.document(row)) for row in rows]
    vectors = encoder.encode_passages(texts).astype(np.float16)
    with finished_file(chunk_file(folder, start), "wb") as file:
        np.save(file, vectors)
    return len(rows)


def chunk_file(folder: Path, start: int) -> Path:
    """Of the CHUNK passages from row ``start``."""
    return folder / f"chunk-{start}.npy"


def tell_cost(
    encoder: Encoder,
    passages: Passages,
    folder: Path,
    what: str,
    missing: Sequence[int],
    joins: bool,
) -> None:
    """Says disk, memory and time of the chunks that are ``missing``, measured on 64 passages.

    ``joins``: whether the whole file is to be made, too. It takes the place of the chunks one by
    one, so there is never more than one chunk beside it. Raises InputError without room.
    """
    row_bytes = encoder.dimension * 2
    rows = 0
    for start in missing:
        rows += min(CHUNK, len(passages) - start)
    beside = min(CHUNK, len(passages)) if joins else 0
    require_room(
        folder,
        (rows + beside) * row_bytes,
        f"the dense vectors of {what} ({rows} of {len(passages)} passages to be encoded, "
        f"{beside} twice while they are joined)",
    )
    if len(missing) < 2:
        return
    every = math.ceil(len(passages) / 64)
    sample = [document_text(passages.document(row)) for row in range(0, len(passages), every)]
    begun = time.monotonic()
    encoder.encode_passages(sample)
    rate = len(sample) / (time.monotonic() - begun)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    say(
        f"  {what}: {len(passages)} passages, "
        f"{len(passages) * row_bytes / 1e9:.2f} GB of vectors on disk, "
        f"about {memory / 1e9:.1f} GB of memory, "
        f"about {len(missing) * CHUNK / rate:.0f} s at {rate:.0f} passages/s"
    )


def header(shape: tuple[int, int]) -> bytes:
    """What a ``.npy`` file of fp16 begins with."""
    buffer = io.BytesIO()
    description = {"descr": "<f2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


def joined_rows(folder: Path, dimension: int) -> int:
    """Rows that stand safely in the file being joined: their chunks may be gone.

    A chunk is removed only after its rows are on the disk. So all whole chunks of rows count, but
    not the last one while its own file is still there.
    """
    file = folder / JOINING
    if not file.exists():
        return 0
    with file.open("rb") as part:
        try:
            np.lib.format.read_magic(part)
            (count, _), _, _ = np.lib.format.read_array_header_1_0(part)
        except ValueError:  # stopped within the header
            return 0
        rows = (file.stat().st_size - part.tell()) // (dimension * 2)
    if rows < count:
        rows -= rows % CHUNK
    if rows:
        last = (rows - 1) // CHUNK * CHUNK
        if chunk_file(folder, last).exists():
            rows = last
    return rows


def join(folder: Path, shape: tuple[int, int]) -> None:
    """Chunks to one file ``vectors.npy`` [passages, dimension]; each is removed once it is in.

    A stop loses nothing: ``joined_rows`` tells where to go on.
    """
    count, dimension = shape
    head = header(shape)
    row = joined_rows(folder, dimension)
    file = folder / JOINING
    with file.open("r+b" if row else "w+b") as whole:
        if not row:
            whole.write(head)
        whole.truncate(len(head) + row * dimension * 2)
        whole.seek(0, io.SEEK_END)
        for start in range(row, count, CHUNK):
            append(whole, np.load(chunk_file(folder, start)))
            chunk_file(folder, start).unlink()
    for leftover in folder.glob("chunk-*.npy"):  # of a shard that made what was there already
        leftover.unlink()
    file.replace(folder / "vectors.npy")


def append(file: BinaryIO, vectors: np.ndarray) -> None:
    """Rows at the end of a file, on the disk when this returns."""
    file.write(np.ascontiguousarray(vectors, np.float16).tobytes())
    file.flush()
    os.fsync(file.fileno())


def search(
    vectors: np.ndarray,
    passages: Passages,
    queries: Sequence[Query],
    encoded: np.ndarray,
    depth: int,
) -> Run:
    """``search_each`` as a run, whole in memory."""
    return dict(search_each(vectors, passages, queries, encoded, depth))


def search_each(
    vectors: np.ndarray,
    passages: Passages,
    queries: Sequence[Query],
    encoded: np.ndarray,
    depth: int,
) -> Iterator[Ranking]:
    """The best ``depth`` passages of each query by exact inner product in fp32, query by query.

    ``vectors`` [passages, dimension] are read block by block, so that memory does not grow with
    the corpus; hits are kept as arrays, 12 bytes each, so that it hardly grows with the queries.
    On GPUs where faiss-gpu finds some.
    """
    for first in range(0, len(queries), QUERY_BLOCK):
        served = slice(first, first + QUERY_BLOCK)
        scores, rows = best_rows(vectors, encoded[served], min(depth, len(passages)))
        yield from hits_of(passages, queries[served], rows, scores)


def best_rows(vectors: np.ndarray, encoded: np.ndarray, depth: int) -> Hits:
    """(scores, rows) of the best, [queries, depth], best first; equal scores: first rows first."""
    scores = np.empty((len(encoded), 0), np.float32)
    rows = np.empty((len(encoded), 0), np.int64)
    for start, (block_scores, block_rows) in searched_blocks(vectors, encoded, depth):
        scores, rows = merged((scores, rows), (block_scores, block_rows + start), depth)
    return scores, rows


def merged(before: Hits, new: Hits, depth: int) -> Hits:
    """The best of two sets of hits; of equal scores those ``before`` stand first."""
    scores, rows = before
    new_scores, new_rows = new
    count = len(scores)
    width = min(depth, scores.shape[1] + new_scores.shape[1])
    kept_scores = np.empty((count, width), np.float32)
    kept_rows = np.empty((count, width), np.int64)
    for first in range(0, count, MERGED):
        part = slice(first, first + MERGED)
        both_scores = np.hstack([scores[part], new_scores[part]])
        both_rows = np.hstack([rows[part], new_rows[part]])
        order = np.argsort(-both_scores, axis=1, kind="stable")[:, :width]
        kept_scores[part] = np.take_along_axis(both_scores, order, 1)
        kept_rows[part] = np.take_along_axis(both_rows, order, 1)
    return kept_scores, kept_rows


def searched_blocks(
    vectors: np.ndarray, encoded: np.ndarray, depth: int
) -> Iterator[tuple[int, Hits]]:
    """(first row, hits) of each block of vectors, in order; as many blocks at once as GPUs."""
    searchers = block_searchers(depth)
    starts = range(0, len(vectors), BLOCK)
    if len(searchers) == 1:  # in this thread, which numbers of threads may be set for
        for start in starts:
            stored = vectors[start : start + BLOCK]
            yield start, nearest(searchers[0], encoded, stored, depth)
        return
    with ThreadPoolExecutor(len(searchers)) as pool:
        for first in range(0, len(starts), len(searchers)):
            at_once = starts[first : first + len(searchers)]
            waiting = []
            for searcher, start in zip(searchers, at_once, strict=False):
                stored = vectors[start : start + BLOCK]
                waiting.append(pool.submit(nearest, searcher, encoded, stored, depth))
            for start, hits in zip(at_once, waiting, strict=True):
                yield start, hits.result()


def nearest(searcher: Callable, encoded: np.ndarray, stored: np.ndarray, depth: int) -> Hits:
    """The hits of one block of vectors, turned into fp32 here: in the thread that searches it."""
    return searcher(encoded, stored.astype(np.float32), min(depth, len(stored)))


def block_searchers(depth: int) -> list[Callable[[np.ndarray, np.ndarray, int], Hits]]:
    """What searches a block of vectors exactly: a function for each GPU, or one for the CPU.

    Each takes queries and vectors in fp32 and the number of hits. ``depth``: the most that will
    be asked for; beyond GPU_DEPTH the CPU searches.
    """
    import faiss

    gpus = getattr(faiss, "get_num_gpus", int)()  # faiss-cpu of old has no such function
    if not gpus or depth > GPU_DEPTH:
        return [search_on_cpu]
    return [partial(search_on_gpu, faiss.StandardGpuResources(), gpu) for gpu in range(gpus)]


def search_on_cpu(encoded: np.ndarray, block: np.ndarray, depth: int) -> Hits:
    """All cores."""
    import faiss

    index = faiss.IndexFlatIP(block.shape[1])
    index.add(block)
    return index.search(encoded, depth)


def search_on_gpu(
    resources: Any, gpu: int, encoded: np.ndarray, block: np.ndarray, depth: int
) -> Hits:
    """Brute force on one GPU, in tiles that FAISS fits to its memory."""
    import faiss

    return faiss.knn_gpu(
        resources, encoded, block, depth, metric=faiss.METRIC_INNER_PRODUCT, device=gpu
    )


def search_index(
    index, passages: Passages, queries: Sequence[Query], encoded: np.ndarray, depth: int
) -> Run:
    """``search_index_each`` as a run, whole in memory."""
    return dict(search_index_each(index, passages, queries, encoded, depth))


def search_index_each(
    index, passages: Passages, queries: Sequence[Query], encoded: np.ndarray, depth: int
) -> Iterator[Ranking]:
    """Through a FAISS index of ``retrieval.indexes``; it may find fewer than ``depth``."""
    for first in range(0, len(queries), QUERY_BLOCK):
        served = slice(first, first + QUERY_BLOCK)
        scores, rows = index.search(encoded[served], min(depth, len(passages)))
        yield from hits_of(passages, queries[served], rows, scores)


def hits_of(
    passages: Passages, queries: Sequence[Query], rows: np.ndarray, scores: np.ndarray
) -> Iterator[Ranking]:
    """(query id, docid -> score) for each query; -1 stands for no row."""
    for query, query_rows, query_scores in zip(queries, rows, scores, strict=True):
        hits = zip(query_rows.tolist(), query_scores.tolist(), strict=True)
        yield query.qid, {passages.docid(row): score for row, score in hits if row >= 0}
