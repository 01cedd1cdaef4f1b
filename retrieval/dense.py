"""Dense retrieval: a bi-encoder, the encoding of a corpus, and exact search by block."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from core import machine
from core.console import progress, say
from core.distributed import take_gpu
from core.errors import InputError
from core.files import require_room
from core.passages import Passages, document_text
from core.processes import Team, worker_number
from core.records import Query, Ranking, Run
from retrieval import vectors
from retrieval.bodies import BACKENDS, load_body
from retrieval.vectors import Vectors

if TYPE_CHECKING:
    import torch

__all__ = ["BACKENDS", "Encoder", "encode_corpus", "search", "search_each", "search_index"]

BLOCK = 131072  # vectors in fp32 at a time while searching: 200 MB at 384 dimensions
MULTIPLIED = 256  # queries that a block is multiplied with at a time: 134 MB of products
QUERY_BLOCK = 32768  # queries that a pass over the vectors serves: 400 MB of hits at depth 1000
MERGED = 2048  # queries whose hits of two blocks are put together at a time

Stored = Vectors | np.ndarray
"""Vectors [passages, dimension] in any format of numbers; searched in fp32."""


class Named(Protocol):
    """What tells the docids of vectors by their rows."""

    def __len__(self) -> int: ...

    def docid(self, row: int) -> str:
        """Of a row."""


Overrides = Mapping[str, Any] | Iterable[tuple[str, Any]]

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
        overrides: Overrides = (),
        backend: str = "torch",
    ):
        self.body = load_body(
            name=name,
            models=models,
            layers=layers,
            max_length=max_length,
            batch_tokens=batch_tokens,
            precision=precision,
            overrides=dict(overrides),
            backend=backend,
        )
        self.dimension: int = self.body.dimension

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """With the prefix of queries."""
        return self.body.encode(texts, "query")

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        """With the prefix of passages."""
        return self.body.encode(texts, "passage")


class EncoderSpec(NamedTuple):
    """What an ``Encoder`` is made of; several processes load the same."""

    name: str
    models: Path
    layers: int | None
    max_length: int
    batch_tokens: int
    precision: str
    overrides: tuple[tuple[str, Any], ...]
    backend: str

    def load(self) -> Encoder:
        """The encoder, on this process's device."""
        return Encoder(**self._asdict())


class Helpers:
    """Processes that encode chunks, each with the encoder on a GPU of its own."""

    def __init__(self, count: int, spec: EncoderSpec):
        self.spec = spec
        self.team = Team(count)

    def encode(self, passages: Passages, folder: Path, starts: Sequence[int]) -> Iterator[int]:
        """Writes the chunks from some rows; how many passages each holds, as it is there."""
        items = {}
        for start in starts:
            name = str(vectors.chunk_file(folder, start))
            items[name] = (self.spec, passages.folder, folder, start)
        return self.team.each(encode_chunk_by, items)


def encode_chunk_by(spec: EncoderSpec, store: Path, folder: Path, start: int) -> int:
    """What a helper does: ``encode_chunk`` with the encoder that it has loaded."""
    return encode_chunk(loaded(spec), Passages(store), folder, start)


@lru_cache(maxsize=1)
def loaded(spec: EncoderSpec) -> Encoder:
    """The encoder of this process, on the GPU that is its own."""
    take_gpu(worker_number())
    return spec.load()


def encode_corpus(
    encoder: Encoder,
    passages: Passages,
    folder: Path,
    what: str,
    shard: tuple[int, int] = (0, 1),
    helpers: Helpers | None = None,
) -> None:
    """Writes the vectors of a language's passages in chunks, which ``retrieval.vectors`` opens.

    A chunk that is there is not made again, so a stopped run goes on, and several processes or
    machines can share the work: ``shard`` (i, n) makes the chunks i, i + n, … and leaves the note
    that all are there to (0, 1). ``helpers`` encode in place of this process, where there is more
    than one chunk. Raises InputError without room on the disk.
    """
    vectors.drop_joining(folder)
    missing = vectors.missing_chunks(folder, len(passages), shard)
    tell_cost(encoder, passages, folder, what, missing)
    count = len(vectors.chunk_starts(len(passages), shard))
    with progress(None, count * vectors.CHUNK, f"dense {what}", "passage") as bar:
        bar.update((count - len(missing)) * vectors.CHUNK)
        if helpers and len(missing) > 1:
            encoded = helpers.encode(passages, folder, missing)
        else:
            encoded = (encode_chunk(encoder, passages, folder, start) for start in missing)
        for rows in encoded:
            bar.update(rows)
    if shard == (0, 1):
        vectors.finish(folder, (len(passages), encoder.dimension))


def encode_chunk(encoder: Encoder, passages: Passages, folder: Path, start: int) -> int:
    """Writes the chunk from row ``start``; how many passages it holds."""
    rows = range(start, min(start + vectors.CHUNK, len(passages)))
    texts = [document_text(passages.document(row)) for row in rows]
    vectors.write_chunk(folder, start, encoder.encode_passages(texts))
    return len(rows)


def tell_cost(
    encoder: Encoder, passages: Passages, folder: Path, what: str, missing: Sequence[int]
) -> None:
    """Says disk, memory and time of the chunks that are ``missing``, measured on 64 passages.

    Raises InputError without room.
    """
    row_bytes = encoder.dimension * 2
    rows = 0
    for start in missing:
        rows += min(vectors.CHUNK, len(passages) - start)
    require_room(
        folder,
        rows * row_bytes,
        f"the dense vectors of {what} ({rows} of {len(passages)} passages to be encoded)",
    )
    if len(missing) < 2:
        return
    every = math.ceil(len(passages) / 64)
    sample = [document_text(passages.document(row)) for row in range(0, len(passages), every)]
    begun = time.monotonic()
    encoder.encode_passages(sample)
    rate = len(sample) / (time.monotonic() - begun)
    say(
        f"  {what}: {len(passages)} passages, "
        f"{len(passages) * row_bytes / 1e9:.2f} GB of vectors on disk, "
        f"about {machine.peak_memory() / 1e9:.1f} GB of memory, "
        f"about {rows / rate:.0f} s at {rate:.0f} passages/s"
    )


def search(
    stored: Stored,
    passages: Named,
    queries: Sequence[Query],
    encoded: np.ndarray,
    depth: int,
) -> Run:
    """``search_each`` as a run, whole in memory."""
    return dict(search_each(stored, passages, queries, encoded, depth))


def search_each(
    stored: Stored,
    passages: Named,
    queries: Sequence[Query],
    encoded: np.ndarray,
    depth: int,
) -> Iterator[Ranking]:
    """The best ``depth`` passages of each query by exact inner product in fp32, query by query.

    ``stored`` [passages, dimension] are read block by block, so that memory does not grow with the
    corpus; hits are kept as arrays, 12 bytes each, so that it hardly grows with the queries. On
    all GPUs where there are some. Raises InputError for queries of other dimensions.
    """
    if encoded.shape[1] != stored.shape[1]:
        raise InputError(
            f"retrieval.dense.backbone: its vectors have {encoded.shape[1]} dimensions, expected "
            f"the {stored.shape[1]} of the passages' vectors: another encoder made them"
        )
    for first in range(0, len(queries), QUERY_BLOCK):
        served = slice(first, first + QUERY_BLOCK)
        scores, rows = best_rows(stored, encoded[served], min(depth, len(passages)))
        yield from hits_of(passages, queries[served], rows, scores)


def best_rows(stored: Stored, encoded: np.ndarray, depth: int) -> Hits:
    """(scores, rows) of the best, [queries, depth], best first; equal scores: first rows first."""
    scores = np.empty((len(encoded), 0), np.float32)
    rows = np.empty((len(encoded), 0), np.int64)
    for start, (block_scores, block_rows) in searched_blocks(stored, encoded, depth):
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


def searched_blocks(stored: Stored, encoded: np.ndarray, depth: int) -> Iterator[tuple[int, Hits]]:
    """(first row, hits) of each block of vectors, in order; as many blocks at once as GPUs."""
    devices = search_devices()
    starts = range(0, len(stored), BLOCK)
    if len(devices) == 1:  # in this thread, which numbers of threads may be set for
        for start in starts:
            yield start, nearest_of(stored, start, encoded, depth, devices[0])
        return
    with ThreadPoolExecutor(len(devices)) as pool:
        for first in range(0, len(starts), len(devices)):
            at_once = starts[first : first + len(devices)]
            waiting = []
            for device, start in zip(devices, at_once, strict=False):
                waiting.append(pool.submit(nearest_of, stored, start, encoded, depth, device))
            for start, hits in zip(at_once, waiting, strict=True):
                yield start, hits.result()


def search_devices() -> list[str]:
    """What searches blocks of vectors: every GPU, or the CPU with all cores."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [f"cuda:{number}" for number in range(count)] or ["cpu"]


def nearest_of(stored: Stored, start: int, encoded: np.ndarray, depth: int, device: str) -> Hits:
    """The hits of the block from row ``start``, read in the thread that searches it."""
    return nearest(in_fp32(stored, start, min(start + BLOCK, len(stored)), device), encoded, depth)


def in_fp32(stored: Stored, start: int, stop: int, device: str) -> "torch.Tensor":
    """A block of vectors [rows, dimension] on a device; nothing of it is copied in between."""
    import torch

    block = torch.empty((stop - start, stored.shape[1]), dtype=torch.float32, device=device)
    row = 0
    pieces = stored.pieces(start, stop) if isinstance(stored, Vectors) else [stored[start:stop]]
    for piece in pieces:
        block[row : row + len(piece)].copy_(torch.from_numpy(piece).to(device))
        row += len(piece)
    return block


def nearest(block: "torch.Tensor", encoded: np.ndarray, depth: int) -> Hits:
    """The best of a block in fp32 for each query, by products with all of it."""
    import torch

    depth = min(depth, len(block))
    scores = np.empty((len(encoded), depth), np.float32)
    rows = np.empty((len(encoded), depth), np.int64)
    for first in range(0, len(encoded), MULTIPLIED):
        part = slice(first, first + MULTIPLIED)
        with torch.inference_mode():
            products = torch.from_numpy(encoded[part]).to(block.device) @ block.T
            values, places = first_of_equals(products, depth)
        scores[part] = values.cpu().numpy()
        rows[part] = places.cpu().numpy()
    return scores, rows


def first_of_equals(products: "torch.Tensor", depth: int) -> tuple["torch.Tensor", "torch.Tensor"]:
    """The best ``depth`` of each row, best first, of equal ones the first: (values, places).

    ``topk`` alone takes any of equal ones.
    """
    best = products.topk(depth, dim=1)
    places = best.indices.sort(dim=1).values
    # where more are as good as the last one that was taken, all have to be looked at
    is_cut = (products >= best.values[:, -1:]).sum(1) > depth
    if is_cut.any():
        whole = products[is_cut].argsort(dim=1, descending=True, stable=True)
        places[is_cut] = whole[:, :depth].sort(dim=1).values
    values = products.gather(1, places)
    order = values.argsort(dim=1, descending=True, stable=True)
    return values.gather(1, order), places.gather(1, order)


def search_index(
    index, passages: Named, queries: Sequence[Query], encoded: np.ndarray, depth: int
) -> Run:
    """``search_index_each`` as a run, whole in memory."""
    return dict(search_index_each(index, passages, queries, encoded, depth))


def search_index_each(
    index, passages: Named, queries: Sequence[Query], encoded: np.ndarray, depth: int
) -> Iterator[Ranking]:
    """Through a FAISS index of ``retrieval.indexes``; it may find fewer than ``depth``."""
    for first in range(0, len(queries), QUERY_BLOCK):
        served = slice(first, first + QUERY_BLOCK)
        scores, rows = index.search(encoded[served], min(depth, len(passages)))
        yield from hits_of(passages, queries[served], rows, scores)


def hits_of(
    passages: Named, queries: Sequence[Query], rows: np.ndarray, scores: np.ndarray
) -> Iterator[Ranking]:
    """(query id, docid -> score) for each query; -1 stands for no row."""
    for query, query_rows, query_scores in zip(queries, rows, scores, strict=True):
        hits = zip(query_rows.tolist(), query_scores.tolist(), strict=True)
        yield query.qid, {passages.docid(row): score for row, score in hits if row >= 0}
