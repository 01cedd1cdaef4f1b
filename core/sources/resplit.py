"""A collection split by query: random training queries become the other splits.

MIRACL is split so. Others are split by article, and what carries over from a training query to a
similar one (Q2Q2D) cannot be seen on them.

    python -m core.sources.resplit COLLECTION OUT dev=100 testA=200 [--seed 0]

Counts are training queries a language that move to a split. Languages without training queries keep
theirs; the corpora are copied.
"""

import argparse
import re
import shutil
from pathlib import Path

from core.collection import Collection
from core.distributed import generator
from core.errors import InputError, exit_with_message
from core.files import finished_folder
from core.records import Qrels, Query
from core.sources.writing import write_split


def resplit(source: Collection, out: Path, counts: dict[str, int], seed: int) -> list[str]:
    """OUT/LANGUAGE for each language, and a line about it.

    Raises InputError for a language with too few judged training queries.
    """
    lines = []
    for language in source.languages:
        if (out / language).exists():
            lines.append(f"{language}: is there already")
            continue
        out.mkdir(parents=True, exist_ok=True)
        with finished_folder(out / language) as part:
            contents = write_language(source, language, part, counts, seed)
        lines.append(f"{language}: {contents}")
    return lines


def write_language(
    source: Collection, language: str, part: Path, counts: dict[str, int], seed: int
) -> str:
    """One language into the folder ``part``; what it has now."""
    (part / "corpus").mkdir(exist_ok=True)
    for path in source.corpus_files(language):
        shutil.copy(path, part / "corpus" / path.name)
    if not source.has(language, "train"):
        return f"no training queries; {keep(source, language, list(counts), part)} as they are"
    lines = []
    for split, (queries, qrels) in splits(source, language, counts, seed).items():
        lines.append(write_split(part, language, split, queries, qrels))
    return "; ".join(lines)


def keep(source: Collection, language: str, wanted: list[str], part: Path) -> str:
    """Copies topics and judgments unread: those of test splits are the evaluation's."""
    for kind, files in (("topics", source.topics), ("qrels", source.qrels)):
        (part / kind).mkdir(exist_ok=True)
        for split in wanted:
            if (language, split) in files:
                copy = part / kind / f"{kind}.{language}-{split}.tsv"
                shutil.copy(files[language, split], copy)
    return ", ".join(split for split in wanted if source.has(language, split))


def splits(
    source: Collection, language: str, counts: dict[str, int], seed: int
) -> dict[str, tuple[list[Query], Qrels]]:
    """Split -> its queries, in the order of the training queries, and all judgments of those.

    What no count takes stays ``train``. Raises InputError where nothing would stay.
    """
    qrels = source.judgments(language, "train")
    judged = [query for query in source.queries(language, "train") if query.qid in qrels]
    moved = sum(counts.values())
    if moved >= len(judged):
        raise InputError(
            f"{source.root}: {language} has {len(judged)} judged training queries, "
            f"{moved} are to be moved and some must stay"
        )
    random = generator(seed, 0, "resplit", language)
    waiting = random.permutation(len(judged)).tolist()
    rows_of: dict[str, list[int]] = {}
    for split, count in counts.items():
        rows_of[split] = waiting[:count]
        waiting = waiting[count:]
    rows_of["train"] = waiting

    parts: dict[str, tuple[list[Query], Qrels]] = {}
    for split, rows in rows_of.items():
        queries = [judged[row] for row in sorted(rows)]
        parts[split] = (queries, qrels)
    return parts


def read_counts(texts: list[str]) -> dict[str, int]:
    """Arguments SPLIT=COUNT; raises InputError for others."""
    counts = {}
    for text in texts:
        split, _, count = text.partition("=")
        if not split or split == "train" or not re.fullmatch("[1-9][0-9]{0,8}", count):
            raise InputError(
                f"found {' '.join(texts)}, expected SPLIT=COUNT for splits other than train, "
                "for example dev=100 testA=200"
            )
        counts[split] = int(count)
    return counts


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m core.sources.resplit", description="a collection split by query"
    )
    parser.add_argument("collection", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("counts", nargs="+", metavar="SPLIT=COUNT")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts = read_counts(options.counts)
    lines = resplit(Collection(options.collection), options.out, counts, options.seed)
    print("\n".join(lines))


if __name__ == "__main__":
    exit_with_message(main)
