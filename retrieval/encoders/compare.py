"""The encoders of a configuration under its conditions: the tables of negative-sampling-2024, 5.

A condition is a set of test queries: of the collection that encoders are trained on
(in-distribution, Table 4), of another (out-of-distribution, Table 5), in languages without training
queries (zero-shot, Tables 6 to 8). Encoders whose settings differ in the seed alone are one system:
a query's value is the mean over them.

python -m retrieval.encoders CONFIG --compare
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from core.artefacts import RankedRun, TrainedEncoder
from core.console import say
from core.errors import InputError
from core.evaluate import evaluate, mean_over_languages, t_test
from core.files import digest, finished_file, write_json
from core.judgments import split_judgments
from core.settings import Condition
from core.steps import Step
from core.task import Task, data_task
from retrieval import retrievers
from retrieval.encoders import encoders

METRICS = {"MRR@100": "RR@100", "Recall@100": "R@100", "nDCG@10": "nDCG@10"}
"""By the papers' names: what ir-measures calls them."""

CONDITIONS = {
    "in-distribution": Condition(),
    "zero-shot": Condition(languages="others"),
}
"""Without any in the configuration; of its own collection."""

FILE = "encoders"
MEAN = "mean"


@dataclass(frozen=True)
class Tested:
    """A condition with all that its table is made of."""

    name: str
    source: Task
    pairs: list[tuple[str, str]]  # (language, split)
    systems: dict[str, list[str]]  # by what a table calls it: whose runs, one a seed


@dataclass(frozen=True)
class Values:
    """The values of all queries, in one order: metric -> system -> [queries]."""

    languages: list[str]  # of each query
    of: dict[str, dict[str, np.ndarray]]


# ---- What is to be made


def conditions(task: Task) -> list[Tested]:
    """Those of the configuration, with the encoders' runs in the plans of their collections.

    Raises InputError for one that has no judged queries.
    """
    trained = languages_of_training(task)
    found = []
    for name, condition in (task.config.retrieval.conditions or CONDITIONS).items():
        source = data_task(task, condition.data) if condition.data else task
        retrievers.sources_plan(source)
        pairs = pairs_of(source, name, condition, trained)
        systems: dict[str, list[str]] = {}
        for system in source.config.retrieval.sources:
            if system != "dense" or not retrievers.trained_encoder(source):
                systems[system] = [system]
        for label, names in by_seed(task).items():
            systems[label] = names
            for encoder in names:
                step = task.step(TrainedEncoder(encoder))
                plan = source.new_plan("retrieval")
                retrievers.add_encoder_runs(source, plan, encoder, step, pairs)
        found.append(Tested(name, source, pairs, systems))
    return found


def languages_of_training(task: Task) -> set[str]:
    """Those that any of the encoders learns retrieval from: from labelled pairs, if one does."""
    every = list(task.config.retrieval.encoders.values())
    labelled = [encoder for encoder in every if encoder.pairs == "labelled"]
    languages: set[str] = set()
    for encoder in labelled or every:
        source = encoders.task_of(task, encoder)
        languages.update(encoders.training_languages(source, encoder))
    return languages


def pairs_of(
    source: Task, name: str, condition: Condition, trained: set[str]
) -> list[tuple[str, str]]:
    """The languages and the split of a condition. Raises InputError for none, or unknown ones."""
    names = source.config.splits
    split = names.dev if condition.split == "dev" else names.test
    where = f"retrieval.conditions.{name}"
    judged = []
    for language, _ in source.pairs(split):
        if (language, split) in source.collection.qrels:
            judged.append(language)
    if isinstance(condition.languages, list):
        missing = [language for language in condition.languages if language not in judged]
        if missing:
            raise InputError(
                f"{where}.languages: found {', '.join(missing)}, expected languages of "
                f"{source.collection.root} with judgments of {split}: {', '.join(judged)}"
            )
        judged = condition.languages
    elif condition.languages == "trained":
        judged = [language for language in judged if language in trained]
    else:
        judged = [language for language in judged if language not in trained]
    if not judged:
        raise InputError(
            f"{where}: {source.collection.root} has no judged {split} queries in languages "
            f"that are {condition.languages}: the encoders learn from "
            f"{', '.join(sorted(trained))}; name languages, another split or other data"
        )
    return [(language, split) for language in judged]


def by_seed(task: Task) -> dict[str, list[str]]:
    """Encoders that differ in their seed alone, under the name of the first."""
    groups: dict[str, list[str]] = {}
    for name, encoder in task.config.retrieval.encoders.items():
        key = digest(encoder.model_dump(mode="json", exclude={"seed"}))
        groups.setdefault(key, []).append(name)
    return {names[0]: names for names in groups.values()}


def needed_runs(tested: Sequence[Tested]) -> list[Step]:
    """The runs of all systems."""
    steps = []
    for condition in tested:
        for names in condition.systems.values():
            for name in names:
                for language, split in condition.pairs:
                    steps.append(condition.source.step(RankedRun(name, language, split)))
    return steps


# ---- Values


def values_of(tested: Tested) -> Values:
    """Of each judged query; a system's is the mean over its runs."""
    languages: list[str] = []
    parts: dict[str, dict[str, list[np.ndarray]]] = {}
    for language, split in tested.pairs:
        qrels = split_judgments(tested.source, language, split)
        languages += [language] * len(qrels)
        for system, names in tested.systems.items():
            of_seeds: dict[str, list[list[float]]] = {metric: [] for metric in METRICS}
            for name in names:
                run = tested.source.stored_run(name, language, split)
                found = evaluate(run, qrels, list(METRICS.values()))
                for metric, measure in METRICS.items():
                    of_seeds[metric].append([found[measure][qid] for qid in qrels])
            for metric, values in of_seeds.items():
                of_system = parts.setdefault(metric, {}).setdefault(system, [])
                of_system.append(np.mean(values, axis=0))
    of = {}
    for metric, by_system in parts.items():
        of[metric] = {system: np.concatenate(made) for system, made in by_system.items()}
    return Values(languages, of)


@dataclass(frozen=True)
class Row:
    """A language, or the mean over languages: each system's value, and p of best against second.

    ``p`` is of a paired t-test, not corrected for the number of tests, as in the paper; None where
    there is no second system, or a language with a single query.
    """

    language: str
    values: dict[str, float]
    p: float | None

    @property
    def best(self) -> str:
        """The system with the highest value; the first of equal ones."""
        return max(self.values, key=lambda system: self.values[system])


def rows_of(values: Mapping[str, np.ndarray], languages: Sequence[str]) -> list[Row]:
    """A row a language and, of several, their mean; ``values`` of a metric: system -> [queries]."""
    names = np.asarray(languages)
    rows = []
    for language in dict.fromkeys(languages):
        own = {system: found[names == language] for system, found in values.items()}
        means = {system: fmean(found) for system, found in own.items()}
        rows.append(row(language, means, own, [language] * int((names == language).sum())))
    if len(rows) > 1:
        means = {}
        for system, found in values.items():
            means[system] = mean_over_languages(found.tolist(), languages)
        rows.append(row(MEAN, means, values, languages))
    return rows


def row(
    name: str,
    means: dict[str, float],
    values: Mapping[str, np.ndarray],
    languages: Sequence[str],
) -> Row:
    """With the test of the best system against the second."""
    best, *others = sorted(means, key=lambda system: -means[system])
    p = None
    is_single = min(languages.count(language) for language in set(languages)) < 2
    if others and not is_single:
        p = t_test((values[best] - values[others[0]]).tolist(), languages)
    return Row(name, means, p)


# ---- The tables


def table(rows: Sequence[Row]) -> list[str]:
    """Lines of Markdown: the best of a row in bold, ** for p < .01 and * for p < .05."""
    systems = list(rows[0].values)
    lines = [f"| | {' | '.join(systems)} |", "| --- |" + " ---: |" * len(systems)]
    for own in rows:
        cells = []
        for system, value in own.values.items():
            is_best = system == own.best
            cells.append(f"**{value:.4f}**{stars(own.p)}" if is_best else f"{value:.4f}")
        lines.append(f"| {own.language} | {' | '.join(cells)} |")
    return lines


def stars(p: float | None) -> str:
    """The paper's marks (4.4), escaped for Markdown."""
    if p is None or p >= 0.05:
        return ""
    return r" \*\*" if p < 0.01 else r" \*"


def report(task: Task, tested: Sequence[Tested]) -> None:
    """Prints a table a condition and metric, and leaves them beside the results as two files."""
    lines: list[str] = []
    figures: dict[str, dict] = {}
    for condition in tested:
        values = values_of(condition)
        _, split = condition.pairs[0]
        for metric in METRICS:
            rows = rows_of(values.of[metric], values.languages)
            title = f"{condition.name} ({condition.source.config.collection_name} {split})"
            lines += [f"### {title}: {metric}", "", *table(rows), ""]
            kept = {own.language: {**own.values, "p": own.p} for own in rows}
            figures.setdefault(condition.name, {})[metric] = kept
    folder = task.config.folder
    with finished_file(folder / f"{FILE}.md") as file:
        file.write("\n".join(lines))
    write_json(folder / f"{FILE}.json", figures)
    say("\n" + "\n".join(lines) + f"Also in {folder}/{FILE}.md and {FILE}.json")
