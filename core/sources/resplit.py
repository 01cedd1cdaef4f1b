"""A collection split by query: random training queries become the other splits. MIRACL is split so; others are split by article, and what
carries over from a training query to a similar one (Q2Q2D) cannot be seen on them.

    python -m core.sources.resplit COLLECTION OUT dev=100 testA=200 [--seed 0]

Counts are training queries a language that move to a split. Languages without training queries keep theirs; the corpora are copied.
"""

import argparse
import shutil
from pathlib import Path

from core.collection import Collection
from core.distributed import generator
from core.errors import InputError, exit_with_message
from core.files import finished_folder
from core.sources.writing import write_split


def resplit(source: Collection, out: Path, counts: dict[str, int], seed: int) -> list[str]:
    """OUT/LANGUAGE for each language, and a line about it. Raises InputError for a language with too few judged training queries."""
    lines = []
    for language in source.languages:
        if (out / language).exists():
            lines.append(f"{language}: is there already")
            continue
        out.mkdir(parents=True, exist_ok=True)
        with finished_folder(out / language) as part:
            (part / "corpus").mkdir(exist_ok=True)
            for path in source.corpus_files(language):
                shutil.copy(path, part / "corpus" / path.name)
            if source.has(language, "train"):
                lines.append(
                    f"{language}: "
                    + "; ".join(
                        write_split(part, language, split, *found)
                        for split, found in splits(source, language, counts, seed).items()
                    )
                )
            else:
                lines.append(
                    f"{language}: no training queries; {keep(source, language, list(counts), part)} as they are"
                )
    return lines


def keep(source: Collection, language: str, wanted: list[str], part: Path) -> str:
    """Copies topics and judgments unread: those of test splits are the evaluation's."""
    for kind, files in (("topics", source.topics), ("qrels", source.qrels)):
        (part / kind).mkdir(exist_ok=True)
        for split in wanted:
            if (language, split) in files:
                shutil.copy(files[language, split], part / kind / f"{kind}.{language}-{split}.tsv")
    return ", ".join(split for split in wanted if source.has(language, split))


def splits(source: Collection, language: str, counts: dict[str, int], seed: int) -> dict:
    """Split -> queries and judgments."""
    qrels = source.judgments(language, "train")
    queries = [q for q in source.queries(language, "train") if q.qid in qrels]
    if sum(counts.values()) >= len(queries):
        raise InputError(
            f"{source.root}: {language} has {len(queries)} judged training queries, {sum(counts.values())} are to be moved and some must stay"
        )
    order, found = generator(seed, 0, "resplit", language).permutation(len(queries)).tolist(), {}
    for split, count in counts.items():
        found[split], order = sorted(order[:count]), order[count:]
    found["train"] = sorted(order)
    return {split: ([queries[i] for i in rows], qrels) for split, rows in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m core.sources.resplit", description="a collection split by query"
    )
    parser.add_argument("collection", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("counts", nargs="+", metavar="SPLIT=COUNT")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pairs = [text.partition("=") for text in options.counts]
    if not all(split and split != "train" and count.isdigit() for split, _, count in pairs):
        raise InputError(
            f"found {' '.join(options.counts)}, expected SPLIT=COUNT for splits other than train, for example dev=100 testA=200"
        )
    print(
        "\n".join(
            resplit(
                Collection(options.collection),
                options.out,
                {split: int(count) for split, _, count in pairs},
                options.seed,
            )
        )
    )


if __name__ == "__main__":
    exit_with_message(main)
