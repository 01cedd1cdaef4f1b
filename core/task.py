"""What a configuration works on: its collection, languages, queries and the fingerprints of its files."""

from collections.abc import Callable
from functools import cached_property, wraps

from core import distributed
from core.collection import Collection
from core.errors import InputError
from core.files import digest, file_digest
from core.records import Qrels, Query
from core.settings import Config
from core.sources import atlas
from core.store import Files


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
