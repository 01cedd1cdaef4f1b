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
vectors = np.load(sys.argv[1], mmap_mode="r")
class Names:
    def __len__(self): return len(vectors)
    def docid(self, row): return f"d{row}"
queries = np.random.default_rng(1).normal(size=(100, vectors.shape[1])).astype(np.float32)
start = time.perf_counter()
dense.search(vectors, Names(), [Query(str(i), "") for i in range(100)], queries, 1000)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(f"{time.perf_counter() - start:.1f} s for 100 queries, peak memory {peak:.2f} GB")
"""


def steps(passages: int, layers: int) -> dict[str, tuple[float, float]]:
    """Kind of step -> seconds, peak GB."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "scale.yaml"
        config.write_text(
            CONFIG.format(cities=max(0, (passages - 2500) // 30), layers=layers, work=folder)
        )
        subprocess.run(
            [sys.executable, "-m", "retrieval.search", str(config)], check=True, capture_output=True
        )
        found: dict[str, list] = defaultdict(lambda: [0.0, 0.0])
        for entry in map(
            json.loads, (Path(folder) / "atlas" / "scale" / "log.jsonl").read_text().splitlines()
        ):
            kind = found[entry["step"].split("/")[0]]
            kind[0], kind[1] = kind[0] + entry["seconds"], max(kind[1], entry["peak_bytes"] / 1e9)
        count = sum(
            json.loads(p.read_text())["passages"]
            for p in Path(folder).glob("atlas/shared/retrieval/passages-*/count.json")
        )
        return {"count": (count, 0.0), **{k: (v[0], v[1]) for k, v in found.items()}}


def plot(found: dict[int, dict[str, tuple[float, float]]], target: Path) -> None:
    """Seconds and peak memory of each kind of step by passages.

    A dotted line is time in proportion to them.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "continuum"
    from matplotlib import pyplot

    sizes, (time, memory) = (
        sorted(found),
        pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")[1],
    )
    for kind in (k for k, (seconds, _) in found[sizes[-1]].items() if seconds >= 1):
        time.loglog(sizes, [found[n][kind][0] for n in sizes], marker="o", label=kind)
        memory.semilogx(sizes, [found[n][kind][1] for n in sizes], marker="o", label=kind)
    longest = max(v[0] for v in found[sizes[-1]].values())
    time.loglog(
        sizes, [longest * n / sizes[-1] for n in sizes], ":", color="grey", label="in proportion"
    )
    for axes, title in ((time, "seconds"), (memory, "peak memory of the process so far, GB")):
        axes.set(title=title, xlabel="passages")
    memory.set_ylim(0)
    time.legend(fontsize="small")
    pyplot.savefig(target, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    parser.add_argument("passages", nargs="*", type=int, default=[10_000, 100_000])
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--plot", type=Path)
    options, all_found = parser.parse_args(), {}
    for size in options.passages:
        found = steps(size, options.layers)
        count = int(found.pop("count")[0])
        all_found[count] = found
        print(
            f"{count} passages: "
            + ", ".join(
                f"{kind} {seconds:.1f} s ({1e6 * seconds / count:.0f} µs a passage, {peak:.1f} GB)"
                for kind, (seconds, peak) in found.items()
            ),
            flush=True,
        )
    if options.plot:
        plot(all_found, options.plot)
    with tempfile.TemporaryDirectory() as folder:
        import numpy as np

        target = Path(folder) / "vectors.npy"
        vectors, random = (
            np.lib.format.open_memmap(target, "w+", np.float16, (options.vectors, 384)),
            np.random.default_rng(0),
        )
        for start in range(0, options.vectors, 100_000):
            vectors[start : start + 100_000] = random.normal(
                size=vectors[start : start + 100_000].shape
            )
        vectors.flush()
        print(
            f"exact search of {options.vectors} memory-mapped vectors: "
            + subprocess.run(
                [sys.executable, "-c", SEARCH, str(target)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout.strip()
        )


if __name__ == "__main__":
    main()
