"""A collection in miniature, in MIRACL's format: what a rehearsal works on.

Cut from a collection that is at hand; made from the embedded one, or of words by seed, in place of
one that is not.
"""

from collections.abc import Container, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

from core.collection import Collection, read_qrels
from core.distributed import generator
from core.errors import InputError
from core.records import Document, Qrels, Query
from core.sources.writing import Split, write_language

QUERIES = 5  # a split
JUDGED = 2  # passages of a query with a label above 0, and as many with 0
PASSAGES = 30  # a language, beside those that are judged
READ = 5000  # passages of a corpus that are looked at: of some languages the whole takes hours

# which split of the embedded collection the queries of a made one come from
MADE_FROM = {"train": "train", "dev": "dev"}
OTHERS_FROM = "testA"


def cut(
    source: Collection, language: str, out: Path, passages: int, as_split: dict[str, str]
) -> int:
    """OUT/LANGUAGE, from a few queries of some splits; how many judgments stand on other passages.

    ``as_split``: the split's name in the miniature -> its name in ``source``. Passages are taken
    from the first ``READ``; where a judged one is not among them, another stands for it. Raises
    InputError as the source does.
    """
    splits: dict[str, Split] = {}
    for name, own in as_split.items():
        splits[name] = few_queries(source, language, own)
    judged: set[str] = set()
    for _, qrels in splits.values():
        for gains in qrels.values():
            judged |= gains.keys()
    found: dict[str, Document] = {}
    others: dict[str, Document] = {}
    for document in islice(source.documents(language), READ):
        if document.docid in judged:
            found[document.docid] = document
        elif len(others) < passages:
            others[document.docid] = document
    kept = found | others
    in_turn = cycle([*others, *found])
    placed, moved = {}, 0
    for name, (queries, qrels) in splits.items():
        on_hand, count = moved_to(qrels, kept, in_turn)
        placed[name] = (queries, on_hand)
        moved += count
    write_language(out, language, documents=kept.values, splits=lambda: placed)
    return moved


def few_queries(source: Collection, language: str, split: str) -> tuple[list[Query], Qrels]:
    """The first queries of a split, with a few of their judgments.

    Of a judged split those with a relevant passage.
    """
    queries = source.queries(language, split)
    if (language, split) not in source.qrels:
        return queries[:QUERIES], {}
    qrels = read_qrels(source.qrels_file(language, split))
    chosen = [query for query in queries if any(qrels.get(query.qid, {}).values())][:QUERIES]
    few: Qrels = {}
    for query in chosen:
        gains = qrels[query.qid]
        relevant = [docid for docid, gain in gains.items() if gain > 0][:JUDGED]
        not_relevant = [docid for docid, gain in gains.items() if gain == 0][:JUDGED]
        few[query.qid] = {docid: gains[docid] for docid in [*relevant, *not_relevant]}
    return chosen, few


def moved_to(qrels: Qrels, kept: Container[str], in_turn: Iterator[str]) -> tuple[Qrels, int]:
    """The judgments, those of passages that are not kept on others; how many are so.

    ``in_turn``: the passages that are kept, for ever. Raises InputError where a query has more
    judgments than there are passages.
    """
    on_hand: Qrels = {}
    moved = 0
    for qid, gains in qrels.items():
        placed = {docid: gain for docid, gain in gains.items() if docid in kept}
        for docid, gain in gains.items():
            if docid not in kept:
                placed[other_than(placed, in_turn, qid)] = gain
                moved += 1
        on_hand[qid] = placed
    return on_hand, moved


def other_than(placed: Container[str], in_turn: Iterator[str], qid: str) -> str:
    """The next passage that is not judged for a query. Raises InputError where all are."""
    for docid in islice(in_turn, READ):
        if docid not in placed:
            return docid
    raise InputError(
        f"query {qid}: found no passage that could stand for one that is judged and not among the "
        f"first {READ}; the corpus is too small to be cut"
    )


def make(atlas: Collection, language: str, splits: Sequence[str], out: Path, passages: int) -> bool:
    """OUT/LANGUAGE in place of a collection that is not at hand; whether of the embedded one.

    ``atlas``: the embedded collection, small. A language that it lacks is made of words by seed.
    """
    if language in atlas.all_languages:
        as_split = {}
        for split in splits:
            own = MADE_FROM.get(split, OTHERS_FROM)
            as_split[split] = own if atlas.has(language, own) else OTHERS_FROM
        cut(atlas, language, out, passages, as_split)
        return True
    documents = list(synthetic_documents(language, passages))
    made = {split: synthetic_split(documents, language, split) for split in splits}
    write_language(out, language, documents=lambda: documents, splits=lambda: made)
    return False


def synthetic_documents(language: str, count: int) -> Iterator[Document]:
    """Passages of words that no language has, the same ones each time."""
    random = generator("miniature", language)
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    words = ["".join(random.choice(syllables, size=random.integers(1, 5))) for _ in range(300)]
    for number in range(count):
        title = str(random.choice(words)).capitalize()
        text = " ".join(random.choice(words, size=random.integers(15, 40)))
        yield Document(f"{language}{number // 3}#{number % 3}", title, f"{text}.")


def synthetic_split(documents: Sequence[Document], language: str, split: str) -> Split:
    """Queries of words of a passage each, which is judged to answer it; another one is not."""
    random = generator("miniature", language, split)
    queries: list[Query] = []
    qrels: Qrels = {}
    for number in range(QUERIES):
        relevant, other = random.choice(len(documents), size=2, replace=False)
        words = documents[relevant].text.removesuffix(".").split()
        text = " ".join(random.choice(words, size=4, replace=False))
        queries.append(Query(f"{split}{number}", text))
        qrels[queries[-1].qid] = {documents[relevant].docid: 1, documents[other].docid: 0}
    return queries, qrels
