"""Memory and time of a training's data, by the number of pairs.

python -m benchmarks.training_data [PAIRS]     2 million by default

Prints what one process holds of its own (not shared with others) once the data stands, how long
that took, and how long a step of 256 pairs takes to be put together, for single pairs and for
groups of 8.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PER_QUERY = 100


def write(path: Path, count: int) -> None:
    """A parquet file of ``count`` pairs, 100 a query, one of them relevant."""
    import numpy as np
    import pyarrow
    import pyarrow.parquet

    random = np.random.Generator(np.random.PCG64(0))
    number = np.arange(count)
    passages = random.integers(0, count, count)
    columns = {
        "language": np.where(number // PER_QUERY % 2, "en", "sw"),
        "qid": (number // PER_QUERY).astype(str),
        "docid": np.char.add(np.char.add((passages // 7).astype(str), "#"), "3"),
        "label": (number % PER_QUERY == 0).astype(np.float32),
        "origin": np.where(number % PER_QUERY == 0, "judged", "top_negatives"),
        "round": np.zeros(count, np.int32),
        "teacher": np.full(count, ""),
        "reason": np.char.add("rank ", (number % PER_QUERY).astype(str)),
        "passage_language": np.full(count, ""),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def own_memory() -> int:
    """Bytes that this process shares with no other."""
    fields = dict(
        line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    )
    private = fields["Private_Dirty"]  # the mapped file's pages are clean
    return 1024 * int(private.split()[0])


def measure(folder: Path, size: int) -> dict:
    """One process's data: bytes, seconds until it stands, seconds a step."""
    import numpy  # noqa: F401
    import pyarrow.compute
    import pyarrow.parquet  # noqa: F401

    from core.groups import open_mapped, write_mapped
    from ranking.data import TrainingData

    before = own_memory()
    start = time.monotonic()
    mapped = folder / "groups.arrow"
    if not mapped.exists():
        write_mapped([folder / "draw-0.parquet"], mapped)
        return {"conversion": time.monotonic() - start}
    data = TrainingData(open_mapped(mapped), 0, 256 // size, size)
    stands = time.monotonic() - start
    start = time.monotonic()
    for step in range(20):
        part = data.part(step)
        data.draws[part.draw].pairs([int(row) for sample in part.samples for row in sample])
    return {
        "size": size,
        "own_megabytes": (own_memory() - before) / 1e6,
        "seconds": stands,
        "milliseconds_a_step": (time.monotonic() - start) / 20 * 1000,
    }


def main() -> None:
    """Each measurement in a process of its own."""
    if len(sys.argv) > 2:
        print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "draw-0.parquet", count)
        for size in (1, 1, 8):
            command = [sys.executable, "-m", "benchmarks.training_data", folder, str(size)]
            print(
                subprocess.run(command, capture_output=True, text=True, check=True).stdout, end=""
            )
        mapped = (Path(folder) / "groups.arrow").stat().st_size
        print(f"{count} pairs; the mapped file has {mapped / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
