"""The first stage as the collection grows.

Time and peak memory of each step on the atlas with city passages, and a search at a million.

    python -m benchmarks.scale [PASSAGES …] [--layers 1] [--vectors 1000000 …] [--plot FILE.svg]

Each size is a retrieval run in a work folder of its own. Vectors come from the first layers of the
embedded model (time goes with layers). The last part searches random vectors in chunks, in a
process of its own, for what it needs of time and memory: of many chunks most are links to the
first, so the time of a disk is not in it. With ``0`` for PASSAGES it is all. Plotting needs
matplotlib.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from retrieval import vectors

CONFIG = """
collection: {{source: atlas, atlas: {{countries: 50, cities: {cities}, queries: 40}}}}
retrieval: {{depth: 200, dense: {{layers: {layers}, max_length: 64}}}}
work: {work}
"""
SEARCH = """
import sys, time
from pathlib import Path
import numpy as np
import torch
from core.machine import peak_memory
from core.records import Query
from retrieval import dense, vectors
stored = vectors.open_vectors(Path(sys.argv[1]))
class Names:
    def __len__(self): return len(stored)
    def docid(self, row): return f"d{row}"
queries = np.random.default_rng(1).normal(size=(100, stored.shape[1])).astype(np.float32)
start, of_cpu = time.perf_counter(), time.process_time()
dense.search(stored, Names(), [Query(str(i), "") for i in range(100)], queries, 1000)
wall, cpu = time.perf_counter() - start, time.process_time() - of_cpu
memory = f"peak memory {peak_memory() / 1e9:.2f} GB"
print(f"{wall:.1f} s ({cpu:.1f} s of CPU) for 100 queries, {memory}")
"""


DISTINCT = 64  # chunks of vectors that are drawn
COUNTRY_PASSAGES = 2500  # of the atlas in all languages, beside those of cities
CITY_PASSAGES = 30  # of each city in all languages


class Cost(NamedTuple):
    """What a kind of step takes."""

    seconds: float
    peak: float  # GB, of the process until then


def cost_of_steps(passages: int, layers: int) -> tuple[int, dict[str, Cost]]:
    """How many passages there are at last, and the cost of each kind of step."""
    cities = max(0, (passages - COUNTRY_PASSAGES) // CITY_PASSAGES)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "scale.yaml"
        config.write_text(CONFIG.format(cities=cities, layers=layers, work=folder))
        command = [sys.executable, "-m", "retrieval.search", str(config)]
        subprocess.run(command, check=True, capture_output=True)

        seconds: dict[str, float] = defaultdict(float)
        peaks: dict[str, float] = defaultdict(float)
        log = Path(folder) / "atlas" / "scale" / "log.jsonl"
        for line in log.read_text("utf-8").splitlines():
            entry = json.loads(line)
            kind = entry["step"].split("/")[0]
            seconds[kind] += entry["seconds"]
            peaks[kind] = max(peaks[kind], entry["peak_bytes"] / 1e9)
        count = 0
        for file in Path(folder).glob("atlas/shared/retrieval/passages-*/count.json"):
            count += json.loads(file.read_text())["passages"]
    return count, {kind: Cost(seconds[kind], peaks[kind]) for kind in seconds}


def plot(costs: dict[int, dict[str, Cost]], target: Path) -> None:
    """Seconds and peak memory of each kind of step by passages.

    A dotted line is time in proportion to them.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "continuum"
    from matplotlib import pyplot

    sizes = sorted(costs)
    largest = sizes[-1]
    _, (time, memory) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for kind, cost in costs[largest].items():
        if cost.seconds >= 1:
            seconds = [costs[size][kind].seconds for size in sizes]
            peaks = [costs[size][kind].peak for size in sizes]
            time.loglog(sizes, seconds, marker="o", label=kind)
            memory.semilogx(sizes, peaks, marker="o", label=kind)
    longest = max(cost.seconds for cost in costs[largest].values())
    in_proportion = [longest * size / largest for size in sizes]
    time.loglog(sizes, in_proportion, ":", color="grey", label="in proportion")
    time.set(title="seconds", xlabel="passages")
    memory.set(title="peak memory of the process so far, GB", xlabel="passages")
    memory.set_ylim(0)
    time.legend(fontsize="small")
    pyplot.savefig(target, metadata={"Date": None})


def random_vectors(count: int, folder: Path) -> None:
    """Chunks of fp16 [count, 384]; those after the first DISTINCT are links to them."""
    import numpy as np

    random = np.random.default_rng(0)
    for number, start in enumerate(vectors.chunk_starts(count)):
        rows = min(vectors.CHUNK, count - start)
        if number < DISTINCT or rows < vectors.CHUNK:
            vectors.write_chunk(folder, start, random.normal(size=(rows, 384)))
        else:
            first = vectors.chunk_file(folder, number % DISTINCT * vectors.CHUNK)
            vectors.chunk_file(folder, start).hardlink_to(first)
    vectors.finish(folder, (count, 384))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    parser.add_argument("passages", nargs="*", type=int, default=[10_000, 100_000])
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--vectors", nargs="+", type=int, default=[1_000_000])
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    costs: dict[int, dict[str, Cost]] = {}
    for size in filter(None, options.passages):
        count, by_kind = cost_of_steps(size, options.layers)
        costs[count] = by_kind
        parts = []
        for kind, (seconds, peak) in by_kind.items():
            each = 1e6 * seconds / count
            parts.append(f"{kind} {seconds:.1f} s ({each:.0f} µs a passage, {peak:.1f} GB)")
        print(f"{count} passages: {', '.join(parts)}", flush=True)
    if options.plot:
        plot(costs, options.plot)
    for count in options.vectors:
        with tempfile.TemporaryDirectory() as folder:
            random_vectors(count, Path(folder))
            command = [sys.executable, "-c", SEARCH, folder]
            searched = subprocess.run(command, check=True, capture_output=True, text=True)
            figures = searched.stdout.strip()
            print(f"exact search of {count} vectors in chunks: {figures}", flush=True)


if __name__ == "__main__":
    main()
