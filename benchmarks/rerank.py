"""Scoring pairs with one set of weights: this project's back ends against sentence-transformers, in turns.

    python -m benchmarks.rerank CONFIG [key=value …] RANKER [--queries 10] [--rounds 3]

The pairs are the dev candidates of the configuration's ranker (as deep as it reranks, a few queries a language), its languages mixed. Each
round runs every way once; the ratio is that of the medians. Differences are of logits, to those of sentence-transformers.
"""

import gc
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from core.config import from_arguments
from core.errors import exit_with_message
from core.task import Task
from ranking import rank, rankers
from training import engine
from ranking.export import export
from ranking.rerank import candidate_pairs


def dev_pairs(task: Task, name: str, queries: int) -> list[tuple[str, str]]:
    """(query text, passage text), of the first dev queries of each language, in an order without meaning."""
    r, found = task.config.ranking.rankers[name], []
    for la, split in task.pairs(task.config.splits.dev):
        run = task.run("hybrid", la, split)
        found += zip(
            *rankers.texts_of(task, la, split)(
                candidate_pairs(dict(list(run.items())[:queries]), rank.own_depth(task, r))
            )
        )
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def ways(task: Task, name: str, folder: Path, pairs: list, with_int8: bool) -> dict:
    """Name -> a function from pairs to logits."""
    import torch
    from sentence_transformers import CrossEncoder

    step, steps = rank.plan(task)[f"ranker/{name}"], rank.plan(task)
    theirs = CrossEncoder(str(folder))
    found = {
        "sentence-transformers": lambda: theirs.predict(
            pairs, batch_size=32, show_progress_bar=False
        )
    }
    if torch.cuda.is_available():
        half = CrossEncoder(str(folder), model_kwargs={"dtype": torch.bfloat16})
        found["sentence-transformers bf16, batch 128"] = lambda: half.predict(
            pairs, batch_size=128, show_progress_bar=False
        )
    chosen = [
        ("torch", None, engine.precision("auto")),
        ("torch", None, "bf16"),
        ("openvino", None, "fp32"),
        ("openvino", None, "bf16"),
    ]
    for backend, where, number_format in chosen + (
        [("int8", steps[f"int8/{name}"].path, "")] if with_int8 else []
    ):
        scorer = rankers.load(task, name, step, backend, where, number_format)
        found[f"{backend} {number_format}".strip()] = lambda scorer=scorer: (
            scorer.tokenize.pieces.clear(),
            scorer(*zip(*pairs)),
        )[-1]
    return found


def main() -> None:
    def add(parser):
        parser.add_argument("ranker")
        parser.add_argument("--queries", type=int, default=10, help="a language")
        parser.add_argument("--rounds", type=int, default=3)

    config, options = from_arguments("pairs a second against sentence-transformers", add)
    task, name = Task(config), options.ranker
    pairs = dev_pairs(task, name, options.queries)
    with tempfile.TemporaryDirectory() as folder:
        export(task, name, Path(folder) / "model")
        with_int8 = config.ranking.rerank.backend == "int8"
        found = ways(task, name, Path(folder) / "model", pairs, with_int8)
        times, scores = {way: [] for way in found}, {}
        for _ in range(options.rounds):
            for way, score in found.items():
                gc.collect()
                start = time.perf_counter()
                scores[way] = np.asarray(score(), np.float32)
                times[way].append(time.perf_counter() - start)
    first = next(iter(found))
    print(
        f"{len(pairs)} pairs of {config.ranking.rankers[name].max_length} tokens at most, {options.rounds} rounds"
    )
    for way, seconds in times.items():
        print(
            f"{way:38} {len(pairs) / statistics.median(seconds):8.1f} pairs/s   {statistics.median(times[first]) / statistics.median(seconds):5.2f} x   "
            f"largest difference {abs(scores[way] - scores[first]).max():.1e}, correlation {np.corrcoef(scores[way], scores[first])[0, 1]:.5f}",
            flush=True,
        )
    if with_int8:
        print((rank.plan(task)[f"int8/{name}"].path / "int8.json").read_text().strip())


if __name__ == "__main__":
    exit_with_message(main)
