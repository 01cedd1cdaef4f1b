"""The data_aug stage: one file of training groups a recipe and draw.

python -m data_aug.build CONFIG [key=value …]
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from core import backbones
from core.artefacts import FoldFile, TrainingGroups
from core.building import run_steps
from core.config import from_arguments, with_data
from core.console import say
from core.distributed import generator
from core.errors import InputError, exit_with_message
from core.files import write_json
from core.folds import Key, make_folds, read_folds, write_folds
from core.groups import write_groups
from core.recipes import Recipe
from core.records import TrainingPair
from core.settings import Config
from core.steps import Plan
from core.task import Task, once
from data_aug.augment import AUGMENTATIONS, capped, mixed, teacher_file, teacher_run
from retrieval import search


@once
def plan(task: Task) -> Plan:
    steps = task.new_plan("data_aug")
    languages = [la for la, _ in task.pairs(task.config.splits.train)]
    if not languages and task.config.ranking.trained:
        raise InputError(
            f"{task.collection.root}: no language has {task.config.splits.train} topics, so there is nothing to train on"
        )
    recipes = task.config.data_aug if languages else {}  # given rankers learn from nothing
    for name, recipe in recipes.items():
        users = [
            r.round
            for r in task.config.ranking.trained.values()
            if r.recipe == name and r.data is None
        ]
        if users or not recipe.pseudo_label:  # what a later round asks for is made then
            add_groups(task, steps, name, min(users, default=0))
    add_folds(task, steps)
    return steps


def add_groups(task: Task, steps: Plan, name: str, round_: int) -> None:
    recipe, train, upstream = (
        task.config.data_aug[name],
        task.config.splits.train,
        search.plan(task),
    )
    check(task, name, round_)
    languages = [la for la, _ in task.pairs(train)]
    inputs = [
        x
        for la in languages
        for x in (
            upstream[f"hybrid/{la}-{train}"],
            task.qrels_input(la, train),
            upstream[f"passages/{la}"],
        )
    ]
    methods = [m for m in AUGMENTATIONS if m in ("judged", "top_negatives") or getattr(recipe, m)]
    settings = {
        **recipe.recipe_settings,
        "candidates": task.config.candidates,
        "seed": task.config.seed,
        "methods": methods,
    }
    if recipe.select.scores != "hybrid":
        inputs += [upstream[f"{recipe.select.scores}/{la}-{train}"] for la in languages]
    if recipe.filters.teacher:
        inputs += [
            task.file_input(
                f"teacher/{la}-{train}", teacher_file(recipe.filters.teacher, la, train)
            )
            for la in languages
        ]
    if q := recipe.q2q2d:
        settings["encoder"] = backbones.fingerprint(q.backbone, task.config.models)
        inputs += [task.topics_input(*pair) for pair in task.pairs(train, q.split)]
    if p := recipe.pseudo_label:
        settings["round"] = round_
        inputs += [
            x
            for la, split in task.pairs(p.split)
            for x in (
                task.topics_input(la, split),
                task.file_input(
                    f"pseudo/{la}-{split}", teacher_run(task, p.teacher, la, split, round_)
                ),
            )
        ]
    inputs = list({i.name: i for i in inputs}.values())
    version = 2 if recipe.caps else 1  # caps keep queries whole since 2
    steps.add(
        TrainingGroups(name),
        version,
        settings,
        inputs,
        lambda folder: build(task, recipe, languages, round_, folder),
        seconds=10,
    )


def check(task: Task, name: str, round_: int) -> None:
    """A recipe's settings that name nothing, and targets that are not unlabelled."""
    recipe, train, where = task.config.data_aug[name], task.config.splits.train, f"data_aug.{name}"
    systems = task.config.retrieval.systems
    if recipe.select.scores not in systems:
        raise InputError(
            f"{where}.select.scores: found {recipe.select.scores!r}, expected one of {', '.join(systems)}"
        )
    for cap in recipe.caps:
        if not all(part in (*AUGMENTATIONS, *task.languages) for part in cap.split(" ", 1)):
            raise InputError(
                f"{where}.caps: found {cap!r}, expected an origin ({', '.join(AUGMENTATIONS)}), a language, or both with a space between"
            )
    for split in recipe.targets:
        if split == train or not task.pairs(split):
            raise InputError(
                f"{where}: its unlabelled queries are of the split {split!r}, expected one of {task.config.splits.dev}, {task.config.splits.test}, with topics, and not {train}"
            )
        for la, _ in task.pairs(split):
            both = (
                {q.qid for q in task.queries(la, split)} & {q.qid for q in task.queries(la, train)}
                if (la, train) in task.pairs(train)
                else ()
            )
            if both:
                raise InputError(
                    f"{where}: {la}: {split} and {train} share query ids, {len(both)}, first {', '.join(sorted(both)[:5])}; a pair names its query by its id"
                )
    if recipe.pseudo_label and round_ == 0 and not Path(recipe.pseudo_label.teacher).is_dir():
        raise InputError(
            f"{where}.pseudo_label.teacher: {recipe.pseudo_label.teacher!r} is no folder, so it is a system of the round before: give the rankers of this recipe round: 1 or more"
        )


def add_folds(task: Task, steps: Plan) -> None:
    """One fold file over all judged train and dev queries in use, for every stage that tries out what it learns."""
    f, s = task.config.folds, task.config.splits
    pairs = [pair for pair in task.pairs(s.train, s.dev) if pair in task.collection.qrels]
    inputs = [x for pair in pairs for x in (task.topics_input(*pair), task.qrels_input(*pair))]
    if f.file:
        inputs.append(task.file_input("folds.file", Path(f.file)))
    steps.add(
        FoldFile(),
        1,
        {**f.model_dump(exclude={"file"}), "seed": task.config.seed},
        inputs,
        lambda folder: build_folds(task, pairs, folder),
        seconds=2,
    )


def build_folds(task: Task, pairs: list[tuple[str, str]], folder: Path) -> None:
    f, queries, articles = task.config.folds, {}, {}
    for la, split in pairs:
        qrels, found = (
            task.judgments(la, split),
            {(la, q.qid): q.text for q in task.queries(la, split)},
        )
        twice = [qid for language, qid in found if (language, qid) in queries]
        if twice:
            raise InputError(
                f"{task.collection.root}: {la}: query ids of {split} that another split has: {len(twice)}, first {', '.join(twice[:5])}; folds need ids of one meaning"
            )
        queries |= {key: text for key, text in found.items() if key[1] in qrels}
        if f.by_article:
            articles |= {
                (la, q): {d.partition("#")[0] for d, gain in judged.items() if gain > 0}
                for q, judged in qrels.items()
            }
    folds = (
        read_folds(Path(f.file), queries)
        if f.file
        else make_folds(queries, articles, f.count, f.duplicates, task.config.seed)
    )
    write_folds(folder / "folds.tsv", folds)


def folds(task: Task, keys: Iterable[Key]) -> dict[Key, int]:
    return read_folds(plan(task)["folds"].path / "folds.tsv", keys)


def build(task: Task, recipe: Recipe, languages: list[str], round_: int, folder: Path) -> None:
    """``draw-N.parquet`` for each draw; counts by language and origin (``short``: queries with fewer than k negatives to draw), of what
    the filters dropped and of labels in conflict; and a sample of pairs with their texts."""
    counts: Counter = Counter()
    every = languages + [la for la in task.languages if la not in languages]
    for draw in range(recipe.draws):
        pairs: list[TrainingPair] = []
        for language in every:
            mix = mixed(task, recipe, draw, language, round_)
            own = list(mix.pairs.values())
            drawn = Counter(p.qid for p in own if p.origin == "top_negatives")
            if language in languages:
                queries = {p.qid for p in own if p.origin in ("judged", "top_negatives")}
                counts[f"{language} short"] += sum(drawn[q] < recipe.negatives for q in queries)
                counts[f"{language} queries"] += len(queries)
            counts.update({f"{language} {what}": n for what, n in mix.counts.items()})
            pairs += own
        pairs = capped(pairs, recipe.caps, task.config.seed, draw)
        counts.update(
            f"{p.language} {p.origin} {'positive' if p.label > 0 else 'negative'}" for p in pairs
        )
        write_groups(folder / f"draw-{draw}.parquet", pairs)
        if draw == 0:
            write_json(folder / "sample.json", sample(task, pairs))
    write_json(
        folder / "counts.json",
        {"draws": recipe.draws, "counts": dict(counts), "transductive": recipe.targets},
    )


def sample(task: Task, pairs: list[TrainingPair], of_each: int = 3) -> list[dict]:
    """A few pairs of each origin and sign, to look at."""
    kinds: dict[tuple[str, bool], list[TrainingPair]] = {}
    for pair in pairs:
        kinds.setdefault((pair.origin, pair.label > 0), []).append(pair)
    random, found = generator(task.config.seed, 0, "sample"), []
    for kind in kinds.values():
        for i in sorted(random.permutation(len(kind))[:of_each]):
            p = kind[i]
            query = next(
                q.text
                for s in task.splits(p.language)
                for q in task.queries(p.language, s)
                if q.qid == p.qid
            )
            found.append(
                {
                    **p._asdict(),
                    "query": query,
                    "passage": task.passages(p.passage_language or p.language).text(p.docid)[:300],
                }
            )
    return found


def report(task: Task) -> None:
    for name in (step.removeprefix("groups/") for step in plan(task) if step.startswith("groups/")):
        counts = json.loads((plan(task)[f"groups/{name}"].path / "counts.json").read_text())[
            "counts"
        ]
        totals: Counter = Counter()
        for key, value in counts.items():
            totals[key.split(" ", 1)[1]] += value
        targets = task.config.data_aug[name].targets
        note = f" (transductive: unlabelled {' and '.join(targets)} queries)" if targets else ""
        say(
            f"groups {name}: "
            + ", ".join(f"{value} {key}" for key, value in sorted(totals.items()))
            + note
        )


def run(config: Config) -> None:
    task = Task(config)
    run_steps(plan(task).values(), config.folder)
    report(task)


def main() -> None:
    for config in with_data(from_arguments("runs and judgments to training groups")[0]):
        run(config)


if __name__ == "__main__":
    exit_with_message(main)
