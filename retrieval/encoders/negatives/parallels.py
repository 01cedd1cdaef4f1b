"""PARALLELS: which queries and passages of different languages are versions of each other.

``alignment``: two files say so. ``same_ids``: the collection is a translation throughout, so that
equal ids are versions (mMARCO). ``translation``: a model translates queries and passages
(mhfn-2022, 3.2). ``neighbours``: the nearest in the vectors of a multilingual encoder.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from core.runs import StoredRun
from retrieval import dense
from retrieval.encoders import parallel as aligned
from retrieval.encoders.negatives.from_run import candidates_of

if TYPE_CHECKING:
    from retrieval.encoders.negatives.mining import Mining
    from retrieval.encoders.negatives.pools import Candidate, Pools


class Version(NamedTuple):
    """A query in another language: its candidates and relevant passages there."""

    language: str
    candidates: "list[Candidate]"
    relevant: set[str]


class Parallel(Protocol):
    """What is parallel to the queries and passages of a language."""

    def versions(self, language: str, qids: Sequence[str]) -> list[list[Version]]:
        """Of each query those in other languages; empty where there is none."""

    def passages(self, language: str, other: str, docids: Sequence[str]) -> list[str | None]:
        """The versions in ``language`` of passages of another one; None where there is none."""


class SameIds:
    """The same ids are versions in all languages."""

    def __init__(self, mining: "Mining"):
        self.mining = mining
        self.pools: dict[str, Pools] = {}
        for language in mining.languages:
            before = mining.before(language)
            assert before is not None, "a link behind the first"
            self.pools[language] = before

    def versions(self, language: str, qids: Sequence[str]) -> list[list[Version]]:
        """Training queries of the same id."""
        return [self.named(self.others(language, qid)) for qid in qids]

    def others(self, language: str, qid: str) -> list[tuple[str, str]]:
        """(other language, query id there) of a query's versions."""
        return [(other, qid) for other in self.mining.languages if other != language]

    def named(self, others: Sequence[tuple[str, str]]) -> list[Version]:
        """Those of them that are training queries with a relevant passage."""
        found = []
        for other, qid in others:
            relevant = self.mining.relevant(other).get(qid)
            if relevant:
                found.append(Version(other, self.pools[other].of(qid), relevant))
        return found

    def passages(self, language: str, other: str, docids: Sequence[str]) -> list[str | None]:
        """Passages of the same id, where there is one."""
        rows = self.mining.passages(language).rows(docids, strict=False)
        return [docid if row >= 0 else None for docid, row in zip(docids, rows, strict=True)]


class Alignment(SameIds):
    """As two files say, one of queries and one of passages; see ``retrieval.encoders.parallel``.

    Of passages those are kept in memory that are candidates or relevant.
    """

    def __init__(self, mining: "Mining"):
        super().__init__(mining)
        settings = mining.settings.share_languages
        assert settings.queries is not None and settings.passages is not None
        passages = aligned.Parallel(Path(settings.passages), self.wanted(), "passage")
        self.asked = by_member(aligned.Parallel(Path(settings.queries)).questions)
        self.said = by_member(passages.questions)

    def wanted(self) -> set[tuple[str, str]]:
        """The passages that may be asked for."""
        wanted: set[tuple[str, str]] = set()
        for language in self.mining.languages:
            wanted |= {(language, docid) for docid in self.pools[language].live().docid[1]}
            for docids in self.mining.relevant(language).values():
                wanted |= {(language, docid) for docid in docids}
        return wanted

    def others(self, language: str, qid: str) -> list[tuple[str, str]]:
        """As the file says."""
        group = self.asked.get((language, qid), {})
        return [(other, group[other]) for other in self.mining.languages
                if other in group and other != language]  # fmt: skip

    def passages(self, language: str, other: str, docids: Sequence[str]) -> list[str | None]:
        """As the file says; a passage that it names and the collection lacks is an InputError."""
        found = [self.said.get((other, docid), {}).get(language) for docid in docids]
        self.mining.passages(language).rows([docid for docid in found if docid is not None])
        return found


class Neighbours(SameIds):
    """The nearest query and the nearest passage of each other language, by cosine of vectors.

    What is below ``threshold`` is no version. Vectors are the dense source's, whose encoder has
    to know all languages alike. A passage's search is exact, over all of its language.
    """

    def __init__(self, mining: "Mining"):
        super().__init__(mining)
        self.threshold = mining.settings.share_languages.threshold
        self.queries: dict[str, tuple[list[str], np.ndarray]] = {}

    def versions(self, language: str, qids: Sequence[str]) -> list[list[Version]]:
        """Training queries that are near enough, at most one a language."""
        all_qids, vectors = self.encoded(language)
        place = {qid: number for number, qid in enumerate(all_qids)}
        own = vectors[[place[qid] for qid in qids]]
        others: list[list[tuple[str, str]]] = [[] for _ in qids]
        for other in self.mining.languages:
            other_qids, other_vectors = self.encoded(other)
            if other == language or not other_qids:
                continue
            scores, rows = dense.best_rows(other_vectors, own, 1)
            for number in np.flatnonzero(scores[:, 0] >= self.threshold).tolist():
                others[number].append((other, other_qids[rows[number, 0]]))
        return [self.named(of_query) for of_query in others]

    def encoded(self, language: str) -> tuple[list[str], np.ndarray]:
        """The query ids of a language, and their unit vectors."""
        if language not in self.queries:
            texts = self.mining.queries(language)
            qids = list(self.mining.relevant(language))
            vectors = np.zeros((0, 1), np.float32)
            if qids:
                vectors = unit(self.mining.encoded_queries([texts[qid] for qid in qids]))
            self.queries[language] = (qids, vectors)
        return self.queries[language]

    def passages(self, language: str, other: str, docids: Sequence[str]) -> list[str | None]:
        """The nearest passage of each that is near enough."""
        if not docids:
            return []
        rows = self.mining.passages(other).rows(docids)
        in_order = np.argsort(rows, kind="stable")
        vectors = np.empty((len(rows), self.mining.vectors(other).shape[1]), np.float32)
        vectors[in_order] = self.mining.vectors(other)[rows[in_order]]
        stored = self.mining.vectors(language)
        store = self.mining.passages(language)
        scores, best = dense.best_rows(stored, unit(vectors), 1)
        nearest = best[:, 0]
        used, place = np.unique(nearest, return_inverse=True)
        lengths = np.linalg.norm(stored[used].astype(np.float32), axis=1)[place]
        is_near = scores[:, 0] >= self.threshold * lengths
        return [store.docid(int(row)) if near else None
                for row, near in zip(nearest, is_near, strict=True)]  # fmt: skip


class Translation:
    """Versions that a model made of the whole language: its queries and passages, in another one.

    Ids are those of the language itself, so what BM25 finds for a translated query among
    translated passages needs no version to be looked for.
    """

    def __init__(self, mining: "Mining"):
        self.mining = mining
        self.runs: dict[tuple[str, str], StoredRun] = {}

    def versions(self, language: str, qids: Sequence[str]) -> list[list[Version]]:
        """A version of each query in each language that it was translated into."""
        depth = self.mining.settings.from_run.depth
        found: list[list[Version]] = []
        for qid in qids:
            relevant = self.mining.relevant(language)[qid]
            of_query = []
            for (source, target), step in self.mining.translations.items():
                if source == language:
                    run = self.run(source, target, step.path)
                    scores = run.get(qid, {})
                    candidates = candidates_of(scores, relevant, depth, "bm25")
                    of_query.append(Version(target, candidates, set()))
            found.append(of_query)
        return found

    def run(self, source: str, target: str, folder: Path) -> StoredRun:
        """BM25's run of the translated queries of a language."""
        if (source, target) not in self.runs:
            self.runs[source, target] = StoredRun(folder / "run.trec")
        return self.runs[source, target]

    def passages(self, language: str, other: str, docids: Sequence[str]) -> list[str | None]:
        """Themselves."""
        return list(docids)


def by_member(questions: Sequence[aligned.Question]) -> dict[tuple[str, str], aligned.Question]:
    """(language, id) -> the question that it is of."""
    members = {}
    for question in questions:
        for member in question.items():
            members[member] = question
    return members


def unit(vectors: np.ndarray) -> np.ndarray:
    """At length 1; those of length 0 as they are."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


PARALLELS: dict[str, Callable[["Mining"], Parallel]] = {
    "alignment": Alignment,
    "same_ids": SameIds,
    "translation": Translation,
    "neighbours": Neighbours,
}
