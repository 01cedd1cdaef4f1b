"""How long fusion takes: random runs of many queries, each step timed.

A tenth of the queries are fused beside ranx, too (min-max and sum, compiled).

    python -m benchmarks.fusion [QUERIES] [PASSAGES] [RUNS]
"""

import sys
import time
from contextlib import contextmanager

import numpy as np

from core.evaluate import ndcg, relevant
from core.fusion import FUSIONS, NORMALISERS, align, fuse, normalised


@contextmanager
def timed(what: str):
    start = time.perf_counter()
    yield
    print(f"{what:32} {time.perf_counter() - start:7.2f} s", flush=True)


def random_runs(queries: int, passages: int, count: int) -> dict:
    """Every run scores the same candidates of a query, as rankers do."""
    random = np.random.default_rng(0)
    names = [f"d{i}" for i in range(10 * passages)]
    candidates = [
        [names[i] for i in random.choice(len(names), passages, replace=False)]
        for _ in range(queries)
    ]
    return {
        f"r{r}": {
            f"q{q}": dict(zip(docs, random.normal(size=passages).tolist(), strict=True))
            for q, docs in enumerate(candidates)
        }
        for r in range(count)
    }


def beside_ranx(runs: dict) -> None:
    import ranx

    few = {n: dict(list(run.items())[: max(1, len(run) // 10)]) for n, run in runs.items()}
    theirs = [ranx.Run(run) for run in few.values()]
    # compiled before it is timed
    ranx.fuse([ranx.Run({"q": {"a": 1.0, "b": 2.0}})] * 2, norm="min-max", method="sum")
    times = {}
    for name, work in (
        ("ranx", lambda: ranx.fuse(theirs, norm="min-max", method="sum")),
        ("fuse", lambda: fuse(few, dict.fromkeys(few, 1.0), "minmax", "zero")),
    ):
        start = time.perf_counter()
        work()
        times[name] = time.perf_counter() - start
    print(
        f"a tenth of the queries, dictionaries to a run: fuse {times['fuse']:.2f} s, "
        f"ranx {times['ranx']:.2f} s, ratio {times['ranx'] / times['fuse']:.1f}"
    )


def main() -> None:
    queries, passages, count = (
        int(a) for a in (*sys.argv[1:], *("20000", "200", "10")[len(sys.argv) - 1 :])
    )
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
    judged = relevant(
        aligned,
        {
            q: {aligned.docids[i][0]: 1, aligned.docids[i][1]: 1}
            for i, q in enumerate(aligned.queries)
        },
    )
    with timed("nDCG@10 of all queries"):
        ndcg(values, judged)
    beside_ranx(runs)


if __name__ == "__main__":
    main()
