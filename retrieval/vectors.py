"""Vectors of a language's passages on disk, in chunks that are used as they are."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from core.console import say
from core.errors import InputError
from core.files import finished_file, write_json

CHUNK = 4096  # passages of a file, and between two notes of progress
NOTE = "vectors.json"  # written last: how many vectors there are, and in what files
WHOLE = "vectors.npy"  # one file of all, as they were kept before there were chunks
JOINING = "joining.npy"  # what was being made of chunks then


class Vectors:
    """Fp16 [passages, dimension], indexed by row, slice or sorted rows as an array is.

    A file is mapped while it is read and then let go, so memory does not grow with the corpus.
    ``files``: of ``rows`` vectors each, the last of the rest.
    """

    dtype = np.dtype(np.float16)

    def __init__(self, files: Sequence[Path], rows: int, shape: tuple[int, int]):
        self.files, self.rows, self.shape = files, rows, shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        """A copy. The step of a slice is 1; an array of rows is sorted."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            parts = list(self.pieces(start, stop))
            return np.concatenate(parts) if parts else np.empty((0, self.shape[1]), self.dtype)
        if isinstance(rows, np.ndarray):
            return self.taken(rows)
        return self[rows : rows + 1][0]

    def pieces(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """The rows from ``start`` to ``stop`` as they are mapped, a piece a file."""
        while start < stop:
            number, first = divmod(start, self.rows)
            last = min(self.rows, first + stop - start)
            yield self.chunk(number)[first:last]
            start += last - first

    def taken(self, rows: np.ndarray) -> np.ndarray:
        """Some rows, sorted ones."""
        taken = np.empty((len(rows), self.shape[1]), self.dtype)
        numbers = rows // self.rows
        for number in np.unique(numbers):
            here = slice(*np.searchsorted(numbers, [number, number + 1]))
            taken[here] = self.chunk(int(number))[rows[here] - number * self.rows]
        return taken

    def chunk(self, number: int) -> np.ndarray:
        """A file's vectors, mapped. Raises InputError for a file that is not what was written."""
        file = self.files[number]
        expected = (min(self.rows, len(self) - number * self.rows), self.shape[1])
        try:
            mapped = np.load(file, mmap_mode="c")  # torch wants memory that it could write to
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{file}: {error}; {ADVICE}") from None
        if mapped.shape != expected or mapped.dtype != self.dtype:
            raise InputError(
                f"{file}: found {mapped.dtype} {list(mapped.shape)}, expected {self.dtype} "
                f"{list(expected)}; {ADVICE}"
            )
        return mapped


ADVICE = "remove its folder and run the retrieval stage again"


def open_vectors(folder: Path) -> Vectors:
    """What ``finish`` left in a folder, or an older version's one file."""
    if (folder / WHOLE).exists():
        shape = np.load(folder / WHOLE, mmap_mode="r").shape
        return Vectors([folder / WHOLE], max(1, shape[0]), shape)
    note = json.loads((folder / NOTE).read_text("utf-8"))
    starts = range(0, note["passages"], note["chunk"])
    files = [chunk_file(folder, start) for start in starts]
    return Vectors(files, note["chunk"], (note["passages"], note["dimension"]))


def chunk_file(folder: Path, start: int) -> Path:
    """Of the CHUNK passages from row ``start``."""
    return folder / f"chunk-{start}.npy"


def chunk_starts(count: int, shard: tuple[int, int] = (0, 1)) -> range:
    """First rows of the chunks of ``count`` passages, or of a shard of them.

    The shard (i, n) has the chunks i, i + n, …
    """
    number, shards = shard
    return range(number * CHUNK, count, shards * CHUNK)


def missing_chunks(folder: Path, count: int, shard: tuple[int, int] = (0, 1)) -> list[int]:
    """First rows of the chunks that are not in ``folder``."""
    starts = chunk_starts(count, shard)
    return [start for start in starts if not chunk_file(folder, start).exists()]


def write_chunk(folder: Path, start: int, vectors: np.ndarray) -> None:
    """A chunk's file, in fp16; it is there whole or not at all."""
    with finished_file(chunk_file(folder, start), "wb") as file:
        np.save(file, vectors.astype(np.float16))


def finish(folder: Path, shape: tuple[int, int]) -> None:
    """Notes that all chunks are there; what processes that were killed left of them goes."""
    for leftover in folder.glob("chunk-*.part"):
        leftover.unlink()
    count, dimension = shape
    write_json(folder / NOTE, {"passages": count, "dimension": dimension, "chunk": CHUNK})


def drop_joining(folder: Path) -> None:
    """Removes what an older version was making of chunks when it was stopped.

    The chunks that it had taken up are encoded again.
    """
    joining = folder / JOINING
    if joining.exists():
        say(f"  note: {joining}: was being joined by an older version; it is encoded again")
        joining.unlink()
