"""The encoders of a configuration under its conditions: the tables of negative-sampling-2024, 5.

A condition is a set of test queries: of the collection that encoders are trained on
(in-distribution, Table 4), of another (out-of-distribution, Table 5), in languages without training
queries (zero-shot, Tables 6 to 8), or asked of another language's passages (contriever-2022, 5.3).
Encoders whose settings differ in the seed alone are one system: a query's value is the mean over
them.

python -m retrieval.encoders CONFIG --compare
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean

import numpy as np

from core.artefacts import RankedRun, TrainedEncoder
from core.config import nearest
from core.console import say
from core.errors import InputError
from core.evaluate import evaluate, mean_over_languages, t_test
from core.files import digest, finished_file, write_json
from core.judgments import split_judgments
from core.records import Qrels
from core.settings import Condition
from core.steps import Step
from core.task import ASKED, Task, asked_in, data_task
from retrieval import retrievers
from retrieval.encoders import encoders, hybrids
from retrieval.encoders.parallel import Parallel

METRICS = {"MRR@100": "RR@100", "Recall@100": "R@100", "nDCG@10": "nDCG@10"}
"""By the papers' names: what ir-measures calls them."""

CROSS_LINGUAL = {**METRICS, "Recall@20": "R@20"}
"""Of cross-lingual conditions: Tables 5, 13 and 14 of contriever-2022 have Recall@20, too."""

CONDITIONS = {
    "in-distribution": Condition(),
    "zero-shot": Condition(languages="others"),
}
"""Without any in the configuration; of its own collection."""

FILE = "encoders"
MEAN = "mean"


@dataclass(frozen=True)
class Tested:
    """A condition with all that its table is made of.

    ``pairs``: (language, split) of its runs by the queries' language. With ``parallel`` they search
    the passages of one language, and a query is judged as that language's same question is.
    """

    name: str
    source: Task
    pairs: dict[str, tuple[str, str]]
    systems: dict[str, list[str]]  # by what a table calls it: whose runs, one a seed
    parallel: Parallel | None = None
    rows: str = "languages"  # of its tables, or "systems"

    @property
    def metrics(self) -> dict[str, str]:
        """By the papers' names: what ir-measures calls them."""
        return CROSS_LINGUAL if self.parallel else METRICS

    @property
    def title(self) -> str:
        """Of its tables."""
        language, split = next(iter(self.pairs.values()))
        where = f"{self.source.config.collection_name} {split.partition(ASKED)[0]}"
        passages = f", passages in {language}" if self.parallel else ""
        return f"{self.name} ({where}{passages})"

    def judgments(self, language: str) -> Qrels:
        """Of the queries in one of its languages. Raises InputError where there are none."""
        searched, split = self.pairs[language]
        if self.parallel is None:
            return split_judgments(self.source, searched, split)
        own_split = split.partition(ASKED)[0]
        same = self.parallel.ids(language, searched)
        self.refuse_strangers(language, own_split, same.keys())
        self.refuse_strangers(searched, own_split, same.values())
        in_use = {query.qid for query in self.source.queries(searched, split)}
        judged = split_judgments(self.source, searched, own_split)
        qrels = {}
        for qid, partner in same.items():
            if qid in in_use and partner in judged:
                qrels[qid] = judged[partner]
        if not qrels:
            raise InputError(
                f"retrieval.conditions.{self.name}: by {self.parallel.path} no query of "
                f"{language}-{own_split} asks what a judged one of {searched} asks; "
                "take it out of languages"
            )
        return qrels

    def refuse_strangers(self, language: str, split: str, qids: Iterable[str]) -> None:
        """Raises InputError for ids of the file that are none of a split's."""
        assert self.parallel is not None
        known = {query.qid for query in self.source.collection.queries(language, split)}
        strangers = [qid for qid in qids if qid not in known]
        if strangers:
            raise InputError(
                f"{self.parallel.path}: {len(strangers)} queries of {language} have no topic in "
                f"{language}-{split}, first {', '.join(strangers[:5])}; "
                "is it the file of this collection and split?"
            )


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
        parallel = Parallel(Path(condition.parallel)) if condition.parallel else None
        pairs = pairs_of(source, name, condition, trained, parallel)
        systems: dict[str, list[str]] = {}
        for system in sources_of(source, parallel):
            systems[system] = [system]
            plan = source.new_plan("retrieval")
            retrievers.add_source_runs(source, plan, system, pairs.values())
        fused = fused_of(task, name, condition)
        if fused:
            hybrids.add(task, source, list(chain(*fused.values())), list(pairs.values()))
            systems = {"bm25": systems.pop("bm25"), hybrids.TUNED: [hybrids.TUNED], **systems}
        for label, names in by_seed(task).items():
            systems[label] = names
            for encoder in names:
                step = task.step(TrainedEncoder(encoder))
                plan = source.new_plan("retrieval")
                retrievers.add_encoder_runs(source, plan, encoder, step, pairs.values())
        for label, names in fused.items():
            systems[hybrids.name_of(label)] = [hybrids.name_of(encoder) for encoder in names]
        found.append(Tested(name, source, pairs, systems, parallel, condition.rows))
    return found


def sources_of(source: Task, parallel: Parallel | None) -> list[str]:
    """The sources beside the encoders; given runs are of a language's own queries alone."""
    systems = []
    for system in source.config.retrieval.sources:
        is_trained = system == "dense" and retrievers.trained_encoder(source)
        if not is_trained and not (system == "run" and parallel):
            systems.append(str(system))
    return systems


def fused_of(task: Task, name: str, condition: Condition) -> dict[str, list[str]]:
    """The encoders of a condition's hybrids, of all seeds. Raises InputError for unknown ones."""
    groups = by_seed(task)
    for hybrid in condition.hybrids:
        if hybrid not in groups:
            near = nearest(hybrid, groups)
            raise InputError(
                f"retrieval.conditions.{name}.hybrids: found {hybrid!r}, expected encoders: "
                f"{', '.join(groups)}" + (f"; did you mean {near}?" if near else "")
            )
    return {hybrid: groups[hybrid] for hybrid in condition.hybrids}


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
    source: Task,
    name: str,
    condition: Condition,
    trained: set[str],
    parallel: Parallel | None = None,
) -> dict[str, tuple[str, str]]:
    """The (language, split) of a condition's runs by the queries' language.

    Raises InputError for none, or unknown languages.
    """
    names = source.config.splits
    split = names.dev if condition.split == "dev" else names.test
    where = f"retrieval.conditions.{name}"
    known = judged_languages(source, split)
    if parallel is not None and condition.passages not in known:
        raise InputError(
            f"{where}.passages: found {condition.passages}, expected a language of "
            f"{source.collection.root} with judgments of {split}: {', '.join(known)}"
        )
    if parallel is not None:
        known = [language for language, _ in source.pairs(split) if language in parallel.languages]
    if isinstance(condition.languages, list):
        missing = [language for language in condition.languages if language not in known]
        if missing:
            raise InputError(
                f"{where}.languages: found {', '.join(missing)}, expected languages of "
                f"{source.collection.root} with {asked_for(parallel)} of {split}: "
                f"{', '.join(known)}"
            )
        chosen: list[str] = condition.languages
    elif condition.languages == "trained":
        chosen = [language for language in known if language in trained]
    else:
        chosen = [language for language in known if language not in trained]
    if not chosen:
        raise InputError(
            f"{where}: {source.collection.root} has no {asked_for(parallel)} of {split} in "
            f"languages that are {condition.languages}: the encoders learn from "
            f"{', '.join(sorted(trained))}; name languages, another split or other data"
        )
    pairs = {}
    for language in chosen:
        pairs[language] = (language, split)
        if condition.passages and language != condition.passages:
            pairs[language] = (condition.passages, asked_in(split, language))
    return pairs


def judged_languages(source: Task, split: str) -> list[str]:
    """Those with judgments of a split."""
    with_topics = [language for language, _ in source.pairs(split)]
    return [language for language in with_topics if (language, split) in source.collection.qrels]


def asked_for(parallel: Parallel | None) -> str:
    """What a language needs to be in a condition, for messages."""
    return f"queries in {parallel.path}" if parallel else "judgments"


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
                for language, split in condition.pairs.values():
                    steps.append(condition.source.step(RankedRun(name, language, split)))
    return steps


# ---- Values


def values_of(tested: Tested) -> Values:
    """Of each judged query; a system's is the mean over its runs."""
    metrics = tested.metrics
    languages: list[str] = []
    parts: dict[str, dict[str, list[np.ndarray]]] = {}
    for language, (searched, split) in tested.pairs.items():
        qrels = tested.judgments(language)
        languages += [language] * len(qrels)
        for system, names in tested.systems.items():
            of_seeds: dict[str, list[list[float]]] = {metric: [] for metric in metrics}
            for name in names:
                run = tested.source.stored_run(name, searched, split)
                found = evaluate(run, qrels, list(metrics.values()))
                for metric, measure in metrics.items():
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
    return lines_of(list(rows[0].values), {own.language: cells_of(own) for own in rows})


def turned(rows: Sequence[Row]) -> list[str]:
    """The same with a row a system and a column a language, as in Table 2 of mhfn-2022."""
    columns = [cells_of(own) for own in rows]
    of_systems = {}
    for place, system in enumerate(rows[0].values):
        of_systems[system] = [cells[place] for cells in columns]
    return lines_of([own.language for own in rows], of_systems)


def lines_of(titles: Sequence[str], rows: Mapping[str, Sequence[str]]) -> list[str]:
    """A table in Markdown of the cells of each row by its name."""
    lines = [f"| | {' | '.join(titles)} |", "| --- |" + " ---: |" * len(titles)]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    return lines


def cells_of(row: Row) -> list[str]:
    """A row's values, the best one marked."""
    cells = []
    for system, value in row.values.items():
        is_best = system == row.best
        cells.append(f"**{value:.4f}**{stars(row.p)}" if is_best else f"{value:.4f}")
    return cells


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
        for metric in condition.metrics:
            rows = rows_of(values.of[metric], values.languages)
            made = turned(rows) if condition.rows == "systems" else table(rows)
            lines += [f"### {condition.title}: {metric}", "", *made, ""]
            kept = {own.language: {**own.values, "p": own.p} for own in rows}
            figures.setdefault(condition.name, {})[metric] = kept
    folder = task.config.folder
    with finished_file(folder / f"{FILE}.md") as file:
        file.write("\n".join(lines))
    write_json(folder / f"{FILE}.json", figures)
    say("\n" + "\n".join(lines) + f"Also in {folder}/{FILE}.md and {FILE}.json")
