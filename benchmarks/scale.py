"""The first stage as the collection grows.

Time and peak memory of each step on the atlas with city passages, and a search at a million.

    python -m benchmarks.scale [PASSAGES …] [--layers 1] [--vectors 1000000] [--plot FILE.svg]

Each size is a retrieval run in a work folder of its own. Vectors come from the first layers of the
embedded model (time goes with layers). The last part searches random memory-mapped vectors, in a
process of its own, for what it needs of memory. Plotting needs matplotlib.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

CONFIG = """
collection: {{source: atlas, atlas: {{countries: 50, cities: {cities}, queries: 40}}}}
retrieval: {{depth: 200, dense: {{layers: {layers}, max_length: 64}}}}
work: {work}
"""
SEARCH = """
import resource, sys, time
import numpy as np
from core.passages import Passages
from core.records import Query
from retrieval import dense
vectors = np.load(sys.argv[1], mmap_mode="c")
class Names:
    def __len__(self): return len(vectors)
    def docid(self, row): return f"d{row}"
queries = np.random.default_rng(1).normal(size=(100, vectors.shape[1])).astype(np.float32)
start = time.perf_counter()
dense.search(vectors, Names(), [Query(str(i), "") for i in range(100)], queries, 1000)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(f"{time.perf_counter() - start:.1f} s for 100 queries, peak memory {peak:.2f} GB")
"""


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


def random_vectors(count: int, target: Path) -> None:
    """Writes fp16 [count, 384], 100,000 at a time."""
    import numpy as np

    vectors = np.lib.format.open_memmap(target, "w+", np.float16, (count, 384))
    random = np.random.default_rng(0)
    for start in range(0, count, 100_000):
        block = vectors[start : start + 100_000]
        block[:] = random.normal(size=block.shape)
    vectors.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    parser.add_argument("passages", nargs="*", type=int, default=[10_000, 100_000])
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    costs: dict[int, dict[str, Cost]] = {}
    for size in options.passages:
        count, by_kind = cost_of_steps(size, options.layers)
        costs[count] = by_kind
        parts = []
        for kind, (seconds, peak) in by_kind.items():
            each = 1e6 * seconds / count
            parts.append(f"{kind} {seconds:.1f} s ({each:.0f} µs a passage, {peak:.1f} GB)")
        print(f"{count} passages: {', '.join(parts)}", flush=True)
    if options.plot:
        plot(costs, options.plot)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "vectors.npy"
        random_vectors(options.vectors, target)
        command = [sys.executable, "-c", SEARCH, str(target)]
        searched = subprocess.run(command, check=True, capture_output=True, text=True)
        figures = searched.stdout.strip()
        print(f"exact search of {options.vectors} memory-mapped vectors: {figures}")


if __name__ == "__main__":
    main()
