"""AUGMENTATIONS: each reads what a method needs and gives its pairs of one language; and the mixer that puts them together.

No method reads judgments of any split but train. Unlabelled queries of other splits are used by q2q2d and pseudo_label alone, which name
the split in the recipe.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core.distributed import generator
from core.recipes import Recipe
from core.records import Qrels, Query, Run, TrainingPair
from core.runs import run_file
from core.settings import Config
from core.task import Task, once
from data_aug import corpus_negatives, filters, judged, pseudo_label, q2q2d, top_negatives
from retrieval import dense, search
from retrieval.retrievers import given_run


@dataclass
class Mix:
    """The pairs of one language and draw as they come together, each (query, passage) once: of two that differ in their label the earlier
    stands, in the order of AUGMENTATIONS, so that judgments come before guesses."""

    task: Task
    recipe: Recipe
    draw: int
    language: str
    round: int = 0
    pairs: dict[tuple[str, str, str], TrainingPair] = field(default_factory=dict)
    counts: Counter = field(default_factory=Counter)

    def add(self, pairs: Iterable[TrainingPair]) -> None:
        for pair in pairs:
            key = pair.qid, pair.passage_language, pair.docid
            if key not in self.pairs:
                self.pairs[key] = pair
            else:
                self.counts[
                    "conflicts" if self.pairs[key].label != pair.label else "duplicates"
                ] += 1

    def random(self, what: str):
        return generator(self.task.config.seed, self.draw, what, self.language)

    @property
    def train(self) -> str:
        return self.task.config.splits.train

    @property
    def qrels(self):
        """Judgments of the train queries."""
        return train_judgments(self.task, self.language) if self.known else {}

    @property
    def known(self) -> bool:
        return (self.language, self.train) in self.task.pairs(self.train)

    def taken(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for qid, _, docid in self.pairs:
            found.setdefault(qid, set()).add(docid)
        return found

    def keep(self):
        """The recipe's filters for negatives."""
        s = self.recipe.filters
        teacher = (
            self.taught(teacher_file(s.teacher, self.language, self.train), self.train)
            if s.teacher
            else {}
        )
        return filters.keeper(
            s, self.qrels, self.task.passages(self.language).text, teacher, self.counts
        )

    def taught(self, path: Path, split: str) -> Run:
        """A teacher's run, checked like any that is given."""
        return given_run(self.task, self.task.passages(self.language), path, self.language, split)


def add_judged(mix: Mix) -> Iterator[TrainingPair]:
    yield from judged.judged(
        mix.language, mix.qrels, mix.recipe.judged_negatives, mix.random("judged")
    )


def add_q2q2d(mix: Mix) -> Iterator[TrainingPair]:
    task, s = mix.task, mix.recipe.q2q2d
    if s is None or (mix.language, s.split) not in task.pairs(s.split):
        return
    languages = [
        la for la, _ in task.pairs(mix.train) if s.languages == "any" or la == mix.language
    ]
    if not languages:
        return
    judgments = {
        (la, q): found for la in languages for q, found in train_judgments(task, la).items()
    }
    known, vectors = [], []
    for la in languages:
        queries, encoded = query_vectors(task, s.backbone, la, mix.train)
        rows = [i for i, q in enumerate(queries) if (la, q.qid) in judgments]
        known += [(la, queries[i].qid) for i in rows]
        vectors.append(encoded[rows])
    targets, encoded = query_vectors(task, s.backbone, mix.language, s.split)
    yield from q2q2d.q2q2d(
        mix.language, targets, encoded, known, np.concatenate(vectors), judgments, s
    )


def add_pseudo_label(mix: Mix) -> Iterator[TrainingPair]:
    s = mix.recipe.pseudo_label
    if s and (mix.language, s.split) in mix.task.pairs(s.split):
        wanted = {q.qid for q in mix.task.queries(mix.language, s.split)}
        found = mix.taught(
            teacher_run(mix.task, s.teacher, mix.language, s.split, mix.round), s.split
        )
        run: Run = {
            q: scores for q, scores in found.items() if q in wanted
        }  # a folder's run may be of all queries
        yield from pseudo_label.pseudo_label(
            mix.language, run, s, mix.round, mix.random("pseudo_label")
        )


def add_top_negatives(mix: Mix) -> Iterator[TrainingPair]:
    if mix.known and mix.recipe.negatives:
        select, plan = mix.recipe.select, search.plan(mix.task)
        run, scores = (
            search.run_of(plan[f"{system}/{mix.language}-{mix.train}"])
            for system in ("hybrid", select.scores)
        )
        yield from top_negatives.top_negatives(
            mix.language,
            run,
            mix.qrels,
            mix.taken(),
            mix.recipe.negatives,
            mix.task.config.candidates,
            mix.random("top_negatives"),
            select,
            scores,
            mix.keep(),
        )


def add_corpus_negatives(mix: Mix) -> Iterator[TrainingPair]:
    if mix.known and mix.recipe.corpus_negatives:
        yield from corpus_negatives.corpus_negatives(
            mix.language,
            mix.task.passages(mix.language),
            mix.qrels,
            mix.taken(),
            mix.recipe.corpus_negatives,
            mix.random("corpus_negatives"),
            mix.keep(),
        )


AUGMENTATIONS = {
    "judged": add_judged,
    "q2q2d": add_q2q2d,
    "pseudo_label": add_pseudo_label,
    "top_negatives": add_top_negatives,
    "corpus_negatives": add_corpus_negatives,
}


def mixed(task: Task, recipe: Recipe, draw: int, language: str, round_: int) -> Mix:
    mix = Mix(task, recipe, draw, language, round_)
    for augment in AUGMENTATIONS.values():
        mix.add(augment(mix))
    return mix


def capped(
    pairs: list[TrainingPair], caps: dict[str, int], seed: int, draw: int
) -> list[TrainingPair]:
    """At most ``caps`` of each ORIGIN, LANGUAGE, or "LANGUAGE ORIGIN", in their order. Queries are drawn at random and keep their pairs, so
    that a relevant passage is not left without negatives; the last one may lose some."""
    for cap, most in caps.items():
        queries: dict[tuple[str, str], list[int]] = {}
        for i, p in enumerate(pairs):
            if cap in (p.origin, p.language, f"{p.language} {p.origin}"):
                queries.setdefault((p.language, p.qid), []).append(i)
        rows = list(queries.values())
        drawn = [
            i for k in generator(seed, draw, "caps", cap).permutation(len(rows)) for i in rows[k]
        ]
        out = set(drawn[most:])
        pairs = [p for i, p in enumerate(pairs) if i not in out]
    return pairs


@once
def train_judgments(task: Task, language: str) -> Qrels:
    """Checked once: every recipe, draw and, with Q2Q2D, every other language reads them."""
    return task.checked_judgments(language, task.config.splits.train)


@once
def query_vectors(
    task: Task, backbone: str, language: str, split: str
) -> tuple[list[Query], np.ndarray]:
    """A split's queries and their vectors of length 1."""
    queries = task.queries(language, split)
    return queries, encoder(task, backbone).encode_queries([q.text for q in queries])


@once
def encoder(task: Task, backbone: str) -> dense.Encoder:
    return dense.Encoder(backbone, task.config.models, None, 128, 8192, "fp32", {"normalise": True})


def teacher_file(folder: str | Path, language: str, split: str) -> Path:
    return run_file(
        folder, language, split, "a teacher's runs are LANG-SPLIT.trec for each language"
    )


def teacher_run(task: Task, teacher: str, language: str, split: str, round_: int) -> Path:
    """Of a folder, or of a system of the round before as the ensemble stage left it."""
    if Path(teacher).is_dir():
        return teacher_file(teacher, language, split)
    return run_file(
        round_folder(task.config, round_ - 1) / teacher,
        language,
        split,
        f"pseudo-labels of round {round_} come from the systems of round {round_ - 1}: "
        f"run ./run_all.sh with this configuration, or the stages with round={round_ - 1} first",
    )


def round_folder(config: Config, round_: int) -> Path:
    """Where the ensemble stage leaves a round's runs, SYSTEM/LANG-SPLIT.trec."""
    return config.folder / "rounds" / str(round_)
