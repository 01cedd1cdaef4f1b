"""Folds by query: near-duplicate queries, and on request those of one article, lie in one fold, so that what is tried out on a fold was
never learnt from a twin of it. One file, LANGUAGE QID FOLD in columns, for every stage."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from core.distributed import generator
from core.errors import InputError, at_line
from core.files import finished_file
from core.runs import text_lines

Key = tuple[str, str]  # (language, query id)


def trigrams(text: str) -> set[str]:
    """Three letters or digits in a row, of the case-folded text without anything else."""
    letters = re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())
    return {letters[i : i + 3] for i in range(max(1, len(letters) - 2))}


def duplicates(texts: Sequence[str], threshold: float) -> np.ndarray:
    """Pairs [n, 2] of texts that share at least ``threshold`` of their trigrams (Jaccard). Time: by the pairs that share any."""
    from scipy.sparse import csr_array

    sets = [trigrams(text) for text in texts]
    number = {gram: i for i, gram in enumerate(sorted(set().union(*sets)))}
    columns = [number[gram] for grams in sets for gram in sorted(grams)]
    sizes = np.array([len(grams) for grams in sets])
    table = csr_array(
        (np.ones(len(columns), np.int32), columns, np.concatenate([[0], np.cumsum(sizes)])),
        (len(sets), len(number)),
    )
    shared = (table @ table.T).tocoo()
    a, b = shared.coords
    near = (a < b) & (shared.data >= threshold * (sizes[a] + sizes[b] - shared.data))
    return np.stack([a[near], b[near]], 1)


def together(
    texts: Sequence[str], articles: Sequence[Iterable[str]], threshold: float
) -> np.ndarray:
    """The number of each query's group: linked by near-duplicate texts or by an article in common, also over several steps."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first: dict[str, int] = {}
    links = [
        (first.setdefault(article, i), i)
        for i, found in enumerate(articles)
        for article in sorted(found)
    ]
    edges = np.concatenate([duplicates(texts, threshold), np.array(links, int).reshape(-1, 2)])
    return connected_components(
        coo_array((np.ones(len(edges)), edges.T), (len(texts), len(texts))), directed=False
    )[1]


def assign(groups: np.ndarray, before: Sequence[int], random: np.random.Generator) -> np.ndarray:
    """A fold a query: the groups, the largest first and equal ones in random order, each into the fold that has fewest queries, or of
    equal ones into that with fewest from other languages (``before``, a count a fold)."""
    sizes = Counter(groups.tolist())
    order = sorted(random.permutation(sorted(sizes)).tolist(), key=lambda g: -sizes[g])
    filled, fold_of = [0] * len(before), {}
    for group in order:
        fold_of[group] = min(
            range(len(before)), key=lambda fold: (filled[fold], before[fold], fold)
        )
        filled[fold_of[group]] += sizes[group]
    return np.array([fold_of[g] for g in groups.tolist()], int)


def make_folds(
    queries: Mapping[Key, str],
    articles: Mapping[Key, Iterable[str]],
    count: int,
    threshold: float,
    seed: int,
) -> dict[Key, int]:
    """Each language is divided on its own, so that every fold has its share of each."""
    found: dict[Key, int] = {}
    for language in dict.fromkeys(la for la, _ in queries):
        keys = [key for key in queries if key[0] == language]
        groups = together(
            [queries[k] for k in keys], [articles.get(k, ()) for k in keys], threshold
        )
        before = (
            np.bincount(list(found.values()), minlength=count).tolist() if found else [0] * count
        )
        found |= dict(
            zip(keys, assign(groups, before, generator(seed, 0, "folds", language)).tolist())
        )
    return found


def write_folds(path: Path, folds: Mapping[Key, int]) -> None:
    with finished_file(path) as file:
        for (language, qid), fold in folds.items():
            file.write(f"{language}\t{qid}\t{fold}\n")


def read_folds(path: Path, keys: Iterable[Key]) -> dict[Key, int]:
    """The folds of ``keys``; raises InputError if the file does not cover them, and for a bad line."""
    folds: dict[Key, int] = {}
    for number, line in enumerate(text_lines(path), 1):
        columns = line.split("\t")
        if len(columns) != 3 or not columns[2].isdigit():
            raise at_line(
                path,
                number,
                repr(line),
                "language, query id and fold (a whole number), separated by tabs",
            )
        if (key := (columns[0], columns[1])) in folds:
            raise at_line(path, number, f"query {'/'.join(key)} a second time", "one fold a query")
        folds[key] = int(columns[2])
    keys = list(keys)
    missing = ["/".join(key) for key in keys if key not in folds]
    if missing:
        raise InputError(
            f"{path}: {len(missing)} of {len(keys)} queries have no fold, first {', '.join(missing[:5])}; expected every judged train and dev query in use (folds.file=null makes the folds anew)"
        )
    return {key: folds[key] for key in keys}
