"""What the passage store costs: python -m benchmarks.passages [PASSAGES]

City articles of the embedded collection, in as many languages as it takes, stream into one store
(docids get the language in front).
"""

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from core.files import size_on_disk
from core.passages import Passages, build_passages
from core.records import Document
from core.sources import atlas

ALL_CITIES = 10**6  # more than there are


def all_documents() -> Iterator[Document]:
    for language in atlas.KNOWN + atlas.SURPRISE:
        for document in atlas.city_documents(language, ALL_CITIES):
            yield document._replace(docid=f"{language}{document.docid}")


def documents(count: int) -> Iterator[Document]:
    return islice(all_documents(), count)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    before = peak()
    start = time.monotonic()
    made = sum(1 for _ in documents(count))
    generated = time.monotonic() - start
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        build_passages(documents(count), Path(folder))
        built = time.monotonic() - start - generated
        print(
            f"{made} passages, store built in {built:.1f} s (and {generated:.1f} s to generate "
            f"them), {size_on_disk(Path(folder)) / 1e6:.0f} MB on disk, "
            f"peak memory {peak() / 1e6:.0f} MB (before: {before / 1e6:.0f} MB)"
        )
        store = Passages(Path(folder))
        rows = np.random.default_rng(0).integers(made, size=20000)
        docids = [store.docid(int(row)) for row in rows]
        start = time.monotonic()
        characters = sum(len(store.text(docid)) for docid in docids)
        texts_a_second = len(docids) / (time.monotonic() - start)
        print(
            f"{texts_a_second:.0f} texts a second by docid, one at a time "
            f"({characters / len(docids):.0f} characters each)"
        )
        start = time.monotonic()
        store.rows(docids)
        rows_a_second = len(docids) / (time.monotonic() - start)
        print(f"{rows_a_second:.0f} rows a second by docid, all at once")


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
