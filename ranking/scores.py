"""The score store: a score is known by its model, tokenizer, template, lengths, number format and the two texts, and is never made twice.

A folder a model and way of scoring, in it any number of segments that are written once and never changed, so many processes write
without locks, a stopped run leaves what it has, and a changed model never meets old scores.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.errors import InputError
from core.files import finished_file

KEY = np.dtype("S16")  # numpy cuts closing zero bytes where it hands one out, but compares all 16
SEGMENT = np.dtype([("key", KEY), ("score", "<f4")])


def keys(queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
    """128 bits a pair of texts."""
    found = (
        hashlib.blake2b(
            f"{len(q)} {q}{p}".encode("utf-8", "surrogatepass"), digest_size=16
        ).digest()
        for q, p in zip(queries, passages)
    )
    return np.frombuffer(b"".join(found), KEY)


class Scores:
    """The scores in a folder, as they are when it is opened, and those put in since."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.known = np.empty(0, SEGMENT)
        self.read: set[str] = set()
        self.refresh()

    def refresh(self) -> None:
        """Takes up the segments that other processes wrote."""
        new = [path for path in sorted(self.folder.glob("*.npy")) if path.name not in self.read]
        if new:
            self.add(*map(read_segment, new))
            self.read |= {path.name for path in new}

    def add(self, *segments: np.ndarray) -> None:
        both = np.concatenate([self.known, *segments])
        _, first = np.unique(both["key"], return_index=True)
        self.known = both[first]

    def get(self, wanted: np.ndarray) -> np.ndarray:
        """fp32, NaN where there is none."""
        found = np.full(len(wanted), np.nan, np.float32)
        if len(self.known):
            at = np.minimum(np.searchsorted(self.known["key"], wanted), len(self.known) - 1)
            there = self.known["key"][at] == wanted
            found[there] = self.known["score"][at[there]]
        return found

    def put(self, wanted: np.ndarray, scores: np.ndarray) -> None:
        """A new segment, named by its content."""
        segment = np.empty(len(wanted), SEGMENT)
        segment["key"], segment["score"] = wanted, scores
        name = hashlib.sha256(segment.tobytes()).hexdigest()[:16] + ".npy"
        with finished_file(self.folder / name, "wb") as file:
            np.save(file, segment)
        self.read.add(name)
        self.add(segment)


def read_segment(path: Path) -> np.ndarray:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise InputError(
            f"{path}: not a whole segment of scores; remove it, its pairs are scored again"
        ) from None
    if found.dtype != SEGMENT:
        raise InputError(
            f"{path}: found {found.dtype}, expected {SEGMENT}; remove it, its pairs are scored again"
        )
    return found
