"""AUGMENTATIONS: each reads what a method needs and gives its pairs of one language.

And the mixer that puts them together. No method reads judgments of any split but train. Unlabelled
queries of other splits are used by q2q2d and pseudo_label alone, which name the split in the
recipe.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core.distributed import generator
from core.errors import InputError
from core.files import write_json
from core.judging import Judge
from core.recipes import Recipe
from core.records import Qrels, Query, Run, TrainingPair
from core.runs import run_file, top_k
from core.settings import Config
from core.task import Task, once
from data_aug import corpus_negatives, filters, judged, pseudo_label, q2q2d, top_negatives
from retrieval import dense, judges
from retrieval.retrievers import given_run

SCORED = "scored.json"  # beside a system's runs: how many passages of a query it scored


@dataclass
class Mix:
    """The pairs of one language and draw as they come together, each (query, passage) once.

    Of two that differ in their label the earlier stands, in the order of AUGMENTATIONS, so that
    judgments come before guesses.
    """

    task: Task
    recipe: Recipe
    draw: int
    language: str
    round: int = 0
    judge: judges.Grades | None = None  # in place of the filters' own
    pairs: dict[tuple[str, str, str], TrainingPair] = field(default_factory=dict)
    counts: Counter = field(default_factory=Counter)

    def add(self, pairs: Iterable[TrainingPair]) -> None:
        """Takes in pairs that are new, and counts the others."""
        for pair in pairs:
            key = pair.qid, pair.passage_language, pair.docid
            if key not in self.pairs:
                self.pairs[key] = pair
            elif self.pairs[key].label != pair.label:
                self.counts["conflicts"] += 1
            else:
                self.counts["duplicates"] += 1

    def random(self, what: str) -> np.random.Generator:
        """The random numbers of a method, for this language and draw."""
        return generator(self.task.config.seed, self.draw, what, self.language)

    @property
    def train(self) -> str:
        """The split whose judgments teach."""
        return self.task.config.splits.train

    @property
    def known(self) -> bool:
        """Whether the language has training queries."""
        return (self.language, self.train) in self.task.pairs(self.train)

    @property
    def qrels(self) -> Qrels:
        """Judgments of the train queries."""
        return train_judgments(self.task, self.language) if self.known else {}

    def taken(self) -> dict[str, set[str]]:
        """Query id -> passages that it has already."""
        docids: dict[str, set[str]] = {}
        for qid, _, docid in self.pairs:
            docids.setdefault(qid, set()).add(docid)
        return docids

    def keep(self) -> filters.Keep:
        """The recipe's filters for negatives."""
        settings = self.recipe.filters
        teacher: Run = {}
        if settings.teacher:
            file = teacher_file(settings.teacher, self.language, self.train)
            teacher = self.taught(file, self.train)
        text = self.task.passages(self.language).text
        reader = None
        if settings.judge is not None:
            queries = self.task.queries(self.language, self.train)
            reader = filters.Reader(
                judge=self.judge or judge_of(self.task, settings.judge),
                queries={query.qid: query.text for query in queries},
                reference=self.reference,
            )
        return filters.Keeper(settings, self.qrels, text, teacher, self.counts, reader)

    def reference(self, qid: str) -> str | None:
        """The text of a query's relevant passage that comes first by docid; None: none is there."""
        passages = self.task.passages(self.language)
        relevant = sorted(docid for docid, gain in self.qrels[qid].items() if gain > 0)
        for docid, row in zip(relevant, passages.rows(relevant, strict=False), strict=True):
            if row >= 0:
                return passages.text(docid)
        return None

    def taught(self, path: Path, split: str) -> Run:
        """A teacher's run, checked like any that is given, as deep as the teacher scored."""
        passages = self.task.passages(self.language)
        run = given_run(self.task, passages, path, self.language, split)
        depth = scored_depth(path.parent)
        if depth is None:
            return run
        return {qid: top_k(scores, depth) for qid, scores in run.items()}


def add_judged(mix: Mix) -> Iterator[TrainingPair]:
    """The judged pairs."""
    yield from judged.judged(
        language=mix.language,
        qrels=mix.qrels,
        keep=mix.recipe.judged_negatives,
        random=mix.random("judged"),
    )


def add_q2q2d(mix: Mix) -> Iterator[TrainingPair]:
    """Judged passages of similar training queries, of the same language or of any."""
    task = mix.task
    settings = mix.recipe.q2q2d
    if settings is None or (mix.language, settings.split) not in task.pairs(settings.split):
        return
    languages = [language for language, _ in task.pairs(mix.train)]
    if settings.languages == "same":
        languages = [language for language in languages if language == mix.language]
    if not languages:
        return
    keys: list[tuple[str, str]] = []  # of the judged training queries
    vectors: list[np.ndarray] = []
    judgments: dict[tuple[str, str], dict[str, int]] = {}
    for language in languages:
        qrels = train_judgments(task, language)
        queries, encoded = query_vectors(task, settings.backbone, language, mix.train)
        rows = [row for row, query in enumerate(queries) if query.qid in qrels]
        vectors.append(encoded[rows])
        for row in rows:
            keys.append((language, queries[row].qid))
        for qid, gains in qrels.items():
            judgments[language, qid] = gains
    targets, target_vectors = query_vectors(task, settings.backbone, mix.language, settings.split)
    yield from q2q2d.q2q2d(
        language=mix.language,
        targets=targets,
        vectors=target_vectors,
        known=keys,
        known_vectors=np.concatenate(vectors),
        judged=judgments,
        settings=settings,
    )


def add_pseudo_label(mix: Mix) -> Iterator[TrainingPair]:
    """A teacher's scores as labels of unlabelled queries."""
    settings = mix.recipe.pseudo_label
    if settings is None or (mix.language, settings.split) not in mix.task.pairs(settings.split):
        return
    split = settings.split
    path = teacher_run(mix.task, settings.teacher, mix.language, split, mix.round)
    taught = mix.taught(path, split)
    wanted = {query.qid for query in mix.task.queries(mix.language, split)}
    run = {qid: scores for qid, scores in taught.items() if qid in wanted}  # it may be of all
    yield from pseudo_label.pseudo_label(
        language=mix.language,
        run=run,
        settings=settings,
        round_=mix.round,
        random=mix.random("pseudo_label"),
    )


def add_top_negatives(mix: Mix) -> Iterator[TrainingPair]:
    """Negatives from the hybrid's candidates; thresholds are on the scores of ``select.scores``."""
    if not mix.known or not mix.recipe.negatives:
        return
    select = mix.recipe.select
    run = mix.task.stored_run("hybrid", mix.language, mix.train)
    scores = None
    if select.scores != "hybrid":
        scores = mix.task.stored_run(select.scores, mix.language, mix.train)
    yield from top_negatives.top_negatives(
        language=mix.language,
        run=run,
        qrels=mix.qrels,
        taken=mix.taken(),
        k=mix.recipe.negatives,
        depth=mix.task.config.candidates,
        random=mix.random("top_negatives"),
        select=select,
        scores=scores,
        keep=mix.keep(),
    )


def add_corpus_negatives(mix: Mix) -> Iterator[TrainingPair]:
    """Negatives from the whole corpus."""
    if not mix.known or not mix.recipe.corpus_negatives:
        return
    yield from corpus_negatives.corpus_negatives(
        language=mix.language,
        passages=mix.task.passages(mix.language),
        qrels=mix.qrels,
        taken=mix.taken(),
        k=mix.recipe.corpus_negatives,
        random=mix.random("corpus_negatives"),
        keep=mix.keep(),
    )


AUGMENTATIONS = {
    "judged": add_judged,
    "q2q2d": add_q2q2d,
    "pseudo_label": add_pseudo_label,
    "top_negatives": add_top_negatives,
    "corpus_negatives": add_corpus_negatives,
}


def mixed(
    task: Task,
    recipe: Recipe,
    draw: int,
    language: str,
    round_: int,
    judge: judges.Grades | None = None,
) -> Mix:
    """The pairs of a language and draw, by all methods of a recipe; ``judge``: as of ``Mix``."""
    mix = Mix(task, recipe, draw, language, round_, judge)
    for augment in AUGMENTATIONS.values():
        mix.add(augment(mix))
    return mix


def capped(
    keys: Sequence[tuple[str, str, str]], caps: dict[str, int], seed: int, draw: int
) -> list[int]:
    """Which pairs stay, so that there are at most ``caps`` of each kind; their rows, in order.

    ``keys``: language, query id and origin of each pair. A kind is an ORIGIN, a LANGUAGE, or
    "LANGUAGE ORIGIN". Queries are drawn at random and keep their pairs, so that a relevant passage
    is not left without negatives; the last one may lose some.
    """
    kept = list(range(len(keys)))
    for cap, most in caps.items():
        rows_of: dict[tuple[str, str], list[int]] = {}  # of each query, those of this kind
        for row in kept:
            language, qid, origin = keys[row]
            if cap in (origin, language, f"{language} {origin}"):
                rows_of.setdefault((language, qid), []).append(row)
        by_query = list(rows_of.values())
        order = generator(seed, draw, "caps", cap).permutation(len(by_query))
        drawn: list[int] = []
        for number in order:
            drawn += by_query[number]
        left_out = set(drawn[most:])
        kept = [row for row in kept if row not in left_out]
    return kept


@once
def train_judgments(task: Task, language: str) -> Qrels:
    """Checked once: every recipe, draw and, with Q2Q2D, every other language reads them."""
    return task.checked_judgments(language, task.config.splits.train)


@once
def judge_of(task: Task, settings: Judge) -> judges.Grades:
    """One for all languages and draws, whose answers are kept with the collection."""
    return judges.judge(settings, task.config.models, judges.folder(task.config))


@once
def query_vectors(
    task: Task, backbone: str, language: str, split: str
) -> tuple[list[Query], np.ndarray]:
    """A split's queries and their vectors of length 1."""
    queries = task.queries(language, split)
    return queries, encoder(task, backbone).encode_queries([query.text for query in queries])


@once
def encoder(task: Task, backbone: str) -> dense.Encoder:
    """The sentence encoder of Q2Q2D, whose vectors are of length 1."""
    return dense.Encoder(
        name=backbone,
        models=task.config.models,
        layers=None,
        max_length=128,
        batch_tokens=8192,
        precision="fp32",
        overrides={"normalise": True},
    )


def teacher_file(folder: str | Path, language: str, split: str) -> Path:
    """A teacher's run in a given folder. Raises InputError where it isn't there."""
    return run_file(
        folder, language, split, "a teacher's runs are LANG-SPLIT.trec for each language"
    )


def teacher_run(task: Task, teacher: str, language: str, split: str, round_: int) -> Path:
    """Of a folder, or of a system of the round before as the ensemble stage left it.

    Raises InputError where it isn't there, or where a round's run does not say how deep it is
    scored.
    """
    folder = teacher_folder(task, teacher, round_)
    if folder == Path(teacher):
        return teacher_file(teacher, language, split)
    before = round_ - 1
    path = run_file(
        folder,
        language,
        split,
        f"pseudo-labels of round {round_} come from the systems of round {before}: "
        f"run ./run_all.sh with this configuration, or the stages with round={before} first",
    )
    if not (folder / SCORED).is_file():
        raise InputError(
            f"{folder / SCORED}: no such file; the round's runs were left by an older version, "
            "which did not note how many of their passages are scored: "
            f"run ./ensemble/run.sh with this configuration and round={before} again"
        )
    return path


def teacher_folder(task: Task, teacher: str, round_: int) -> Path:
    """Where a teacher's runs are: a folder, or a system of the round before."""
    if Path(teacher).is_dir():
        return Path(teacher)
    return round_folder(task.config, round_ - 1) / teacher


def note_scored(folder: Path, depth: int | None) -> None:
    """Notes beside a system's runs how many of a query's passages it scored; None: all.

    What follows below has made-up scores that keep the order of the run before it.
    """
    write_json(folder / SCORED, {"depth": depth})


def scored_depth(folder: Path) -> int | None:
    """How many passages of a query are scored in a folder's runs; None: all, as in given ones."""
    note = folder / SCORED
    if not note.is_file():
        return None
    return json.loads(note.read_text("utf-8"))["depth"]


def round_folder(config: Config, round_: int) -> Path:
    """Where the ensemble stage leaves a round's runs, SYSTEM/LANG-SPLIT.trec."""
    return config.folder / "rounds" / str(round_)
