"""BM25's k1 and b by grid on train or dev: a language's own, and what they gain.

    python -m retrieval.tune CONFIG [key=value …] [--split dev] [--metric nDCG@10] [--out FILE]

Writes a YAML layer to put under ``extends:``. Half of the queries choose, the other half show the
gain: figures that were tuned on their own queries flatter. The layer holds the values that all
queries together choose.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import TypedDict

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
DEPTH = 100  # passages that are looked at

Point = tuple[float, float]
"""k1 and b."""

Values = Mapping[Point, Mapping[str, float]]
"""Point -> query id -> the metric's value."""

Tuned = TypedDict(
    "Tuned",
    {"point": Point, "before": float, "after": float, "queries": int, "held out": float},
)
"""A language's chosen point; the metric's mean at the default and at it; the held-out gain."""


def best(values: Values, qids: Sequence[str], default: Point) -> Point:
    """The point of the best mean over ``qids``.

    The default where none is better, then the first.
    """
    means: dict[Point, float] = {}
    for point, by_query in values.items():
        means[point] = fmean(by_query[qid] for qid in qids)
    first_of_best = max(means, key=lambda point: means[point])
    if means[default] > means[first_of_best] - 1e-9:
        return default
    return first_of_best


def held_out_gain(
    values: Values, halves: tuple[Sequence[str], Sequence[str]], default: Point
) -> float:
    """The mean gain over the default of each half at the point that the other half chooses."""
    gains: list[float] = []
    for learn, held in (halves, halves[::-1]):
        point = best(values, learn, default)
        gains += [values[point][qid] - values[default][qid] for qid in held]
    return fmean(gains)


def grid_values(
    task: Task, language: str, split: str, metric: str
) -> dict[Point, dict[str, float]]:
    """The values of all points, the default's first.

    Lucene scores at search time, so one index serves the grid.
    """
    settings = task.config.retrieval.bm25
    index = search.plan(task)[f"bm25-index/{language}"].path
    qrels = task.judgments(language, split)
    judged = [query for query in task.queries(language, split) if query.qid in qrels]
    default = retrievers.bm25_parameters(task, language)
    points = list(dict.fromkeys([default, *product(K1, B)]))
    depth = min(DEPTH, task.config.retrieval.depth)
    values: dict[Point, dict[str, float]] = {}
    for k1, b in progress(points, what=f"BM25 {language}", unit="point"):
        searcher = bm25.open_searcher(language, index, k1, b, settings.heap)
        run = bm25.search(searcher, language, judged, depth, settings.heap, settings.threads)
        values[k1, b] = evaluate(run, qrels, [metric])[metric]
    return values


def tune(task: Task, split: str, metric: str) -> dict[str, Tuned]:
    """What each language with judgments of ``split`` gains, said as it comes.

    Raises InputError for the test split, whose judgments choose nothing, and for a split without
    any.
    """
    splits = task.config.splits
    if split == splits.test:
        raise InputError(
            f"--split {split}: test judgments choose nothing; "
            f"expected {splits.train} or {splits.dev}"
        )
    sources = task.config.retrieval.sources
    if "bm25" not in sources:
        raise InputError(
            f"retrieval.sources: found {', '.join(sources)}, but what is tuned here is bm25; "
            "set, for example, retrieval.sources=[bm25]"
        )
    qrels = task.collection.qrels
    languages = [language for language, _ in task.pairs(split) if (language, split) in qrels]
    if not languages:
        raise InputError(f"{task.collection.root}: no language has judgments for {split}")
    tuned: dict[str, Tuned] = {}
    for language in languages:
        chosen = tune_language(task, language, split, metric)
        tuned[language] = chosen
        k1, b = chosen["point"]
        say(
            f"{language}: k1 {k1} b {b}, {metric} on {chosen['queries']} {split} queries "
            f"{chosen['before']:.4f} -> {chosen['after']:.4f}, held out {chosen['held out']:+.4f}"
        )
    return tuned


def tune_language(task: Task, language: str, split: str, metric: str) -> Tuned:
    """A language's best point; its held-out gain is 0 where there is one query alone."""
    values = grid_values(task, language, split, metric)
    default = retrievers.bm25_parameters(task, language)
    qids = list(values[default])
    point = best(values, qids, default)
    held_out = 0.0
    if len(qids) > 1:
        random = generator(task.config.seed, 0, "tune", language)
        mixed = [qids[place] for place in random.permutation(len(qids))]
        halves = (mixed[::2], mixed[1::2])
        held_out = held_out_gain(values, halves, default)
    return {
        "point": point,
        "before": fmean(values[default].values()),
        "after": fmean(values[point].values()),
        "queries": len(qids),
        "held out": held_out,
    }


def layer(tuned: Mapping[str, Tuned], metric: str, split: str) -> str:
    """A YAML layer of the chosen points."""
    per_language: dict[str, dict[str, float]] = {}
    for language, chosen in tuned.items():
        k1, b = chosen["point"]
        per_language[language] = {"k1": k1, "b": b}
    settings = {"retrieval": {"bm25": {"per_language": per_language}}}
    comment = f"# BM25 by language, chosen by {metric} on {split}.\n"
    return comment + yaml.safe_dump(settings, sort_keys=False)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("--split", help="dev without it")
    parser.add_argument("--metric", default="nDCG@10", choices=["nDCG@10", "RR@100", "R@100"])
    parser.add_argument(
        "--out", type=Path, help="bm25.yaml in the configuration's folder without it"
    )


def main() -> None:
    """The command line."""
    config, options = from_arguments("k1 and b of BM25 by language", add_options)
    task = Task(config)
    split = options.split or config.splits.dev
    out = options.out or config.folder / "bm25.yaml"
    needed = []
    for name, step in search.plan(task).items():
        if name.startswith(("passages/", "bm25-index/")):
            needed.append(step)
    run_steps(needed, config.folder, some=True)
    tuned = tune(task, split, options.metric)
    with finished_file(out) as file:
        file.write(layer(tuned, options.metric, split))
    before = fmean(chosen["before"] for chosen in tuned.values())
    after = fmean(chosen["after"] for chosen in tuned.values())
    held_out = fmean(chosen["held out"] for chosen in tuned.values())
    say(
        f"mean over {len(tuned)} languages: {before:.4f} -> {after:.4f}, "
        f"held out {held_out:+.4f}\n{out}"
    )


if __name__ == "__main__":
    exit_with_message(main)
