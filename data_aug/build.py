"""The data_aug stage: one file of training groups a recipe and draw.

    python -m data_aug.build CONFIG [key=value …]
"""
import json
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from core.config import from_arguments, with_data
from core.distributed import generator
from core.errors import InputError, exit_with_message
from core.files import write_json
from core.folds import Key, make_folds, read_folds, write_folds
from core.groups import write_groups
from core.records import TrainingPair
from core.settings import Config, Recipe
from core.store import Plan, run_steps, say
from core.task import Task
from data_aug.judged import judged
from data_aug.top_negatives import top_negatives
from retrieval import search


def add_judged(task: Task, recipe: Recipe, draw: int, language: str, pairs: list[TrainingPair]) -> None:
    random = generator(task.config.seed, draw, "judged", language)
    pairs.extend(judged(language, search.checked_judgments(task, language, task.config.splits.train), recipe.judged_negatives, random))


def add_top_negatives(task: Task, recipe: Recipe, draw: int, language: str, pairs: list[TrainingPair]) -> None:
    train = task.config.splits.train
    taken: dict[str, set[str]] = {}
    for pair in pairs:
        taken.setdefault(pair.qid, set()).add(pair.docid)
    run = search.run_of(search.plan(task)[f"hybrid/{language}-{train}"])
    random = generator(task.config.seed, draw, "top_negatives", language)
    pairs.extend(top_negatives(language, run, task.judgments(language, train), taken, recipe.negatives, task.config.candidates, random))


AUGMENTATIONS = {"judged": add_judged, "top_negatives": add_top_negatives}     # in this order: each sees the pairs before it


@cache
def plan(task: Task) -> Plan:
    steps, train, upstream = Plan("data_aug", task.config.home), task.config.splits.train, search.plan(task)
    languages = [la for la, _ in task.pairs(train)]
    if not languages:
        raise InputError(f"{task.collection.root}: no language has {train} topics, so there is nothing to train on")
    inputs = [x for la in languages for x in (upstream[f"hybrid/{la}-{train}"], task.qrels_input(la, train), upstream[f"passages/{la}"])]
    for name, recipe in task.config.data_aug.items():
        settings = {**recipe.model_dump(), "candidates": task.config.candidates, "seed": task.config.seed, "methods": list(AUGMENTATIONS)}
        steps.add(f"groups/{name}", 1, settings, inputs, lambda folder, r=recipe: build(task, r, languages, folder), seconds=10)
    add_folds(task, steps)
    return steps


def add_folds(task: Task, steps: Plan) -> None:
    """One fold file over all judged train and dev queries in use, for every stage that tries out what it learns."""
    f, s = task.config.folds, task.config.splits
    pairs = [pair for pair in task.pairs(s.train, s.dev) if pair in task.collection.qrels]
    inputs = [x for pair in pairs for x in (task.topics_input(*pair), task.qrels_input(*pair))]
    if f.file:
        inputs.append(task.file_input("folds.file", Path(f.file)))
    steps.add("folds", 1, {**f.model_dump(exclude={"file"}), "seed": task.config.seed}, inputs, lambda folder: build_folds(task, pairs, folder), seconds=2)


def build_folds(task: Task, pairs: list[tuple[str, str]], folder: Path) -> None:
    f, queries, articles = task.config.folds, {}, {}
    for la, split in pairs:
        qrels, found = task.judgments(la, split), {(la, q.qid): q.text for q in task.queries(la, split)}
        twice = [qid for language, qid in found if (language, qid) in queries]
        if twice:
            raise InputError(f"{task.collection.root}: {la}: query ids of {split} that another split has: {len(twice)}, first {', '.join(twice[:5])}; folds need ids of one meaning")
        queries |= {key: text for key, text in found.items() if key[1] in qrels}
        if f.by_article:
            articles |= {(la, q): {d.partition("#")[0] for d, gain in judged.items() if gain > 0} for q, judged in qrels.items()}
    folds = read_folds(Path(f.file), queries) if f.file else make_folds(queries, articles, f.count, f.duplicates, task.config.seed)
    write_folds(folder / "folds.tsv", folds)


def folds(task: Task, keys: Iterable[Key]) -> dict[Key, int]:
    return read_folds(plan(task)["folds"].path / "folds.tsv", keys)


def build(task: Task, recipe: Recipe, languages: list[str], folder: Path) -> None:
    """``draw-N.parquet`` for each draw, and counts by language and origin (``short``: queries with fewer than k negatives to draw)."""
    counts: Counter = Counter()
    for draw in range(recipe.draws):
        pairs: list[TrainingPair] = []
        for language in languages:
            own: list[TrainingPair] = []
            for augment in AUGMENTATIONS.values():
                augment(task, recipe, draw, language, own)
            drawn = Counter(p.qid for p in own if p.origin == "top_negatives")
            queries = {p.qid for p in own}
            counts[f"{language} short"] += sum(drawn[q] < recipe.negatives for q in queries)
            counts[f"{language} queries"] += len(queries)
            counts.update(f"{language} {p.origin} {'positive' if p.label > 0 else 'negative'}" for p in own)
            pairs += own
        write_groups(folder / f"draw-{draw}.parquet", pairs)
    write_json(folder / "counts.json", {"draws": recipe.draws, "counts": dict(counts)})


def report(task: Task) -> None:
    for name in task.config.data_aug:
        counts = json.loads((plan(task)[f"groups/{name}"].path / "counts.json").read_text())["counts"]
        totals: Counter = Counter()
        for key, value in counts.items():
            totals[key.split(" ", 1)[1]] += value
        say(f"groups {name}: " + ", ".join(f"{value} {key}" for key, value in sorted(totals.items())))


def run(config: Config) -> None:
    task = Task(config)
    run_steps(plan(task).values(), config.folder)
    report(task)


def main() -> None:
    for config in with_data(from_arguments("runs and judgments to training groups")[0]):
        run(config)


if __name__ == "__main__":
    exit_with_message(main)
