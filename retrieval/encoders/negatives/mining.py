"""A chain of links over candidates: each is run on every language and leaves its files."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from core.console import say
from core.encoders import Encoder
from core.errors import InputError
from core.files import write_json
from core.passages import Passages
from core.records import Ranking
from core.runs import StoredRun
from core.steps import Files, Step
from core.task import Task
from retrieval import judges, retrievers
from retrieval.encoders.hiding import known
from retrieval.encoders.negatives.parallels import PARALLELS, Parallel
from retrieval.encoders.negatives.pools import Pool, Pools, write_pools
from retrieval.vectors import Vectors

COUNTS = "counts.json"


@dataclass
class Mining:
    """What links ask: the training queries of some languages, their judgments, and runs of them.

    ``runs``: the steps of runs by (system, language). ``folders``: of the links so far; the files
    of all languages of a link are there before the next link begins. ``found``: what the model in
    training has just found, by language, for ``refresh``. ``encoded``: the steps of passages'
    vectors by language, and ``translations`` those by (language, other language), for
    ``share_languages`` where it asks for them, as ``alignment`` is its file.
    """

    name: str
    settings: Encoder
    task: Task
    languages: Sequence[str]
    runs: Mapping[tuple[str, str], Step] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    found: Mapping[str, Iterable[Ranking]] = field(default_factory=dict)
    encoded: Mapping[str, Step] = field(default_factory=dict)
    translations: Mapping[tuple[str, str], Step] = field(default_factory=dict)
    alignment: Files | None = None
    parallels: dict[Path, Parallel] = field(default_factory=dict)  # by the link that they are of

    @cached_property
    def judged(self) -> dict[str, dict[str, set[str]]]:
        """Language -> query id -> relevant passages, of the queries that have some."""
        train = self.task.config.splits.train
        judged: dict[str, dict[str, set[str]]] = {}
        for language in self.languages:
            qrels = self.task.judgments(language, train)
            relevant = known(qrels, language, self.settings).relevant
            judged[language] = {}
            for query in self.task.queries(language, train):
                if query.qid in relevant:
                    judged[language][query.qid] = set(relevant[query.qid])
        return judged

    def relevant(self, language: str) -> dict[str, set[str]]:
        """Query id -> its relevant passages; the queries to mine for, in the topics' order."""
        return self.judged[language]

    def queries(self, language: str) -> dict[str, str]:
        """Query id -> text, of the training queries."""
        return self.texts[language]

    @cached_property
    def texts(self) -> dict[str, dict[str, str]]:
        """Language -> query id -> text."""
        train = self.task.config.splits.train
        texts = {}
        for language in self.languages:
            queries = self.task.queries(language, train)
            texts[language] = {query.qid: query.text for query in queries}
        return texts

    def reference(self, language: str, qid: str) -> str | None:
        """The relevant passage that stands for a query: the first by docid; None: none is there."""
        docids = sorted(self.judged[language][qid])
        rows = self.passages(language).rows(docids, strict=False)
        there = [docid for docid, row in zip(docids, rows.tolist(), strict=True) if row >= 0]
        return there[0] if there else None

    @property
    def answers(self) -> Path:
        """The folder of what judges and language models have answered about this collection."""
        return judges.folder(self.task.config)

    @cached_property
    def judge(self) -> judges.Grades:
        """Who reads candidates."""
        return judges.judge(self.settings.judge, self.task.config.models, self.answers)

    def passages(self, language: str) -> Passages:
        """The passages of a language."""
        return self.task.passages(language)

    def run(self, system: str, language: str) -> StoredRun:
        """A system's run of the training queries, read by query."""
        return StoredRun(self.runs[system, language].path / "run.trec")

    def parallel(self) -> Parallel:
        """What is parallel across languages, for the link behind the last one that is there."""
        last = self.folders[-1]
        if last not in self.parallels:
            self.parallels[last] = PARALLELS[self.settings.share_languages.parallel](self)
        return self.parallels[last]

    @property
    def inputs(self) -> list[Step | Files]:
        """All that links read beside passages, queries and judgments."""
        inputs: list[Step | Files] = [*self.runs.values(), *self.encoded.values()]
        inputs += self.translations.values()
        if self.alignment:
            inputs.append(self.alignment)
        return inputs

    def vectors(self, language: str) -> Vectors:
        """Those of a language's passages, by the dense source's encoder."""
        return retrievers.vectors_of(self.encoded[language])

    def encoded_queries(self, texts: Sequence[str]) -> np.ndarray:
        """By the same encoder: float32 [texts, dimension]."""
        return retrievers.encoder_of(self.task).encode_queries(texts)

    def before(self, language: str) -> Pools | None:
        """What the link before made of a language; None for the first link."""
        return Pools(pools_file(self.folders[-1], language)) if self.folders else None


Link = Callable[[Mining, str, Any], Iterator[Pool]]
"""Each query of a language with its candidates, of what the link before made of them, or None."""


def mine(mining: Mining, chain: Mapping[str, Link], folder: Path) -> Path:
    """Runs the links of a chain, by their names in order, and gives the folder of the last one.

    ``folder`` gets one a link, ``1-from_run`` and so on, with a file a language and the counts. A
    file that is there is not made again. Raises InputError where no query has a negative.
    """
    counts: dict[str, Counter[str]] = {}
    for number, (name, link) in enumerate(chain.items(), 1):
        made = folder / f"{number}-{name}"
        counts = {}
        for language in mining.languages:
            counts[language] = run_link(mining, link, language, made)
        write_json(made / COUNTS, counts)
        mining.folders.append(made)
    tell(mining.name, counts)
    return mining.folders[-1]


def run_link(mining: Mining, link: Link, language: str, folder: Path) -> Counter[str]:
    """One link on one language; what it counted."""
    path = pools_file(folder, language)
    note = folder / f"{language}.json"
    if not (path.exists() and note.exists()):
        found = write_pools(path, link(mining, language, mining.before(language)))
        write_json(note, found)
    return Counter(json.loads(note.read_text("utf-8")))


def pools_file(folder: Path, language: str) -> Path:
    """Where a link's candidates of a language are."""
    return folder / f"{language}.parquet"


def tell(name: str, counts: Mapping[str, Counter[str]]) -> None:
    """Says how many negatives a chain left, by language. Raises InputError where there are none."""
    total: Counter = Counter()
    for of_language in counts.values():
        total.update(of_language)
    if not total[""]:
        raise InputError(
            f"retrieval.encoders.{name}.negatives: no training query has a negative: "
            f"{total['queries']} queries, dropped {dropped(total)}; loosen select, "
            "raise the depth, or leave negatives out"
        )
    for language, own in counts.items():
        say(
            f"  {name}: {language}: {own['']} negatives for {own['queries']} queries, "
            f"{own['empty']} without any; dropped {dropped(own)}"
        )


def dropped(counts: Mapping[str, int]) -> str:
    """How many candidates were dropped for what, in words."""
    parts = []
    for reason, count in sorted(counts.items()):
        if reason not in ("", "queries", "empty"):
            parts.append(f"{count} {reason}")
    return ", ".join(parts) or "none"
