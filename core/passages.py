"""Passages of a language by docid, in a memory-mapped store."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from core.console import progress
from core.errors import InputError
from core.files import write_json
from core.records import Document


def document_text(document: Document) -> str:
    """The one join of title and text: a newline between them, none without a title."""
    return f"{document.title}\n{document.text}" if document.title else document.text


class Passages:
    """Passages of one language by row (corpus order) or docid, memory-mapped.

    On disk a passage costs its text, its docid padded to the longest, and 16 bytes (offset, sort
    order). A process pays for the pages that it touches: opening costs nothing, a look-up a binary
    search. Figures for a million passages: docs/RESULTS.md.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.docids = np.load(self.folder / "docids.npy", mmap_mode="r")
        self.order = np.load(self.folder / "order.npy", mmap_mode="r")
        self.offsets = np.load(self.folder / "offsets.npy", mmap_mode="r")

    @cached_property
    def texts(self) -> np.ndarray:
        """All titles and texts as bytes, mapped on first use."""
        return np.memmap(self.folder / "texts.bin", np.uint8, "r")

    def __len__(self) -> int:
        return len(self.docids)

    def docid(self, row: int) -> str:
        """The docid of a row."""
        return self.docids[row].decode("utf-8")

    def rows(self, docids: Sequence[str], strict: bool = True) -> np.ndarray:
        """Rows of ``docids``; an unknown one is an InputError, or -1 where not strict."""
        if not len(docids):
            return np.zeros(0, np.int64)
        keys = np.array([docid.encode("utf-8") for docid in docids], dtype=np.bytes_)
        places = np.searchsorted(self.docids, keys, sorter=self.order)
        places = np.minimum(places, len(self) - 1)  # a docid after the last one has none
        nearest = np.asarray(self.order[places])
        rows = np.where(self.docids[nearest] == keys, nearest, -1)
        is_unknown = rows < 0
        if strict and is_unknown.any():
            unknown = docids[int(np.argmax(is_unknown))]
            raise InputError(
                f"{self.folder}: no passage {unknown}; the docid is of another collection"
            )
        return rows

    def document(self, row: int) -> Document:
        """The passage of a row."""
        start, end = self.offsets[row], self.offsets[row + 1]
        content = bytes(self.texts[start:end])
        title, text = content.decode("utf-8").split("\0", 1)
        return Document(self.docid(row), title, text)

    def text(self, docid: str) -> str:
        """Title and text of a docid. Raises InputError for an unknown one."""
        row = int(self.rows([docid])[0])
        return document_text(self.document(row))

    def documents(self) -> Iterator[Document]:
        """All passages in the corpus's order."""
        return map(self.document, range(len(self)))


def build_passages(documents: Iterable[Document], folder: Path) -> int:
    """Writes a Passages folder from a stream; gives the number of passages.

    Memory: 32 bytes and a docid a passage. Raises InputError for a docid given twice, and for a
    corpus without passages.
    """
    offsets = array("q", [0])
    lengths = array("i")  # of the docids, in bytes
    docids_file = folder / "docids.bin"
    with (folder / "texts.bin").open("wb") as texts, docids_file.open("wb") as names:
        for document in progress(documents, what="passages", unit="passage"):
            title = document.title.replace("\0", " ")  # a zero byte ends it
            size = texts.write(f"{title}\0{document.text}".encode())
            offsets.append(offsets[-1] + size)
            lengths.append(names.write(document.docid.encode()))
    if not lengths:
        raise InputError(f"{folder.name}: the corpus holds no passage")
    docids = read_docids(docids_file, lengths)
    docids_file.unlink()
    order = np.argsort(docids, kind="stable")
    refuse_doubles(docids, order, folder.name)
    np.save(folder / "docids.npy", docids)
    np.save(folder / "order.npy", order)
    np.save(folder / "offsets.npy", np.array(offsets, np.int64))
    write_json(folder / "count.json", {"passages": len(lengths), "text_bytes": offsets[-1]})
    return len(lengths)


def read_docids(path: Path, lengths: Sequence[int]) -> np.ndarray:
    """Docids that lie in a file one after another, padded to the longest; ``lengths`` in bytes."""
    width = max(1, max(lengths))
    docids = np.empty(len(lengths), f"S{width}")
    with path.open("rb") as names:
        for row, length in enumerate(lengths):
            docids[row] = names.read(length)
    return docids


def refuse_doubles(docids: np.ndarray, order: np.ndarray, name: str) -> None:
    """Raises InputError for docids that stand twice; ``order`` sorts them."""
    is_double = docids[order[1:]] == docids[order[:-1]]
    doubles = np.flatnonzero(is_double)
    if len(doubles):
        first = [docids[order[place]].decode() for place in doubles[:5]]
        raise InputError(
            f"passages {name}: docids given twice: {len(doubles)}, first {', '.join(first)}; "
            "a docid names one passage of a language"
        )
