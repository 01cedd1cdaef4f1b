"""How good the labels of an augmentation are, where its queries are judged.

    python -m benchmarks.labels GROUPS/draw-0.parquet COLLECTION SPLIT

For recipes whose ``split`` is dev, before they are used on unjudged queries. By origin: the label
of passages that are judged relevant and of all others, how often a random relevant one is above a
random other one (AUC), and the share of the split's relevant passages that is reached. Passages of
another language than the query's are judged for no query; they are counted by themselves.
"""

import argparse
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean

from core.collection import Collection
from core.errors import InputError, exit_with_message
from core.groups import read_groups
from core.records import TrainingPair

Key = tuple[str, str]  # (language, query id)


def quality(pairs: Iterable[TrainingPair], relevant: set[tuple[str, str, str]]) -> dict:
    """Of pairs of passages in the query's language; ``relevant``: (language, query id, docid)."""
    of_relevant: list[float] = []
    of_others: list[float] = []
    for pair in pairs:
        is_relevant = (pair.language, pair.qid, pair.docid) in relevant
        if is_relevant:
            of_relevant.append(pair.label)
        else:
            of_others.append(pair.label)
    return {
        "relevant": len(of_relevant),
        "others": len(of_others),
        "label of relevant": mean(of_relevant),
        "label of others": mean(of_others),
        "AUC": area_under_curve(of_relevant, of_others),
        "reached": len(of_relevant) / max(1, len(relevant)),
    }


def mean(labels: Sequence[float]) -> float:
    return fmean(labels) if labels else float("nan")


def area_under_curve(of_relevant: Sequence[float], of_others: Sequence[float]) -> float:
    """How often a label of one is above one of the others; equal ones count a half."""
    comparisons = len(of_relevant) * len(of_others)
    if not comparisons:
        return float("nan")
    wins = 0.0
    for label, other in product(of_relevant, of_others):
        wins += (label > other) + (label == other) / 2
    return wins / comparisons


def in_words(figures: dict[str, int | float]) -> list[str]:
    words = []
    for name, value in figures.items():
        words.append(f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}")
    return words


def judged_split(collection: Collection, split: str) -> set[Key]:
    """The split's queries in all languages that have judgments of it."""
    keys: set[Key] = set()
    for language in collection.languages:
        if (language, split) in collection.qrels:
            keys |= {(language, query.qid) for query in collection.queries(language, split)}
    return keys


def queries_of(pairs: Iterable[TrainingPair]) -> set[Key]:
    return {(pair.language, pair.qid) for pair in pairs}


def relevant_passages(
    collection: Collection, split: str, queries: set[Key]
) -> set[tuple[str, str, str]]:
    """(language, query id, docid) of what is judged relevant to one of ``queries``."""
    relevant: set[tuple[str, str, str]] = set()
    for language in {language for language, _ in queries}:
        for qid, judged in collection.judgments(language, split).items():
            if (language, qid) not in queries:
                continue
            for docid, gain in judged.items():
                if gain > 0:
                    relevant.add((language, qid, docid))
    return relevant


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.labels",
        description="augmented labels against the judgments of their queries",
    )
    parser.add_argument("groups", type=Path)
    parser.add_argument("collection", type=Path)
    parser.add_argument("split")
    options = parser.parse_args()
    collection = Collection(options.collection)
    targets = judged_split(collection, options.split)
    pairs = [pair for pair in read_groups(options.groups) if (pair.language, pair.qid) in targets]
    if not pairs:
        raise InputError(
            f"{options.groups}: no pair of a query of {options.split}; "
            f"make the groups with a recipe whose split is {options.split}"
        )
    relevant = relevant_passages(collection, options.split, queries_of(pairs))
    for origin in sorted({pair.origin for pair in pairs}):
        of_origin = [pair for pair in pairs if pair.origin == origin]
        own = [pair for pair in of_origin if not pair.passage_language]
        print(
            f"{origin}: {len(queries_of(of_origin))} queries, "
            f"{len(own)} passages of their language, {len(of_origin) - len(own)} of others"
        )
        if own:
            print("  " + ", ".join(in_words(quality(own, relevant))))


if __name__ == "__main__":
    exit_with_message(main)
