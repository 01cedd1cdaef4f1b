"""Indexes that others made: Pyserini's prebuilt ones by name, from Pyserini's cache or downloaded.

Lucene's for BM25, and FAISS's flat ones of dense vectors. Pyserini looks in ``$PYSERINI_CACHE``
(``~/.cache/pyserini`` without it), and checks what it downloads by its digest.
"""

import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from core.config import nearest
from core.errors import InputError
from core.files import write_json
from core.passages import Passages
from core.settings import Prebuilt
from retrieval import jvm

SPARSE = "retrieval.bm25.prebuilt"
DENSE = "retrieval.dense.prebuilt"
LANGUAGE = "LANG"  # what stands for the language in a name
LINK = "index"  # in a step's folder: where the index is
NOTE = "prebuilt.json"
ROWS = "rows.npy"  # passage's row in the store -> by the vector's row in the index
SAMPLED = 1000  # passages of a Lucene index that are looked up in the collection
AT_ONCE = 65536  # docids of a FAISS index


def name_of(prebuilt: Prebuilt, language: str) -> str | None:
    """The index that a setting names for a language; None: it is made here."""
    if isinstance(prebuilt, dict):
        return prebuilt.get(language)
    return prebuilt.replace(LANGUAGE, language) if prebuilt else None


def entry_of(kind: str, setting: str, name: str, heap: str) -> dict[str, Any]:
    """What Pyserini knows of an index. ``kind``: TF (Lucene) or FAISS.

    It asks Anserini, so Java is started. Raises InputError for a name that it does not know.
    """
    jvm.running(heap)  # pyserini would start another one
    from pyserini import prebuilt_index_info

    known = getattr(prebuilt_index_info, f"{kind}_INDEX_INFO")
    if name not in known:
        near = nearest(name, known)
        hint = f"; did you mean {near}?" if near else ""
        raise InputError(
            f"{setting}: found {name!r}, expected the name of one of Pyserini's prebuilt indexes "
            f"({kind}), in which {LANGUAGE} stands for the language{hint}"
        )
    return known[name]


def known_by(kind: str, setting: str, name: str, heap: str) -> dict[str, str]:
    """What decides a step that takes an index: its name, and its digest as Pyserini has it."""
    return {"prebuilt": name, "md5": entry_of(kind, setting, name, heap)["md5"]}


def is_taken(folder: Path) -> bool:
    """Whether a finished step took an index instead of making one."""
    return (folder / NOTE).exists()


def take(kind: str, setting: str, name: str, folder: Path, heap: str) -> Path:
    """Notes an index in a step's folder, with a link to where it is; downloaded if need be.

    Raises InputError where it can be neither found nor downloaded.
    """
    entry = entry_of(kind, setting, name, heap)
    place = found(entry, setting, name)
    (folder / LINK).unlink(missing_ok=True)
    (folder / LINK).symlink_to(place.resolve(), target_is_directory=True)
    write_json(folder / NOTE, {"prebuilt": name, "path": str(place)})
    return folder / LINK


def found(entry: dict[str, Any], setting: str, name: str) -> Path:
    """The index's folder in Pyserini's cache."""
    from pyserini.util import download_prebuilt_index, get_cache_home

    stem = entry.get("filename", entry["urls"][0].split("/")[-1]).removesuffix(".tar.gz")
    place = Path(get_cache_home()) / "indexes" / f"{stem}.{entry['md5']}"
    if place.is_dir():
        return place
    try:
        return Path(download_prebuilt_index(name))
    except (OSError, ValueError, AssertionError, tarfile.TarError) as error:
        raise InputError(
            f"{setting}: {name} is not in Pyserini's cache as {place}, and Pyserini could not "
            f"download it ({error}); fetch it where there is a network and set PYSERINI_CACHE, or "
            f"leave {setting} out"
        ) from None


def link_of(folder: Path) -> Path:
    """Where the index of a finished step is. Raises InputError where it is gone since."""
    link = folder / LINK
    if link.is_symlink() and not link.exists():
        raise InputError(
            f"{link}: the prebuilt index {link.readlink()} is gone; fetch it again, or remove "
            f"{folder} and run the retrieval stage again"
        )
    return link


def check_count(setting: str, name: str, count: int, passages: Passages, language: str) -> None:
    """Raises InputError for an index of more or fewer passages than the collection's."""
    if count != len(passages):
        raise InputError(
            f"{setting}: {name} holds {count} passages, expected the {len(passages)} of "
            f"{language}: it is an index of another collection"
        )


def check_docids(
    setting: str, name: str, docids: list[str], passages: Passages, language: str
) -> np.ndarray:
    """The rows of an index's docids. Raises InputError for one that the collection lacks."""
    rows = passages.rows(docids, strict=False)
    if (rows < 0).any():
        unknown = docids[int(np.argmax(rows < 0))]
        raise InputError(
            f"{setting}: {name} holds a passage {unknown!r} that {language} has not: "
            "it is an index of another collection"
        )
    return rows


# ---- Lucene


def check_lucene(reader: Any, utilities: Any, name: str, passages: Passages, language: str) -> None:
    """Its number of passages, and the docids of some of them, all over the index."""
    check_count(SPARSE, name, reader.numDocs(), passages, language)
    every = max(1, len(passages) // SAMPLED)
    docids = []
    for number in range(0, len(passages), every):
        docids.append(utilities.convertLuceneDocidToDocid(reader, number))
    check_docids(SPARSE, name, docids, passages, language)


# ---- FAISS


class Taken:
    """A FAISS index's flat vectors, fp32 [passages, dimension], mapped, and the docids of its rows.

    ``folder``: of a finished step.
    """

    def __init__(self, folder: Path, passages: Passages):
        self.index = flat_index(link_of(folder))  # whose memory the vectors are
        self.vectors = vectors_of(self.index)
        self.rows = np.load(folder / ROWS, mmap_mode="r")
        self.passages = passages

    def __len__(self) -> int:
        return len(self.rows)

    def docid(self, row: int) -> str:
        """Of a row of the index."""
        return self.passages.docid(int(self.rows[row]))


def take_vectors(name: str, passages: Passages, language: str, folder: Path, heap: str) -> None:
    """Takes an index's vectors as those of a language's passages, all of its docids checked."""
    place = take("FAISS", DENSE, name, folder, heap)
    check_count(DENSE, name, flat_index(place).ntotal, passages, language)
    rows = np.empty(len(passages), np.int64)
    start = 0
    for docids in read_docids(place / "docid"):
        end = start + len(docids)
        if end > len(rows):
            break
        rows[start:end] = check_docids(DENSE, name, docids, passages, language)
        start = end
    if start != len(rows) or len(np.unique(rows)) != len(rows):
        raise InputError(
            f"{DENSE}: {name}: {place / 'docid'}: expected the {len(rows)} docids of {language}, "
            "each once; fetch the index again"
        )
    np.save(folder / ROWS, rows)


def read_docids(file: Path) -> Iterator[list[str]]:
    """A docid a line, AT_ONCE at a time."""
    with file.open(encoding="utf-8") as lines:
        while some := [line.rstrip("\n") for line in islice(lines, AT_ONCE)]:
            yield some


def flat_index(place: Path) -> Any:
    """The index of a folder as Pyserini keeps it, mapped.

    Raises InputError for one that is missing, and for one of another kind: what that holds are no
    vectors that could be searched exactly.
    """
    import faiss

    file = place / "index"
    if not (file.is_file() and (place / "docid").is_file()):
        raise InputError(f"{DENSE}: {place}: expected the files index and docid; fetch it again")
    index: Any = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
    if not isinstance(index, faiss.IndexFlat) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise InputError(
            f"{DENSE}: {file}: found an {type(index).__name__}, expected an IndexFlatIP"
        )
    return index


def vectors_of(index: Any) -> np.ndarray:
    """A flat index's vectors: a view, fp32 [passages, dimension]."""
    import faiss

    flat = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d)
    return flat.reshape(index.ntotal, index.d)
