"""What near-duplicate queries cost to find: time and peak memory for many questions of a language.

    python -m benchmarks.folds COLLECTION LANGUAGE [--questions 100000] [--threshold 0.8]

The questions are those of the language, of all splits, each again and again with one to three of
its words replaced by words of other questions: more alike than real ones, which is harder.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from core.collection import Collection
from core.errors import exit_with_message
from core.folds import duplicates, make_folds


def perturbed(questions: list[str], count: int, seed: int) -> list[str]:
    """``count`` questions, the given ones first."""
    random = np.random.default_rng(seed)
    words = [word for question in questions for word in question.split()]
    made = list(questions[:count])
    while len(made) < count:
        own = questions[random.integers(len(questions))].split()
        for _ in range(random.integers(1, 4)):
            own[random.integers(len(own))] = words[random.integers(len(words))]
        made.append(" ".join(own))
    return made


def peak_gb() -> float:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.folds")
    parser.add_argument("collection", type=Path)
    parser.add_argument("language")
    parser.add_argument("--questions", type=int, default=100_000)
    parser.add_argument("--threshold", type=float, default=0.8)
    options = parser.parse_args()

    collection = Collection(options.collection)
    splits = [split for la, split in sorted(collection.topics) if la == options.language]
    own = [q.text for split in splits for q in collection.queries(options.language, split)]
    questions = perturbed(own, options.questions, seed=0)
    print(f"{len(questions)} questions, {len(set(questions))} different, from {len(own)}")

    before, start = peak_gb(), time.perf_counter()
    near = duplicates(questions, options.threshold)
    seconds = time.perf_counter() - start
    print(
        f"near-duplicates: {len(near)} pairs in {seconds:.1f} s, "
        f"peak memory {peak_gb():.2f} GB (before: {before:.2f} GB)"
    )

    start = time.perf_counter()
    queries = {(options.language, str(number)): text for number, text in enumerate(questions)}
    make_folds(queries, {}, 5, options.threshold, 0)
    print(f"folds: {time.perf_counter() - start:.1f} s, peak memory {peak_gb():.2f} GB")


if __name__ == "__main__":
    exit_with_message(main)
