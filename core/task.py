"""What a configuration works on: its collection, languages, queries and the fingerprints of its files."""

from collections.abc import Callable
from functools import cached_property, wraps

from core import distributed
from core.artefacts import Artefact, PassageStore, RankedRun
from core.collection import Collection
from core.errors import InputError
from core.files import digest, file_digest
from core.passages import Passages
from core.records import Qrels, Query, Run
from core.runs import read_run
from core.settings import Config
from core.sources import atlas
from core.steps import Files, Plan, Step


def once(function: Callable) -> Callable:
    """``function(task, …)`` is computed once and kept as long as the task is: many configurations in one process, as in an ablation, must
    not keep each other's models."""

    @wraps(function)
    def kept(task: "Task", *arguments):
        key = function, *arguments
        if key not in task.kept:
            task.kept[key] = function(task, *arguments)
        return task.kept[key]

    return kept


class Task:
    def __init__(self, config: Config):
        self.config = config
        self.kept: dict = {}
        self.published: dict[Artefact, Step] = {}

    def new_plan(self, stage: str) -> Plan:
        """An empty plan of a stage, whose artefacts other rooms will find by ``step``."""
        return Plan(stage, self.config.home, self.published)

    def step(self, artefact: Artefact) -> Step:
        """The step that makes an artefact.

        Raises LookupError where its room has not planned: each stage's ``plan`` lets the stages
        that it builds on plan first.
        """
        if artefact not in self.published:
            raise LookupError(f"{artefact} is planned by no stage so far")
        return self.published[artefact]

    @cached_property
    def collection(self) -> Collection:
        """The collection's folder; the embedded one is unpacked on first use."""
        c = self.config.collection
        root = (
            atlas.folder(self.config.home / "collection", c.atlas)
            if c.source == "atlas"
            else c.path
        )
        return Collection(root, self.config.languages, c.allow)

    @property
    def languages(self) -> list[str]:
        return self.collection.languages

    def surprise(self, language: str) -> bool:
        return self.collection.surprise(language, self.config.splits.train)

    def splits(self, language: str) -> list[str]:
        """Those of train, dev and test that the language has topics for."""
        s = self.config.splits
        found = [
            split for split in (s.train, s.dev, s.test) if self.collection.has(language, split)
        ]
        if not found:
            raise InputError(
                f"{self.collection.root}: {language} has no topics for any of {s.train}, {s.dev}, {s.test}"
            )
        return found

    def pairs(self, *splits: str) -> list[tuple[str, str]]:
        """(language, split) for every language that has the split; all three splits without an argument."""
        return [
            (la, s) for la in self.languages for s in self.splits(la) if not splits or s in splits
        ]

    @once
    def queries(self, language: str, split: str) -> list[Query]:
        """The split's queries, or the sample of ``limit`` of them that (seed, language, split) fixes, in the file's order."""
        queries = self.collection.queries(language, split)
        limit = (
            self.config.limit.get(split)
            if isinstance(self.config.limit, dict)
            else self.config.limit
        )
        if limit is None or limit >= len(queries):
            return queries
        chosen = distributed.generator(self.config.seed, 0, "limit", language, split).permutation(
            len(queries)
        )[:limit]
        return [queries[i] for i in sorted(chosen)]

    def judgments(self, language: str, split: str) -> Qrels:
        """Of train or dev, for the queries in use."""
        wanted = {q.qid for q in self.queries(language, split)}
        return {
            qid: judged
            for qid, judged in self.collection.judgments(language, split).items()
            if qid in wanted
        }

    def checked_judgments(self, language: str, split: str) -> Qrels:
        """As ``judgments``, each judged passage checked to be in the collection."""
        qrels = self.judgments(language, split)
        self.collection.check_judged(language, split, qrels, self.passages(language))
        return qrels

    def weighing_languages(self) -> list[str]:
        """Languages whose dev judgments choose weights.

        The known ones, so that surprise languages stay unseen; all if none is known.
        """
        with_dev = [la for la, _ in self.pairs(self.config.splits.dev)]
        return [la for la in with_dev if not self.surprise(la)] or with_dev

    def passages(self, language: str) -> Passages:
        """A language's passages, as the retrieval stage stored them."""
        return Passages(self.step(PassageStore(language)).path)

    def run(self, system: str, language: str, split: str) -> Run:
        """A system's run; it may be empty, where no query of a language matches a term."""
        path = self.step(RankedRun(system, language, split)).path / "run.trec"
        return read_run(path) if path.stat().st_size else {}

    def file_input(self, name: str, *paths) -> Files:
        cache = self.config.home / "digests"
        return Files(name, digest([file_digest(path, cache) for path in paths]))

    def corpus_input(self, language: str) -> Files:
        return self.file_input(f"corpus/{language}", *self.collection.corpus_files(language))

    def topics_input(self, language: str, split: str) -> Files:
        """The queries in use; a change of ``limit`` or of the sampling seed is a change of this input."""
        return Files(
            f"topics/{language}-{split}", digest([list(q) for q in self.queries(language, split)])
        )

    def qrels_input(self, language: str, split: str) -> Files:
        return self.file_input(
            f"qrels/{language}-{split}", self.collection.qrels_file(language, split)
        )
