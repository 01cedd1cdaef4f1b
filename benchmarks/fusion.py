"""How long fusion takes: random runs of many queries, each step timed.

    python -m benchmarks.fusion [QUERIES] [PASSAGES] [RUNS]

On a tenth of the queries beside ranx (min-max and sum, compiled).
"""

import sys
import time
from contextlib import contextmanager

import numpy as np

from core.evaluate import ndcg, relevant
from core.fusion import FUSIONS, NORMALISERS, align, fuse, normalised

DEFAULTS = (20000, 200, 10)


@contextmanager
def timed(what: str):
    """Prints how long the block took."""
    start = time.perf_counter()
    yield
    print(f"{what:32} {time.perf_counter() - start:7.2f} s", flush=True)


def random_runs(queries: int, passages: int, count: int) -> dict:
    """Every run scores the same candidates of a query, as rankers do."""
    random = np.random.default_rng(0)
    names = [f"d{i}" for i in range(10 * passages)]
    candidates = []
    for _ in range(queries):
        chosen = random.choice(len(names), passages, replace=False)
        candidates.append([names[i] for i in chosen])
    runs: dict = {}
    for number in range(count):
        run = runs[f"r{number}"] = {}
        for query, docids in enumerate(candidates):
            scores = random.normal(size=passages).tolist()
            run[f"q{query}"] = dict(zip(docids, scores, strict=True))
    return runs


def beside_ranx(runs: dict) -> None:
    """Fuses a tenth of the queries in both ways and prints the times."""
    import ranx

    few = {}
    for name, run in runs.items():
        few[name] = dict(list(run.items())[: max(1, len(run) // 10)])
    theirs = [ranx.Run(run) for run in few.values()]
    tiny = ranx.Run({"q": {"a": 1.0, "b": 2.0}})
    ranx.fuse([tiny] * 2, norm="min-max", method="sum")  # compiled before it is timed

    start = time.perf_counter()
    ranx.fuse(theirs, norm="min-max", method="sum")
    of_ranx = time.perf_counter() - start
    start = time.perf_counter()
    fuse(few, dict.fromkeys(few, 1.0), "minmax", "zero")
    ours = time.perf_counter() - start
    print(
        f"a tenth of the queries, dictionaries to a run: fuse {ours:.2f} s, "
        f"ranx {of_ranx:.2f} s, ratio {of_ranx / ours:.1f}"
    )


def main() -> None:
    given = [int(argument) for argument in sys.argv[1:]]
    queries, passages, count = (*given, *DEFAULTS[len(given) :])
    print(f"{queries} queries, {passages} candidates, {count} runs")
    runs = random_runs(queries, passages, count)
    with timed("dictionaries to an array"):
        aligned = align(runs)
    parts = normalised(aligned.scores, "minmax")
    for name in NORMALISERS:
        with timed(f"normaliser {name}"):
            normalised(aligned.scores, name)
    for name, fusion in FUSIONS.items():
        with timed(f"fusion {name}"):
            values = fusion(parts, [1.0] * count, "zero")
    with timed("array to a run"):
        aligned.run(values)
    qrels = {}
    for row, qid in enumerate(aligned.queries):
        first, second = aligned.docids[row][:2]
        qrels[qid] = {first: 1, second: 1}
    judged = relevant(aligned, qrels)
    with timed("nDCG@10 of all queries"):
        ndcg(values, judged)
    beside_ranx(runs)


if __name__ == "__main__":
    main()
