"""BM25's k1 and b, a language at a time, by grid on train or dev: a configuration layer, and what it gains.

    python -m retrieval.tune CONFIG [key=value …] [--split dev] [--metric nDCG@10] [--out FILE]

Writes a YAML layer to put under ``extends:``. Half of the queries choose, the other half show the gain: figures that were tuned on their own
queries flatter. The layer holds the values that all queries together choose.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import yaml

from core.building import run_steps
from core.config import from_arguments
from core.console import progress, say
from core.distributed import generator
from core.errors import InputError, exit_with_message
from core.evaluate import evaluate
from core.files import finished_file
from core.task import Task
from retrieval import bm25, retrievers, search

K1 = (0.4, 0.6, 0.9, 1.2, 1.6, 2.0)
B = (0.1, 0.3, 0.4, 0.6, 0.75, 0.9)
Point = tuple[float, float]


def best(values: Mapping[Point, Mapping[str, float]], qids: Sequence[str], default: Point) -> Point:
    """The point of the best mean over ``qids``: the default where none is better, then the first."""
    means = {point: fmean(by_query[q] for q in qids) for point, by_query in values.items()}
    top = max(means.values())
    return (
        default
        if means[default] > top - 1e-9
        else next(point for point in means if means[point] == top)
    )


def held_out_gain(
    values: Mapping[Point, Mapping[str, float]],
    halves: tuple[Sequence[str], Sequence[str]],
    default: Point,
) -> float:
    """Each half is measured at the point that the other half chooses: mean gain over the default."""
    gains = []
    for learn, held in (halves, halves[::-1]):
        point = best(values, learn, default)
        gains += [values[point][q] - values[default][q] for q in held]
    return fmean(gains)


def grid_values(
    task: Task, language: str, split: str, metric: str
) -> dict[Point, dict[str, float]]:
    """(k1, b) -> query -> value. Lucene scores at search time, so one index serves the grid."""
    s, qrels = task.config.retrieval.bm25, task.judgments(language, split)
    points = list(
        dict.fromkeys(
            [retrievers.bm25_parameters(task, language), *((k1, b) for k1 in K1 for b in B)]
        )
    )
    queries = [q for q in task.queries(language, split) if q.qid in qrels]
    found = {}
    for k1, b in progress(points, what=f"BM25 {language}", unit="point"):
        searcher = bm25.open_searcher(
            language, search.plan(task)[f"bm25-index/{language}"].path, k1, b, s.heap
        )
        run = bm25.search(
            searcher, language, queries, min(100, task.config.retrieval.depth), s.heap, s.threads
        )
        found[k1, b] = evaluate(run, qrels, [metric])[metric]
    return found


def tune(task: Task, split: str, metric: str) -> dict[str, dict]:
    """Language -> the chosen point, its mean, the default's, and the held-out gain. Test judgments choose nothing."""
    if split == task.config.splits.test:
        raise InputError(
            f"--split {split}: test judgments choose nothing; expected {task.config.splits.train} or {task.config.splits.dev}"
        )
    languages = [la for la, s in task.pairs(split) if (la, s) in task.collection.qrels]
    if not languages:
        raise InputError(f"{task.collection.root}: no language has judgments for {split}")
    found = {}
    for la in languages:
        values, default = grid_values(task, la, split, metric), retrievers.bm25_parameters(task, la)
        qids = list(values[default])
        order = [qids[i] for i in generator(task.config.seed, 0, "tune", la).permutation(len(qids))]
        point = best(values, qids, default)
        found[la] = {
            "point": point,
            "before": fmean(values[default].values()),
            "after": fmean(values[point].values()),
            "queries": len(qids),
            "held out": held_out_gain(values, (order[::2], order[1::2]), default)
            if len(qids) > 1
            else 0.0,
        }
        say(
            f"{la}: k1 {point[0]} b {point[1]}, {metric} on {len(qids)} {split} queries {found[la]['before']:.4f} -> {found[la]['after']:.4f}, held out {found[la]['held out']:+.4f}"
        )
    return found


def layer(found: Mapping[str, Mapping], metric: str, split: str) -> str:
    values = {la: {"k1": v["point"][0], "b": v["point"][1]} for la, v in found.items()}
    return f"# BM25 by language, chosen by {metric} on {split}.\n" + yaml.safe_dump(
        {"retrieval": {"bm25": {"per_language": values}}}, sort_keys=False
    )


def main() -> None:
    def add(parser):
        parser.add_argument("--split", help="dev without it")
        parser.add_argument("--metric", default="nDCG@10", choices=["nDCG@10", "RR@100", "R@100"])
        parser.add_argument(
            "--out", type=Path, help="bm25.yaml in the configuration's folder without it"
        )

    config, options = from_arguments("k1 and b of BM25 by language", add)
    task = Task(config)
    split, out = options.split or config.splits.dev, options.out or config.folder / "bm25.yaml"
    run_steps(
        [
            step
            for name, step in search.plan(task).items()
            if name.startswith(("passages/", "bm25-index/"))
        ],
        config.folder,
        some=True,
    )
    found = tune(task, split, options.metric)
    with finished_file(out) as file:
        file.write(layer(found, options.metric, split))
    say(
        f"mean over {len(found)} languages: {fmean(v['before'] for v in found.values()):.4f} -> {fmean(v['after'] for v in found.values()):.4f}, "
        f"held out {fmean(v['held out'] for v in found.values()):+.4f}\n{out}"
    )


if __name__ == "__main__":
    exit_with_message(main)
