"""Judged training queries, each with one of its relevant passages, drawn anew each time."""

from collections.abc import Mapping

import numpy as np

from core.console import say
from core.distributed import generator
from core.errors import InputError
from retrieval.encoders.hiding import known
from retrieval.encoders.material import Material, Relevant, Rows
from retrieval.encoders.texts import Lines


class Labelled:
    """An example is a training query with a relevant passage; see ``retrieval.encoders.pairs``.

    In memory are the queries' texts and 8 bytes a relevant passage. Queries without a relevant
    passage are in no example, which is said. Raises InputError where none is left.
    """

    def __init__(self, material: Material):
        self.material = material
        self.spans: dict[str, range] = {}
        self.ids_of: dict[str, list[str]] = {}
        texts: list[str] = []
        counts: list[int] = []  # relevant passages of each example
        relevant: list[np.ndarray] = []
        for language in material.languages:
            first = len(texts)
            queries, found = self.of_language(language)
            self.ids_of[language] = list(queries)
            texts += queries.values()
            for ids in found:
                counts.append(len(ids))
                relevant.append(ids)
            self.spans[language] = range(first, len(texts))
        if not texts:
            raise InputError(
                f"retrieval.encoders.{material.name}: no training query of "
                f"{', '.join(material.languages)} has a relevant passage, so there is nothing "
                "to learn from"
            )
        self.texts = Lines(texts)
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        self.ids = np.concatenate(relevant)

    def of_language(self, language: str) -> tuple[Mapping[str, str], list[np.ndarray]]:
        """Query id -> text of those with a relevant passage, and the passages' numbers."""
        task = self.material.task
        train = task.config.splits.train
        qrels = task.checked_judgments(language, train)
        relevant = known(qrels, language, self.material.settings).relevant
        queries: dict[str, str] = {}
        found: list[np.ndarray] = []
        without = []
        for query in task.queries(language, train):
            docids = relevant.get(query.qid, [])
            # Judged passages that are not there were refused, unless the collection allows them
            ids = self.material.corpus.ids(language, docids, strict=False)
            ids = ids[ids >= 0]
            if len(ids):
                queries[query.qid] = query.text
                found.append(ids)
            else:
                without.append(query.qid)
        if without:
            say(
                f"  note: {self.material.name}: {len(without)} training queries of {language} "
                f"have no relevant passage and are left out, first {', '.join(without[:5])}"
            )
        return queries, found

    def qids(self, language: str) -> list[str]:
        """In the order of the topics."""
        return self.ids_of[language]

    def query_texts(self, numbers: np.ndarray) -> list[str]:
        """As they stand in the topics."""
        return [self.texts[number] for number in numbers.tolist()]

    def positives(self, numbers: np.ndarray, batch: int) -> np.ndarray:
        """A relevant passage of each, at random."""
        starts = self.starts[numbers]
        counts = self.starts[numbers + 1] - starts
        random = generator(self.material.settings.seed, batch, "positives")
        drawn = (random.random(len(numbers)) * counts).astype(np.int64)
        return self.ids[starts + drawn]

    def relevant(self, numbers: np.ndarray) -> Relevant:
        """All judged relevant."""
        starts = self.starts[numbers]
        counts = self.starts[numbers + 1] - starts
        place = np.repeat(np.arange(len(numbers)), counts)
        # of each entry: how many entries of the same example stand before it
        before = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
        return Relevant(place, self.ids[np.repeat(starts, counts) + before])

    def views(self, numbers: np.ndarray, positives: np.ndarray, batch: int) -> tuple[Rows, Rows]:
        """The query and the passage as they are."""
        tokens = self.material.tokens
        queries = self.query_texts(numbers)
        passages = self.material.corpus.texts(positives)
        return tokens.rows(queries, "query"), tokens.rows(passages, "passage")
