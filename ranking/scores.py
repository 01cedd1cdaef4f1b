"""The score store: no score is made twice.

A score is known by its model, tokenizer, template, lengths, number format and the two texts. There
is a folder a model and way of scoring, in it any number of segments that are written once and never
changed: many processes write without locks, a stopped run leaves what it has, and a changed model
never meets old scores.
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
    """KEY [pairs]: 128 bits of each pair's texts."""
    digests = []
    for query, passage in zip(queries, passages, strict=True):
        text = f"{len(query)} {query}{passage}".encode("utf-8", "surrogatepass")
        digests.append(hashlib.blake2b(text, digest_size=16).digest())
    return np.frombuffer(b"".join(digests), KEY)


class Scores:
    """The scores in a folder, as they are when it is opened, and those put in since."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.known = np.empty(0, SEGMENT)  # by key
        self.read: set[str] = set()  # names of segments
        self.refresh()

    def refresh(self) -> None:
        """Takes up the segments that other processes wrote."""
        new = [path for path in sorted(self.folder.glob("*.npy")) if path.name not in self.read]
        if new:
            self.add(*map(read_segment, new))
            self.read.update(path.name for path in new)

    def add(self, *segments: np.ndarray) -> None:
        """Takes scores into memory; of two of a key the first stays."""
        both = np.concatenate([self.known, *segments])
        _, first = np.unique(both["key"], return_index=True)
        self.known = both[first]

    def get(self, wanted: np.ndarray) -> np.ndarray:
        """fp32 [wanted], NaN where there is none."""
        scores = np.full(len(wanted), np.nan, np.float32)
        if len(self.known):
            # Behind the last key there is none: what is looked up there is another's
            places = np.searchsorted(self.known["key"], wanted)
            places = np.minimum(places, len(self.known) - 1)
            is_known = self.known["key"][places] == wanted
            scores[is_known] = self.known["score"][places[is_known]]
        return scores

    def put(self, wanted: np.ndarray, scores: np.ndarray) -> None:
        """A new segment of scores under the keys ``wanted``, named by its content."""
        segment = np.empty(len(wanted), SEGMENT)
        segment["key"] = wanted
        segment["score"] = scores
        name = name_of(segment)
        with finished_file(self.folder / name, "wb") as file:
            np.save(file, segment)
        self.read.add(name)
        self.add(segment)


def read_segment(path: Path) -> np.ndarray:
    """SEGMENT [scores] of a file. Raises InputError if it is none, or is cut off."""
    try:
        segment = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise InputError(
            f"{path}: not a whole segment of scores; remove it, its pairs are scored again"
        ) from None
    if segment.dtype != SEGMENT:
        raise InputError(
            f"{path}: found {segment.dtype}, expected {SEGMENT}; "
            "remove it, its pairs are scored again"
        )
    if name_of(segment) != path.name:
        raise InputError(
            f"{path}: its scores are not those that it was written with; "
            "remove it, its pairs are scored again"
        )
    return segment


def name_of(segment: np.ndarray) -> str:
    """A segment's file, named by the content."""
    return f"{hashlib.sha256(segment.tobytes()).hexdigest()[:16]}.npy"
