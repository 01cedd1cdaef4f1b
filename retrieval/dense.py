"""Dense retrieval: a bi-encoder's vectors, memory-mapped in fp16, and exact inner-product search through FAISS."""

import resource
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from core import backbones
from core.backbones import Backbone
from core.batches import token_batches
from core.compiled import compiled, converted
from core.console import progress, say
from core.distributed import device
from core.files import finished_file, require_room
from core.passages import Passages, document_text
from core.records import Query, Run

CHUNK = 4096  # passages between two notes of progress
BLOCK = 262144  # vectors in fp32 at a time while searching: 400 MB at 384 dimensions


# what runs the body: a function from padded inputs to the last hidden states [texts, tokens, dimension]
BACKENDS = {
    "torch": lambda model: lambda inputs: model(**inputs).last_hidden_state,
    "openvino": lambda model: compiled(
        converted(model.float().cpu(), ["input_ids", "attention_mask"])
    ),
}


class Encoder:
    """Text to vectors: fp32 [n, dimension], pooled and normalised as the backbone's table entry or its own sentence-transformers files
    say; ``overrides`` (pooling, normalise, query_prefix, passage_prefix) come before both."""

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
        where = backbones.source(name, models)
        entry = None if name in backbones.BACKBONES else backbones.sentence_transformer(where)
        self.entry: Backbone = replace(entry or backbones.backbone(name), **(overrides or {}))
        self.tokenizer = backbones.load_tokenizer(where)
        self.device = device() if backend == "torch" else "cpu"
        self.dtype = backbones.dtype(precision)
        self.model = backbones.load_encoder(where, layers).to(self.device, self.dtype)
        self.max_length, self.batch_tokens = (
            min(max_length, self.entry.max_length, self.tokenizer.model_max_length),
            batch_tokens,
        )
        self.dimension = self.model.config.hidden_size
        self.hidden = BACKENDS[backend](self.model)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self.encode([self.entry.query_prefix + t for t in texts])

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        return self.encode([self.entry.passage_prefix + t for t in texts])

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        ids = self.tokenizer(list(texts), truncation=True, max_length=self.max_length)["input_ids"]
        vectors = np.empty((len(ids), self.dimension), np.float32)
        for rows in token_batches([len(i) for i in ids], self.batch_tokens):
            vectors[rows] = self.forward([ids[r] for r in rows])
        return vectors

    def forward(self, ids: list[list[int]]) -> np.ndarray:
        import torch

        inputs = backbones.pad(self.tokenizer, [{"input_ids": row} for row in ids], self.device)
        with torch.inference_mode():
            hidden = self.hidden(inputs).float()
            mask = inputs["attention_mask"].unsqueeze(-1)
            pooled = (
                hidden[:, 0]
                if self.entry.pooling == "cls"
                else (hidden * mask).sum(1) / mask.sum(1)
            )
            return (
                (torch.nn.functional.normalize(pooled, dim=1) if self.entry.normalise else pooled)
                .cpu()
                .numpy()
            )


def encode_corpus(
    encoder: Encoder, passages: Passages, folder: Path, what: str, shard: tuple[int, int] = (0, 1)
) -> None:
    """Writes ``vectors.npy``, fp16 [passages, dimension]. Chunks are files of their own until all are there, so a stopped run goes on, and
    several processes or machines can share the work: ``shard`` (i, n) makes the chunks i, i + n, … and leaves the joining to (0, 1)."""
    chunks = [
        folder / f"chunk-{start}.npy"
        for start in range(shard[0] * CHUNK, len(passages), shard[1] * CHUNK)
    ]
    waiting = [chunk for chunk in chunks if not chunk.exists()]
    tell_cost(encoder, passages, folder, what, len(waiting))
    with progress(None, len(chunks) * CHUNK, f"dense {what}", "passage") as bar:
        bar.update((len(chunks) - len(waiting)) * CHUNK)
        for chunk in waiting:
            start = int(chunk.stem[6:])
            rows = range(start, min(start + CHUNK, len(passages)))
            vectors = encoder.encode_passages(
                [document_text(passages.document(r)) for r in rows]
            ).astype(np.float16)
            with finished_file(chunk, "wb") as file:
                np.save(file, vectors)
            bar.update(len(rows))
    if shard == (0, 1):
        join(chunks, folder / "vectors.npy", (len(passages), encoder.dimension))


def tell_cost(encoder: Encoder, passages: Passages, folder: Path, what: str, chunks: int) -> None:
    """Disk, memory and time of what is to be encoded, measured on 64 passages from all over; raises InputError without room."""
    needed = len(passages) * encoder.dimension * 2
    require_room(
        folder,
        2 * needed,
        f"the dense vectors of {what} ({len(passages)} passages, chunks beside the whole)",
    )
    if chunks < 2:
        return
    sample = [
        document_text(passages.document(r))
        for r in range(0, len(passages), -(-len(passages) // 64))
    ]
    start = time.monotonic()
    encoder.encode_passages(sample)
    rate = len(sample) / (time.monotonic() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    say(
        f"  {what}: {len(passages)} passages, {needed / 1e9:.2f} GB of vectors on disk, about {memory / 1e9:.1f} GB of memory, about {chunks * CHUNK / rate:.0f} s at {rate:.0f} passages/s"
    )


def join(chunks: Sequence[Path], target: Path, shape: tuple[int, int]) -> None:
    """Chunks to one memory-mapped file; they are removed when it is whole."""
    vectors, row = np.lib.format.open_memmap(target, "w+", np.float16, shape), 0
    for chunk in chunks:
        part = np.load(chunk)
        vectors[row : row + len(part)] = part
        row += len(part)
    vectors.flush()
    for chunk in chunks:
        chunk.unlink()


def search(
    vectors: np.ndarray,
    passages: Passages,
    queries: Sequence[Query],
    encoded: np.ndarray,
    depth: int,
) -> Run:
    """Exact inner product in fp32, block by block, so that memory does not grow with the corpus."""
    import faiss

    depth = min(depth, len(passages))
    best_scores, best_rows = (
        np.empty((len(queries), 0), np.float32),
        np.empty((len(queries), 0), np.int64),
    )
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK].astype(np.float32)
        index = faiss.IndexFlatIP(block.shape[1])
        index.add(block)
        scores, rows = index.search(encoded, min(depth, len(block)))
        best_scores, best_rows = (
            np.hstack([best_scores, scores]),
            np.hstack([best_rows, rows + start]),
        )
        kept = np.argsort(-best_scores, axis=1, kind="stable")[:, :depth]
        best_scores, best_rows = (
            np.take_along_axis(best_scores, kept, 1),
            np.take_along_axis(best_rows, kept, 1),
        )
    return as_run(passages, queries, best_rows, best_scores)


def search_index(
    index, passages: Passages, queries: Sequence[Query], encoded: np.ndarray, depth: int
) -> Run:
    """Through a FAISS index of ``retrieval.indexes``; it may find fewer than ``depth``."""
    scores, rows = index.search(encoded, min(depth, len(passages)))
    return as_run(passages, queries, rows, scores)


def as_run(
    passages: Passages, queries: Sequence[Query], rows: np.ndarray, scores: np.ndarray
) -> Run:
    return {
        q.qid: {passages.docid(row): float(score) for row, score in zip(found, values) if row >= 0}
        for q, found, values in zip(queries, rows.tolist(), scores.tolist())
    }
