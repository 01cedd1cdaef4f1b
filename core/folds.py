"""Folds by query, so that what is tried out on a fold was never learnt from a twin of it.

Near-duplicate queries lie in one fold, and on request those of one article, too. One file for
every stage, LANGUAGE QID FOLD in columns.
"""

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.distributed import generator
from core.errors import InputError, at_line
from core.files import finished_file
from core.text import text_lines, whole_number

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Key = tuple[str, str]  # (language, query id)

BLOCK = 2_000_000  # candidates looked at together: what bounds the memory
CHECKED = 200_000  # candidates whose trigrams are compared together


def trigrams(text: str) -> set[str]:
    """Three letters or digits in a row, of the case-folded text without anything else."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    letters = re.sub(r"[\W_]+", "", folded)
    starts = range(max(1, len(letters) - 2))  # a shorter text is its own only one
    return {letters[start : start + 3] for start in starts}


def trigram_table(texts: Sequence[str]) -> "csr_array":
    """[texts, trigrams]: 1 where a text has a trigram; the rarest come first, in each row too."""
    from scipy.sparse import csr_array

    number: dict[str, int] = {}  # of a trigram, in the order in which they are first seen
    numbers = array("i")  # of all texts' trigrams, a text after another
    row_ends = array("q", [0])
    for text in texts:
        for trigram in trigrams(text):
            numbers.append(number.setdefault(trigram, len(number)))
        row_ends.append(len(numbers))

    by_first_seen = np.array(numbers, np.int32)
    frequency = np.bincount(by_first_seen, minlength=len(number))
    rarest_first = np.argsort(frequency, kind="stable")
    rarity = np.empty(len(number), np.int32)
    rarity[rarest_first] = np.arange(len(number), dtype=np.int32)
    ones = np.ones(len(numbers), np.int32)
    columns = rarity[by_first_seen]
    shape = (len(texts), len(number))
    table = csr_array((ones, columns, np.array(row_ends)), shape)
    table.sort_indices()
    return table


def duplicates(texts: Sequence[str], threshold: float) -> np.ndarray:
    """Pairs [n, 2] of texts that share at least ``threshold`` of their trigrams (Jaccard).

    Exact, by prefix filtering (Chaudhuri, Ganti and Kaushik 2006; Bayardo, Ma and Srikant 2007):
    a text of n trigrams shares at least ``threshold`` * n with any near-duplicate, so of the rest
    and one more, which are chosen as its rarest, they have at least one in common. Only texts
    that meet in such a rare trigram, and whose sizes allow it, are compared. Time and memory go
    with their number, not with the square of the texts.
    """
    table = trigram_table(texts)
    sizes = np.diff(table.indptr)
    near = [np.empty((0, 2), np.int64)]
    for first, second in candidates(table, sizes, threshold):
        for start in range(0, len(first), CHECKED):
            one = first[start : start + CHECKED]
            other = second[start : start + CHECKED]
            shared = table[one].multiply(table[other]).sum(axis=1)
            in_either = sizes[one] + sizes[other] - shared
            alike = shared >= threshold * in_either
            near.append(np.stack([one[alike], other[alike]], 1))
    return np.concatenate(near)


def candidates(
    table: "csr_array", sizes: np.ndarray, threshold: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of (first, second) rows, the first before the second, that may be near-duplicates."""
    prefixes = rarest(table, sizes, threshold)
    texts_of = prefixes.T.tocsr()  # [trigrams, texts]
    frequency = np.diff(texts_of.indptr)
    meetings = prefixes @ frequency  # of each text, itself counted
    meetings_before = np.cumsum(meetings) - meetings
    blocks = meetings_before // BLOCK  # rows in a row with about so many meetings together
    starts = np.flatnonzero(np.diff(blocks, prepend=-1))
    ends = [*starts[1:], len(sizes)]
    for start, end in zip(starts, ends, strict=True):
        met = (prefixes[start:end] @ texts_of).tocoo()  # [rows of the block, texts]
        rows_of_block, columns = met.coords
        first = rows_of_block.astype(np.int64) + start
        second = columns.astype(np.int64)
        smaller = np.minimum(sizes[first], sizes[second])
        larger = np.maximum(sizes[first], sizes[second])
        possible = (first < second) & (smaller >= threshold * larger)
        yield first[possible], second[possible]


def rarest(table: "csr_array", sizes: np.ndarray, threshold: float) -> "csr_array":
    """Of each row the trigrams without which too few are left to be a near-duplicate."""
    from scipy.sparse import csr_array

    least_shared = np.maximum(1, np.ceil(threshold * sizes)).astype(np.int64)
    kept_of_row = sizes - least_shared + 1
    rows = np.repeat(np.arange(len(sizes)), sizes)
    place_in_row = np.arange(table.nnz) - table.indptr[rows]
    kept = place_in_row < kept_of_row[rows]
    row_ends = np.concatenate([[0], np.cumsum(kept_of_row)])
    return csr_array((table.data[kept], table.indices[kept], row_ends), table.shape)


def together(
    texts: Sequence[str], articles: Sequence[Iterable[str]], threshold: float
) -> np.ndarray:
    """The number of each query's cluster.

    Queries are linked by near-duplicate texts or by an article in common, also over several
    steps.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # Texts that are written alike need no comparison, however many there are of them.
    first_with_text: dict[str, int] = {}
    first_with_article: dict[str, int] = {}
    links = []
    for number, (text, own_articles) in enumerate(zip(texts, articles, strict=True)):
        twin = first_with_text.setdefault(text, number)
        links.append((twin, number))
        for article in sorted(own_articles):
            neighbour = first_with_article.setdefault(article, number)
            links.append((neighbour, number))

    distinct = np.array(list(first_with_text.values()), np.int64)
    alike = distinct[duplicates(list(first_with_text), threshold)]
    equal = np.array(links, np.int64).reshape(-1, 2)  # two columns, also where there are no texts
    edges = np.concatenate([alike, equal])
    graph = coo_array((np.ones(len(edges)), edges.T), (len(texts), len(texts)))
    _, cluster_of = connected_components(graph, directed=False)
    return cluster_of


def assign(clusters: np.ndarray, before: Sequence[int], random: np.random.Generator) -> np.ndarray:
    """A fold a query, so that a cluster's queries share theirs.

    The largest clusters come first and equal ones in random order, each into the fold that has
    fewest queries, or of equal ones into that with fewest from other languages (``before``, a
    count a fold).
    """
    sizes = Counter(clusters.tolist())
    shuffled = random.permutation(sorted(sizes)).tolist()
    largest_first = sorted(shuffled, key=lambda cluster: -sizes[cluster])
    folds = range(len(before))
    filled = [0] * len(before)
    fold_of = {}
    for cluster in largest_first:
        emptiest = min(folds, key=lambda fold: (filled[fold], before[fold], fold))
        fold_of[cluster] = emptiest
        filled[emptiest] += sizes[cluster]
    return np.array([fold_of[cluster] for cluster in clusters.tolist()], int)


def make_folds(
    queries: Mapping[Key, str],
    articles: Mapping[Key, Iterable[str]],
    count: int,
    threshold: float,
    seed: int,
) -> dict[Key, int]:
    """Each language is divided on its own, so that every fold has its share of each."""
    folds: dict[Key, int] = {}
    of_language: dict[str, list[Key]] = {}
    for key in queries:
        of_language.setdefault(key[0], []).append(key)
    for language, keys in of_language.items():
        texts = [queries[key] for key in keys]
        own_articles = [articles.get(key, ()) for key in keys]
        clusters = together(texts, own_articles, threshold)
        filled = Counter(folds.values())
        before = [filled[fold] for fold in range(count)]
        random = generator(seed, 0, "folds", language)
        chosen = assign(clusters, before, random)
        folds |= zip(keys, chosen.tolist(), strict=True)
    return folds


def write_folds(path: Path, folds: Mapping[Key, int]) -> None:
    """A line a query, in the order of ``folds``."""
    with finished_file(path) as file:
        for (language, qid), fold in folds.items():
            file.write(f"{language}\t{qid}\t{fold}\n")


def read_folds(path: Path, keys: Iterable[Key]) -> dict[Key, int]:
    """The folds of ``keys``; raises InputError where one has none, and for a bad line."""
    folds: dict[Key, int] = {}
    for number, line in enumerate(text_lines(path), 1):
        columns = line.split("\t")
        if len(columns) != 3:
            expected = "language, query id and fold (a whole number), separated by tabs"
            raise at_line(path, number, repr(line), expected)
        key = (columns[0], columns[1])
        if key in folds:
            raise at_line(path, number, f"query {'/'.join(key)} a second time", "one fold a query")
        folds[key] = whole_number(path, number, columns[2], "fold")

    keys = list(keys)
    missing = ["/".join(key) for key in keys if key not in folds]
    if missing:
        raise InputError(
            f"{path}: {len(missing)} of {len(keys)} queries have no fold, "
            f"first {', '.join(missing[:5])}; expected every judged train and dev query in use "
            "(folds.file=null makes the folds anew)"
        )
    return {key: folds[key] for key in keys}
