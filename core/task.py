"""What a configuration works on: collection, languages, queries, and fingerprints of files."""

from collections.abc import Callable, Hashable
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from core import distributed
from core.artefacts import Artefact, PassageStore, RankedRun
from core.collection import Collection
from core.config import data_config
from core.errors import InputError
from core.files import digest, file_digest
from core.passages import Passages
from core.records import Qrels, Query, Run
from core.runs import StoredRun, read_run
from core.settings import Config
from core.sources import atlas
from core.steps import Files, Plan, Step

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


ASKED = "@"


def asked_in(split: str, language: str) -> str:
    """What a split's queries in another language than the passages' are called as a split."""
    return f"{split}{ASKED}{language}"


def once(
    function: Callable[Concatenate["Task", Arguments], Result],
) -> Callable[Concatenate["Task", Arguments], Result]:
    """``function(task, …)`` is computed once and kept as long as the task is.

    Not longer: many configurations in one process, as in an ablation, must not keep each other's
    models. The arguments are hashable, and given by their places.
    """

    @wraps(function)
    def kept(task: "Task", *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        key = (function, *arguments)
        if named:
            raise TypeError(f"{function.__name__}: give {', '.join(named)} by place")
        if key not in task.kept:
            task.kept[key] = function(task, *arguments, **named)
        return task.kept[key]

    return kept


class Task:
    """A configuration with what it works on.

    ``kept`` holds what ``once`` computed; ``published`` the artefacts of the stages that planned.
    """

    def __init__(self, config: Config):
        self.config = config
        self.kept: dict[Hashable, Any] = {}
        self.published: dict[Artefact, Step] = {}
        self.verified: set[Path] = set()

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

    def output(self, artefact: Artefact) -> Path:
        """The folder of a finished artefact. Raises InputError where it is damaged."""
        step = self.step(artefact)
        if step.done and step.path not in self.verified:
            step.verify()
            self.verified.add(step.path)
        return step.path

    @cached_property
    def collection(self) -> Collection:
        """The collection's folder; the embedded one is unpacked on first use.

        Raises InputError for languages that the configuration names and the collection lacks.
        """
        settings = self.config.collection
        if settings.source == "atlas":
            root = atlas.folder(self.config.home / "collection", settings.atlas)
        else:
            assert settings.path is not None, "core.config refuses a disk without a path"
            root = Path(settings.path)
        collection = Collection(root, self.config.languages, settings.allow)
        own_parameters = self.config.retrieval.bm25.per_language
        collection.check_languages(list(own_parameters), "retrieval.bm25.per_language: ")
        return collection

    @property
    def languages(self) -> list[str]:
        """Those in use, sorted."""
        return self.collection.languages

    def surprise(self, language: str) -> bool:
        """A language without training topics."""
        return self.collection.surprise(language, self.config.splits.train)

    def splits(self, language: str) -> list[str]:
        """Those of train, dev and test that the language has topics for.

        Raises InputError if it has none.
        """
        names = self.config.splits
        configured = (names.train, names.dev, names.test)
        with_topics = [split for split in configured if self.collection.has(language, split)]
        if not with_topics:
            raise InputError(
                f"{self.collection.root}: {language} has no topics for any of "
                f"{', '.join(configured)}"
            )
        return with_topics

    def pairs(self, *splits: str) -> list[tuple[str, str]]:
        """(language, split) for every language that has the split.

        All three splits without an argument.
        """
        pairs: list[tuple[str, str]] = []
        for language in self.languages:
            for split in self.splits(language):
                if not splits or split in splits:
                    pairs.append((language, split))
        return pairs

    @once
    def queries(self, language: str, split: str) -> list[Query]:
        """The split's queries in the file's order, or a sample of ``limit`` of them.

        The sample is fixed by seed, language and split. ``SPLIT@LANGUAGE`` (``asked_in``) gives
        those of another language, which are asked of this one's passages.
        """
        split, _, asked = split.partition(ASKED)
        language = asked or language
        queries = self.collection.queries(language, split)
        limit = self.config.limit
        if isinstance(limit, dict):
            limit = limit.get(split)
        if limit is None or limit >= len(queries):
            return queries
        random = distributed.generator(self.config.seed, 0, "limit", language, split)
        chosen = sorted(random.permutation(len(queries))[:limit])
        return [queries[place] for place in chosen]

    def judgments(self, language: str, split: str) -> Qrels:
        """Of train or dev, for the queries in use. Raises InputError where none is judged."""
        in_use = {query.qid for query in self.queries(language, split)}
        qrels = self.collection.judgments(language, split)
        judged = {qid: of_query for qid, of_query in qrels.items() if qid in in_use}
        if not judged:
            raise InputError(
                f"{self.collection.qrels_file(language, split)}: none of the {len(in_use)} queries "
                f"of {language}-{split} in use is judged; raise limit, or mend the file"
            )
        return judged

    def checked_judgments(self, language: str, split: str) -> Qrels:
        """As ``judgments``, each judged passage checked to be in the collection."""
        qrels = self.judgments(language, split)
        self.collection.check_judged(language, split, qrels, self.passages(language))
        return qrels

    def weighing_languages(self) -> list[str]:
        """Languages whose dev judgments choose weights.

        The known ones, so that surprise languages stay unseen; all if none is known.
        """
        with_dev = [language for language, _ in self.pairs(self.config.splits.dev)]
        known = [language for language in with_dev if not self.surprise(language)]
        return known or with_dev

    def passages(self, language: str) -> Passages:
        """A language's passages, as the retrieval stage stored them."""
        return Passages(self.output(PassageStore(language)))

    def run(self, system: str, language: str, split: str) -> Run:
        """A system's run; it may be empty, where no query of a language matches a term."""
        path = self.output(RankedRun(system, language, split)) / "run.trec"
        return read_run(path) if path.stat().st_size else {}

    def stored_run(self, system: str, language: str, split: str) -> StoredRun:
        """As ``run``, read by query: that of 100,000 queries is not held."""
        return StoredRun(self.output(RankedRun(system, language, split)) / "run.trec")

    def file_input(self, name: str, *paths: Path) -> Files:
        """Files by their content, whose digests are kept with the collection."""
        cache = self.config.home / "digests"
        return Files(name, digest([file_digest(path, cache) for path in paths]))

    def corpus_input(self, language: str) -> Files:
        """A language's corpus files."""
        return self.file_input(f"corpus/{language}", *self.collection.corpus_files(language))

    def topics_input(self, language: str, split: str) -> Files:
        """The queries in use: a change of ``limit`` or of the seed is a change of this input."""
        queries = [list(query) for query in self.queries(language, split)]
        return Files(f"topics/{language}-{split}", digest(queries))

    def qrels_input(self, language: str, split: str) -> Files:
        """A split's whole file of judgments."""
        file = self.collection.qrels_file(language, split)
        return self.file_input(f"qrels/{language}-{split}", file)


@once
def data_task(task: Task, path: str) -> Task:
    """The task of a configuration that a training takes its data from, the same for all."""
    return Task(data_config(path, task.config))
