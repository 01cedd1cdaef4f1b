"""How good the labels of an augmentation are, where its queries are judged.

    python -m benchmarks.labels GROUPS/draw-0.parquet COLLECTION SPLIT

For recipes whose ``split`` is dev, before they are used on unjudged queries. By origin: the label
of passages that are judged relevant and of all others, how often a random relevant one is above a
random other one (AUC), and the share of the split's relevant passages that is reached. Passages of
another language than the query's are judged for no query; they are counted by themselves.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

from core.collection import Collection
from core.errors import InputError, exit_with_message
from core.groups import read_groups
from core.records import TrainingPair


def quality(pairs: Iterable[TrainingPair], relevant: set[tuple[str, str, str]]) -> dict:
    """Of pairs of passages in the query's language; ``relevant``: (language, query id, docid)."""
    hit, miss = (
        [p.label for p in pairs if ((p.language, p.qid, p.docid) in relevant) == wanted]
        for wanted in (True, False)
    )
    auc = fmean((a > b) + (a == b) / 2 for a in hit for b in miss) if hit and miss else float("nan")
    mean = [fmean(labels) if labels else float("nan") for labels in (hit, miss)]
    return {
        "relevant": len(hit),
        "others": len(miss),
        "label of relevant": mean[0],
        "label of others": mean[1],
        "AUC": auc,
        "reached": len(hit) / max(1, len(relevant)),
    }


def in_words(figures: dict[str, int | float]) -> list[str]:
    words = []
    for name, value in figures.items():
        words.append(f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}")
    return words


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
    targets = {
        (la, q.qid)
        for la in collection.languages
        if (la, options.split) in collection.qrels
        for q in collection.queries(la, options.split)
    }
    pairs = [p for p in read_groups(options.groups) if (p.language, p.qid) in targets]
    if not pairs:
        raise InputError(
            f"{options.groups}: no pair of a query of {options.split}; "
            f"make the groups with a recipe whose split is {options.split}"
        )
    used = {(p.language, p.qid) for p in pairs}
    relevant = {
        (la, qid, docid)
        for la in {la for la, _ in used}
        for qid, judged in collection.judgments(la, options.split).items()
        if (la, qid) in used
        for docid, gain in judged.items()
        if gain > 0
    }
    for origin in sorted({p.origin for p in pairs}):
        of_it = [p for p in pairs if p.origin == origin]
        own = [p for p in of_it if not p.passage_language]
        queries = {(p.language, p.qid) for p in of_it}
        print(
            f"{origin}: {len(queries)} queries, {len(own)} passages of their language, "
            f"{len(of_it) - len(own)} of others"
        )
        if own:
            print("  " + ", ".join(in_words(quality(own, relevant))))


if __name__ == "__main__":
    exit_with_message(main)
