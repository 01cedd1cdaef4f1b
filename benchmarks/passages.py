"""What the passage store costs: python -m benchmarks.passages [PASSAGES]

City articles of the embedded collection, in as many languages as it takes, stream into one store
(docids get the language in front).
"""

import resource
import sys
import tempfile
import time
from itertools import chain, islice
from pathlib import Path

import numpy as np

from core.files import size_on_disk
from core.passages import Passages, build_passages
from core.sources import atlas


def documents(count: int):
    stream = chain.from_iterable(
        (d._replace(docid=f"{la}{d.docid}") for d in atlas.city_documents(la, 10**6))
        for la in atlas.KNOWN + atlas.SURPRISE
    )
    return islice(stream, count)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    before, start = peak(), time.monotonic()
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
        store, random = Passages(Path(folder)), np.random.default_rng(0)
        docids = [store.docid(int(r)) for r in random.integers(made, size=20000)]
        start = time.monotonic()
        characters = sum(len(store.text(d)) for d in docids)
        texts_a_second = len(docids) / (time.monotonic() - start)
        print(
            f"{texts_a_second:.0f} texts a second by docid, one at a time "
            f"({characters / len(docids):.0f} characters each)"
        )
        start = time.monotonic()
        store.rows(docids)
        print(f"{len(docids) / (time.monotonic() - start):.0f} rows a second by docid, all at once")


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
