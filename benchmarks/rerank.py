"""Scoring pairs with one set of weights: our back ends and sentence-transformers, in turns.

    python -m benchmarks.rerank CONFIG [key=value …] RANKER [--queries 10] [--rounds 3]

The pairs are the dev candidates of the configuration's ranker (as deep as it reranks, a few queries
a language), its languages mixed. Each round runs every way once; the ratio is that of the medians.
Differences are of logits, to those of sentence-transformers.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import numpy as np

from core.artefacts import TrainedRanker
from core.config import from_arguments
from core.errors import exit_with_message
from core.task import Task
from ranking import rank, rankers
from ranking.export import export
from ranking.rerank import candidate_pairs
from training import engine

TextPairs = list[tuple[str, str]]
"""Query text and passage text."""

Way = Callable[[TextPairs], np.ndarray]
"""From pairs to their logits."""

THEIRS = "sentence-transformers"


def dev_pairs(task: Task, name: str, queries: int) -> TextPairs:
    """Those of the first dev queries of each language, in an order without meaning."""
    depth = rankers.own_depth(task, task.config.ranking.rankers[name])
    pairs: TextPairs = []
    for la, split in task.pairs(task.config.splits.dev):
        run = task.run("hybrid", la, split)
        first = dict(list(run.items())[:queries])
        texts = rankers.texts_of(task, la, split)(candidate_pairs(first, depth))
        pairs += zip(*texts, strict=True)
    return [pairs[place] for place in np.random.default_rng(0).permutation(len(pairs))]


def their_ways(folder: Path) -> dict[str, Way]:
    """Of sentence-transformers: in fp32, and on a GPU in bf16 with larger batches."""
    import torch
    from sentence_transformers import CrossEncoder

    def predicting(batch_size: int, **options: dict) -> Way:
        model = CrossEncoder(str(folder), **options)
        return lambda pairs: model.predict(pairs, batch_size=batch_size, show_progress_bar=False)

    ways = {THEIRS: predicting(batch_size=32)}
    if torch.cuda.is_available():
        in_bf16 = predicting(batch_size=128, model_kwargs={"dtype": torch.bfloat16})
        ways[f"{THEIRS} bf16, batch 128"] = in_bf16
    return ways


def our_ways(task: Task, name: str, int8_folder: Path | None) -> dict[str, Way]:
    """Of this project, by back end and number format."""
    chosen: list[tuple[str, Path | None, str]] = [
        ("torch", None, engine.precision("auto")),
        ("torch", None, "bf16"),
        ("openvino", None, "fp32"),
        ("openvino", None, "bf16"),
    ]
    if int8_folder:
        chosen.append(("int8", int8_folder, ""))
    step = task.step(TrainedRanker(name))
    ways = {}
    for backend, where, number_format in chosen:
        scorer = rankers.load(task, name, step, backend, where, number_format)
        ways[f"{backend} {number_format}".strip()] = forgetful(scorer)
    return ways


def forgetful(scorer: rankers.Scorer) -> Way:
    """A scorer that tokenises all texts each time, as it would the first time."""

    def score(pairs: TextPairs) -> np.ndarray:
        scorer.tokenize.pieces.clear()
        return scorer(*zip(*pairs, strict=True))

    return score


def timed(
    ways: Mapping[str, Way], pairs: TextPairs, rounds: int
) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """Seconds of each way in each round, and its logits."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    logits: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        for way, score in ways.items():
            gc.collect()
            start = time.perf_counter()
            logits[way] = np.asarray(score(pairs), np.float32)
            seconds[way].append(time.perf_counter() - start)
    return seconds, logits


def line(
    way: str, pairs: int, seconds: Mapping[str, list[float]], logits: Mapping[str, np.ndarray]
) -> str:
    """A way beside sentence-transformers."""
    own, theirs = median(seconds[way]), median(seconds[THEIRS])
    difference = abs(logits[way] - logits[THEIRS]).max()
    correlation = np.corrcoef(logits[way], logits[THEIRS])[0, 1]
    return (
        f"{way:38} {pairs / own:8.1f} pairs/s   {theirs / own:5.2f} x   "
        f"largest difference {difference:.1e}, correlation {correlation:.5f}"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which ranker, and how much of it is timed."""
    parser.add_argument("ranker")
    parser.add_argument("--queries", type=int, default=10, help="a language")
    parser.add_argument("--rounds", type=int, default=3)


def main() -> None:
    """The command line."""
    config, options = from_arguments("pairs a second against sentence-transformers", add_arguments)
    task, name = Task(config), options.ranker
    steps = rank.plan(task)
    int8 = steps[f"int8/{name}"].path if config.ranking.rerank.backend == "int8" else None
    pairs = dev_pairs(task, name, options.queries)
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "model"
        export(task, name, exported)
        ways = {**their_ways(exported), **our_ways(task, name, int8)}
        seconds, logits = timed(ways, pairs, options.rounds)
    longest = config.ranking.rankers[name].max_length
    print(f"{len(pairs)} pairs of {longest} tokens at most, {options.rounds} rounds")
    for way in ways:
        print(line(way, len(pairs), seconds, logits), flush=True)
    if int8:
        print((int8 / "int8.json").read_text().strip())


if __name__ == "__main__":
    exit_with_message(main)
