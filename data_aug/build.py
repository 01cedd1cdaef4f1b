"""The data_aug stage: one file of training groups a recipe and draw.

python -m data_aug.build CONFIG [key=value …]
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from core import backbones
from core.artefacts import FoldFile, PassageStore, RankedRun, TrainingGroups
from core.building import run_steps
from core.config import from_arguments, with_data
from core.console import say
from core.distributed import generator
from core.errors import InputError, exit_with_message
from core.files import write_json
from core.folds import Key, make_folds, read_folds, write_folds
from core.groups import as_table, joined, pairs_of, write_table
from core.recipes import Filters, PseudoLabel, Recipe, Select
from core.records import TrainingPair
from core.settings import Config
from core.steps import Files, Plan, Step
from core.task import Task, once
from data_aug.augment import (
    AUGMENTATIONS,
    capped,
    mixed,
    scored_depth,
    teacher_file,
    teacher_folder,
    teacher_run,
)
from data_aug.filters import article_of
from retrieval import judges, search
from retrieval.judges.language_model import Counting

if TYPE_CHECKING:
    import pyarrow

SAMPLED = 3  # pairs of each origin and sign that are kept to look at


@once
def plan(task: Task) -> Plan:
    """The groups, and the folds that the ensemble stage tries things out on."""
    steps = task.new_plan("data_aug")
    steps.update(plan_groups(task))
    add_folds(task, steps)
    return steps


@once
def plan_groups(task: Task) -> Plan:
    """The groups of every recipe that a training asks for.

    All that is to be made of a configuration whose data another one trains on: nothing of it is
    fused, so nobody uses its folds.
    """
    search.plan(task)
    steps = task.new_plan("data_aug")
    train = task.config.splits.train
    trained = task.config.ranking.trained
    has_topics = bool(task.pairs(train))
    if trained and not has_topics:
        raise InputError(
            f"{task.collection.root}: no language has {train} topics, "
            "so there is nothing to train on"
        )
    recipes = task.config.data_aug if has_topics else {}  # given rankers learn from nothing
    for name, recipe in recipes.items():
        rounds = []  # of the rankers that learn from it here
        for ranker in trained.values():
            if ranker.recipe == name and ranker.data is None:
                rounds.append(ranker.round)
        if rounds or not recipe.pseudo_label:  # what a later round asks for is made then
            add_groups(task, steps, name, min(rounds, default=0))
    return steps


def add_groups(task: Task, steps: Plan, name: str, round_: int) -> None:
    """The step of a recipe's groups; ``round_`` is the one whose rankers learn from them."""
    recipe = task.config.data_aug[name]
    check(task, name, round_)
    languages = [language for language, _ in task.pairs(task.config.splits.train)]
    settings = {
        **recipe.recipe_settings,
        "candidates": task.config.candidates,
        "seed": task.config.seed,
        "methods": methods_of(recipe),
    }
    if recipe.q2q2d:
        settings["encoder"] = backbones.fingerprint(recipe.q2q2d.backbone, task.config.models)
    if recipe.pseudo_label:
        teacher = teacher_folder(task, recipe.pseudo_label.teacher, round_)
        settings["round"] = round_
        settings["scored"] = scored_depth(teacher)
    if recipe.filters.judge is not None:
        settings["judged by"] = judges.fingerprint(recipe.filters.judge, task.config.models)
    if recipe.filters.teacher:
        filter_depth = scored_depth(Path(recipe.filters.teacher))
        if filter_depth is not None:
            settings["filters_scored"] = filter_depth

    def make(folder: Path) -> None:
        say_shallow_teacher(name, recipe, settings.get("scored"))
        build(task, recipe, languages, round_, folder)

    version = 2 if recipe.caps else 1  # caps keep queries whole since 2
    if recipe.pseudo_label:
        version = 3  # what the teacher did not score teaches nothing since 3
    steps.add(
        TrainingGroups(name),
        version=version,
        settings=settings,
        inputs=inputs_of(task, recipe, languages, round_),
        build=make,
        seconds=10,
    )


def say_shallow_teacher(name: str, recipe: Recipe, scored: int | None) -> None:
    """Tells if a teacher scored fewer passages than the recipe would take labels of."""
    pseudo = recipe.pseudo_label
    if pseudo and scored is not None and scored < pseudo.depth:
        say(
            f"  note: data_aug.{name}.pseudo_label.depth is {pseudo.depth}, but its teacher "
            f"{pseudo.teacher} scored {scored} passages a query; only those teach"
        )


def methods_of(recipe: Recipe) -> list[str]:
    """The augmentations that a recipe uses: those that it has settings for, and the two basic."""
    basic = ("judged", "top_negatives")
    return [name for name in AUGMENTATIONS if name in basic or getattr(recipe, name)]


def inputs_of(task: Task, recipe: Recipe, languages: list[str], round_: int) -> list[Step | Files]:
    """All that a recipe's methods read, each once."""
    train = task.config.splits.train
    inputs: list[Step | Files] = []
    for language in languages:
        inputs.append(task.step(RankedRun("hybrid", language, train)))
        inputs.append(task.qrels_input(language, train))
        inputs.append(task.step(PassageStore(language)))
    if recipe.select.scores != "hybrid":
        for language in languages:
            inputs.append(task.step(RankedRun(recipe.select.scores, language, train)))
    if recipe.filters.teacher:
        for language in languages:
            file = teacher_file(recipe.filters.teacher, language, train)
            inputs.append(task.file_input(f"teacher/{language}-{train}", file))
    if recipe.q2q2d:
        for language, split in task.pairs(train, recipe.q2q2d.split):
            inputs.append(task.topics_input(language, split))
    if recipe.pseudo_label:
        teacher = recipe.pseudo_label.teacher
        for language, split in task.pairs(recipe.pseudo_label.split):
            inputs.append(task.topics_input(language, split))
            file = teacher_run(task, teacher, language, split, round_)
            inputs.append(task.file_input(f"pseudo/{language}-{split}", file))
    return list({source.name: source for source in inputs}.values())


def check(task: Task, name: str, round_: int) -> None:
    """Raises InputError for a recipe's settings that name nothing or contradict each other."""
    recipe = task.config.data_aug[name]
    where = f"data_aug.{name}"
    systems = task.config.retrieval.systems
    if recipe.select.scores not in systems:
        raise InputError(
            f"{where}.select.scores: found {recipe.select.scores!r}, "
            f"expected one of {', '.join(systems)}"
        )
    check_caps(task, where, recipe)
    check_void(where, recipe)
    for split in recipe.targets:
        check_unlabelled(task, where, split)
    pseudo = recipe.pseudo_label
    if pseudo and round_ == 0 and not Path(pseudo.teacher).is_dir():
        raise InputError(
            f"{where}.pseudo_label.teacher: {pseudo.teacher!r} is no folder, so it is a system of "
            "the round before: give the rankers of this recipe round: 1 or more"
        )


def check_caps(task: Task, where: str, recipe: Recipe) -> None:
    """Raises InputError for a cap on pairs that there are not, or not by this recipe."""
    methods = methods_of(recipe)
    known = kinds(task, AUGMENTATIONS)
    made = kinds(task, methods)
    for cap in recipe.caps:
        if cap not in known:
            raise InputError(
                f"{where}.caps: found {cap!r}, expected an origin ({', '.join(AUGMENTATIONS)}), "
                "a language, or both with a space between"
            )
        if cap not in made:
            raise InputError(
                f"{where}.caps: found {cap!r}, but this recipe makes no such pairs; it makes "
                f"{', '.join(methods)}"
            )


def kinds(task: Task, origins: Iterable[str]) -> set[str]:
    """What a cap may be on: an ORIGIN, a LANGUAGE, or a "LANGUAGE ORIGIN"."""
    names = {*origins, *task.languages}
    for language in task.languages:
        names.update(f"{language} {origin}" for origin in origins)
    return names


def check_void(where: str, recipe: Recipe) -> None:
    """Raises InputError for settings that another one makes void."""
    if recipe.select != Select() and not recipe.negatives:
        raise InputError(
            f"{where}.select: chooses negatives among the candidates, but negatives is 0; "
            "draw some, or leave select out"
        )
    if recipe.filters != Filters() and not recipe.negatives and not recipe.corpus_negatives:
        raise InputError(
            f"{where}.filters: leave negatives out, but negatives and corpus_negatives are 0; "
            "draw some, or leave filters out"
        )
    pseudo = recipe.pseudo_label
    default = PseudoLabel.model_fields["threshold"].default
    if pseudo and pseudo.labels == "soft" and pseudo.threshold != default:
        raise InputError(
            f"{where}.pseudo_label.threshold: found {pseudo.threshold}, but it is of hard labels; "
            "set labels: hard, or leave it out"
        )


def check_unlabelled(task: Task, where: str, split: str) -> None:
    """Raises InputError where a split can't be what unlabelled queries are taken from."""
    splits = task.config.splits
    if split == splits.train or not task.pairs(split):
        raise InputError(
            f"{where}: its unlabelled queries are of the split {split!r}, expected one of "
            f"{splits.dev}, {splits.test}, with topics, and not {splits.train}"
        )
    with_training = task.pairs(splits.train)
    for language, _ in task.pairs(split):
        if (language, splits.train) not in with_training:
            continue
        training = {query.qid for query in task.queries(language, splits.train)}
        unlabelled = {query.qid for query in task.queries(language, split)}
        both = sorted(training & unlabelled)
        if both:
            raise InputError(
                f"{where}: {language}: {split} and {splits.train} share query ids, {len(both)}, "
                f"first {', '.join(both[:5])}; a pair names its query by its id"
            )


def add_folds(task: Task, steps: Plan) -> None:
    """One fold file over all judged train and dev queries in use.

    It is for every stage that tries out what it learns.
    """
    settings = task.config.folds
    splits = task.config.splits
    judged = []
    inputs: list[Step | Files] = []
    for language, split in task.pairs(splits.train, splits.dev):
        if (language, split) in task.collection.qrels:
            judged.append((language, split))
            inputs.append(task.topics_input(language, split))
            inputs.append(task.qrels_input(language, split))
    if settings.file:
        void = sorted(settings.model_dump(exclude={"file"}, exclude_defaults=True))
        if void:
            raise InputError(
                f"folds.{void[0]}: how folds are made is of no effect on those given by "
                f"folds.file={settings.file}; leave one of the two out"
            )
        inputs.append(task.file_input("folds.file", Path(settings.file)))
    steps.add(
        FoldFile(),
        version=1,
        settings={**settings.model_dump(exclude={"file"}), "seed": task.config.seed},
        inputs=inputs,
        build=lambda folder: build_folds(task, judged, folder),
        seconds=2,
    )


def build_folds(task: Task, judged: list[tuple[str, str]], folder: Path) -> None:
    """``folds.tsv`` of the judged queries of some (language, split)."""
    settings = task.config.folds
    queries: dict[Key, str] = {}
    articles: dict[Key, set[str]] = {}
    for language, split in judged:
        qrels = task.judgments(language, split)
        texts = {query.qid: query.text for query in task.queries(language, split)}
        twice = [qid for qid in texts if (language, qid) in queries]
        if twice:
            raise InputError(
                f"{task.collection.root}: {language}: query ids of {split} that another split "
                f"has: {len(twice)}, first {', '.join(twice[:5])}; folds need ids of one meaning"
            )
        for qid, text in texts.items():
            if qid in qrels:
                queries[language, qid] = text
        if settings.by_article:
            for qid, gains in qrels.items():
                relevant = [docid for docid, gain in gains.items() if gain > 0]
                articles[language, qid] = set(map(article_of, relevant))
    if settings.file:
        folds = read_folds(Path(settings.file), queries)
    else:
        folds = make_folds(queries, articles, settings.count, settings.duplicates, task.config.seed)
    write_folds(folder / "folds.tsv", folds)


def folds(task: Task, keys: Iterable[Key]) -> dict[Key, int]:
    """The fold of each query, as the stage made them."""
    return read_folds(task.step(FoldFile()).path / "folds.tsv", keys)


def build(task: Task, recipe: Recipe, languages: list[str], round_: int, folder: Path) -> None:
    """Writes ``draw-N.parquet`` for each draw, ``counts.json`` and ``sample.json``.

    ``languages`` are those with training topics. Counts are by language and origin (``short``:
    queries with fewer than k negatives to draw), of what the filters dropped and of labels in
    conflict; the sample is of pairs with their texts. One language's pairs at a time are Python
    objects.
    """
    counts: Counter[str] = Counter()
    without_topics = [language for language in task.languages if language not in languages]
    for draw in range(recipe.draws):
        tables = []
        for language in [*languages, *without_topics]:
            mix = mixed(task, recipe, draw, language, round_)
            pairs = list(mix.pairs.values())
            if language in languages:
                count_queries(language, pairs, recipe.negatives, counts)
            for what, number in mix.counts.items():
                counts[f"{language} {what}"] += number
            tables.append(as_table(pairs))
        table = joined(tables)
        if recipe.caps:
            table = table.take(capped(keys_of(table), recipe.caps, task.config.seed, draw))
        count_origins(table, counts)
        write_table(folder / f"draw-{draw}.parquet", table)
        if draw == 0:
            write_json(folder / "sample.json", sample(task, table))
    note = {"draws": recipe.draws, "counts": dict(counts), "transductive": recipe.targets}
    write_json(folder / "counts.json", note)


def count_queries(
    language: str, pairs: Iterable[TrainingPair], wanted: int, counts: Counter[str]
) -> None:
    """Adds how many training queries a language has, and how many of them are ``short``.

    Those have fewer than the ``wanted`` negatives from their candidates.
    """
    drawn: dict[str, int] = {}  # negatives of each query
    for pair in pairs:
        if pair.origin in ("judged", "top_negatives"):
            is_negative = pair.origin == "top_negatives"
            drawn[pair.qid] = drawn.get(pair.qid, 0) + is_negative
    counts[f"{language} short"] += sum(number < wanted for number in drawn.values())
    counts[f"{language} queries"] += len(drawn)


def keys_of(table: "pyarrow.Table") -> list[tuple[str, str, str]]:
    """Language, query id and origin of each pair."""
    columns = [table.column(name).to_pylist() for name in ("language", "qid", "origin")]
    return list(zip(*columns, strict=True))


def count_origins(table: "pyarrow.Table", counts: Counter[str]) -> None:
    """Adds how many pairs of each language and origin are positive and negative."""
    for language, origin, is_positive in kinds_of(table, "language", "origin"):
        sign = "positive" if is_positive else "negative"
        counts[f"{language} {origin} {sign}"] += 1


def kinds_of(table: "pyarrow.Table", *names: str) -> Iterable[tuple]:
    """Of each pair some columns, and whether its label is above 0."""
    columns = [table.column(name).to_pylist() for name in names]
    return zip(*columns, table.column("label").to_numpy() > 0, strict=True)


def sample(task: Task, table: "pyarrow.Table") -> list[dict]:
    """A few pairs of each origin and sign, with their texts, to look at."""
    rows_of: dict[tuple, list[int]] = {}
    for row, kind in enumerate(kinds_of(table, "origin")):
        rows_of.setdefault(kind, []).append(row)
    random = generator(task.config.seed, 0, "sample")
    chosen: list[int] = []
    for rows in rows_of.values():
        places = random.permutation(len(rows))[:SAMPLED]
        chosen += [rows[place] for place in sorted(places)]
    entries = []
    for pair in pairs_of(table.take(chosen)):
        passages = task.passages(pair.passage_language or pair.language)
        entry = pair._asdict()
        entry["query"] = query_text(task, pair.language, pair.qid)
        entry["passage"] = passages.text(pair.docid)[:300]
        entries.append(entry)
    return entries


def query_text(task: Task, language: str, qid: str) -> str:
    """Of the first split that has the query."""
    for split in task.splits(language):
        for query in task.queries(language, split):
            if query.qid == qid:
                return query.text
    raise LookupError(f"{language}: no query {qid}")


def report(task: Task) -> None:
    """One line a recipe: its counts over all languages, by origin and sign."""
    steps = plan_groups(task)
    for name in task.config.data_aug:
        step = steps.get(TrainingGroups(name).step_name)
        if step is None:
            continue
        counts = json.loads((step.path / "counts.json").read_text("utf-8"))["counts"]
        totals: Counter[str] = Counter()
        for key, number in counts.items():
            _, _, what = key.partition(" ")
            totals[what] += number
        targets = task.config.data_aug[name].targets
        note = f" (transductive: unlabelled {' and '.join(targets)} queries)" if targets else ""
        counted = ", ".join(f"{number} {what}" for what, number in sorted(totals.items()))
        say(f"groups {name}: {counted}{note}")


def run(config: Config) -> None:
    """Makes a configuration's groups and folds, and says what is in them."""
    task = Task(config)
    run_steps(plan(task).values(), config.folder)
    report(task)


def run_data(config: Config) -> None:
    """The groups alone, of a configuration whose data another one trains on."""
    task = Task(config)
    run_steps(plan_groups(task).values(), config.folder)
    report(task)


def dry_run(config: Config) -> None:
    """What language models would be asked to judge for the groups, and what that would cost.

    Raises InputError where nothing would be asked, or where an earlier stage is not made.
    """
    task = Task(config)
    steps = plan_groups(task)
    asking = []
    for name, recipe in config.data_aug.items():
        judge = recipe.filters.judge
        if judge is not None and judge.by == "endpoint" and TrainingGroups(name).step_name in steps:
            asking.append(name)
    if not asking:
        raise InputError(
            "--dry-run: no recipe of data_aug that is in use has filters.judge with by=endpoint, "
            "so nothing would be asked"
        )
    for name in asking:
        step = steps[TrainingGroups(name).step_name]
        for source in step.inputs:
            if isinstance(source, Step) and not source.done:
                raise InputError(f"{source.name} is not made; run ./{source.stage}/run.sh first")
        say(f"groups {name}: at least {would_judge(task, config.data_aug[name])}")


def would_judge(task: Task, recipe: Recipe) -> str:
    """What all draws would ask: of each query as many passages as it wants negatives.

    More are asked in place of those that the judge refuses, which nobody knows yet.
    """
    assert recipe.filters.judge is not None
    judge = Counting(
        recipe.filters.judge.endpoint,
        recipe.filters.judge.reference,
        judges.folder(task.config) / judges.ENDPOINT,
    )
    for draw in range(recipe.draws):
        for language, _ in task.pairs(task.config.splits.train):
            mixed(task, recipe, draw, language, 0, judge)
    return judge.described()


def main() -> None:
    """The command line."""
    config, options = from_arguments("runs and judgments to training groups", add_options)
    if options.dry_run:
        dry_run(config)
        return
    *data, own = with_data(config)
    for part in data:
        run_data(part)
    run(own)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Beside the configuration."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what a language model would be asked to judge and what it would cost",
    )


if __name__ == "__main__":
    exit_with_message(main)
