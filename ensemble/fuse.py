"""The ensemble stage up to its fused runs: weights and a stacked model from dev, and their worth.

Members are compared on the block that was reranked; the rest of the candidates follows in hybrid
order. ``ensemble.submit`` adds the submission and so completes the stage.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from core.artefacts import ENSEMBLES, FoldFile, PassageStore, RankedRun
from core.console import say
from core.errors import InputError
from core.files import write_json
from core.machine import core_seconds
from core.records import Run
from core.runs import append_below, ranked, write_run
from core.steps import Files, Plan, Step
from core.task import Task, once
from data_aug import build
from ensemble import estimate, members, stacking, weights
from ensemble.members import blocks
from ranking import rank
from ranking.rankers import depth

WEIGHTED, STACKING = ENSEMBLES[:2], ENSEMBLES[2]

# Seconds, measured on one core, which is all that they use; the boosting on two.
LINE = 1.2e-6  # reading a line of a run
FUSING = 1e-6  # choosing weights, for a member's score of a passage
ESTIMATING = 8e-6  # every rule, nested, for a member's score of a passage
TEXT_FEATURES = 60e-6  # of a passage
BOOSTING = 100e-6  # fitting the stacked model with its inner folds, for a passage


def systems(task: Task) -> list[str]:
    """Of this stage; stacking needs judged dev queries."""
    stacked = task.config.ensemble.stacking and task.weighing_languages()
    return [*WEIGHTED, STACKING] if stacked else [*WEIGHTED]


@once
def plan(task: Task) -> Plan:
    """Weights of each system, a stacked model, estimates of all, and the fused runs."""
    rank.plan(task)  # publishes the members' runs and what lies below them
    steps = task.new_plan("ensemble")
    splits = task.config.splits
    chosen_by = {}
    for system in WEIGHTED:
        chosen_by[system] = add_weights(task, steps, system)
    if STACKING in systems(task):
        chosen_by[STACKING] = add_stacking(task, steps)
    if task.weighing_languages():
        add_estimates(task, steps)
    for system in systems(task):
        for language, split in task.pairs(splits.dev, splits.test):
            add_fused_run(task, steps, chosen_by[system], RankedRun(system, language, split))
    return steps


def add_weights(task: Task, steps: Plan, system: str) -> Step:
    """The weights of one of the weighted systems."""
    settings = {
        **fusing_settings(task),
        "members": members.members(task, system),
        "depth": depth(task),
    }
    fusing = FUSING * dev_scores(task)
    return steps.add(
        f"{system}-weights",
        weights.version(task.config.ensemble),
        settings,
        judged_inputs(task),
        lambda folder: write_json(folder / "weights.json", choose(task, system)),
        seconds=reading_seconds(task, dev_pairs(task)) + fusing,
        memory=100 * dev_scores(task),
    )


def add_stacking(task: Task, steps: Plan) -> Step:
    """The stacked model."""
    boosting = core_seconds(BOOSTING * dev_passages(task))
    return steps.add(
        "stacking-model",
        1,
        stacking_settings(task),
        [*judged_inputs(task), *learning_inputs(task), *out_of_fold_inputs(task)],
        lambda folder: build_stacking(task, folder),
        seconds=boosting + TEXT_FEATURES * dev_passages(task),
        memory=feature_bytes(task),
    )


def add_estimates(task: Task, steps: Plan) -> Step:
    """What each way of fusing is worth on dev."""
    inputs = [*judged_inputs(task), *learning_inputs(task)]
    seconds = ESTIMATING * dev_scores(task)
    memory = 100.0 * dev_scores(task)
    if STACKING in systems(task):
        inputs.append(steps["stacking-model"])
        folds = task.config.folds.count
        seconds += core_seconds(folds * BOOSTING * dev_passages(task))
        memory = feature_bytes(task)
    return steps.add(
        "estimates",
        2,  # since 2 p is of the mean over languages, and the paper's rule is another
        {**stacking_settings(task), **fusing_settings(task)},
        inputs,
        lambda folder: build_estimates(task, folder),
        seconds=seconds,
        memory=memory,
    )


def add_fused_run(task: Task, steps: Plan, chosen_by: Step, run: RankedRun) -> Step:
    """The run of one of the stage's systems; ``chosen_by``: the step of its weights or model."""
    pair = (run.language, run.split)
    settings = {
        "members": members.members(task, run.system),
        "candidates": task.config.candidates,
    }
    inputs = [chosen_by, *members.inputs(task, *pair)]
    seconds = reading_seconds(task, [pair])
    if run.system == STACKING:
        inputs += text_inputs(task, [pair])
        seconds += TEXT_FEATURES * depth(task) * len(task.queries(*pair))
    else:
        settings["fusing"] = fusing_settings(task)

    def write_fused(folder: Path) -> None:
        write_run(folder / "run.trec", fused(task, run.system, *pair), run.system)

    return steps.add(run, 2, settings, inputs, write_fused, seconds=seconds)


def fusing_settings(task: Task) -> dict:
    """How members are fused."""
    return task.config.ensemble.model_dump(exclude={"runs", "stacking"})


def stacking_settings(task: Task) -> dict:
    """What the stacked model and the estimates depend on."""
    stacked = task.config.ensemble.stacking
    return {
        "stacking": stacked.model_dump() if stacked else None,
        "members": members.members(task, STACKING if stacked else "ensemble"),
        "depth": depth(task),
        "seed": task.config.seed,
    }


def dev_pairs(task: Task) -> list[tuple[str, str]]:
    """(language, dev) of the languages that weights are chosen by."""
    return [(language, task.config.splits.dev) for language in task.weighing_languages()]


def judged_inputs(task: Task) -> list[Step | Files]:
    """The members' runs and the judgments that weights are chosen by."""
    inputs: list[Step | Files] = []
    for pair in dev_pairs(task):
        inputs += [*members.inputs(task, *pair), task.qrels_input(*pair)]
    return inputs


def learning_inputs(task: Task) -> list[Step | Files]:
    """What is learnt from beside runs and judgments: texts and folds of the dev queries."""
    return [*text_inputs(task, dev_pairs(task)), task.step(FoldFile())]


def text_inputs(task: Task, pairs: Sequence[tuple[str, str]]) -> list[Step | Files]:
    """Texts of queries and passages."""
    inputs: list[Step | Files] = []
    for language, split in pairs:
        inputs += [task.topics_input(language, split), task.step(PassageStore(language))]
    return inputs


def out_of_fold_inputs(task: Task) -> list[Step | Files]:
    """Runs and judgments of train where stacking learns from out-of-fold scores."""
    settings = task.config.ensemble.stacking
    if settings is None or not settings.out_of_fold:
        return []
    train = task.pairs(task.config.splits.train)
    runs = members.out_of_fold_files(task, Path(settings.out_of_fold))
    return [runs, *(task.qrels_input(*pair) for pair in train)]


def dev_passages(task: Task) -> int:
    """Reranked passages of all queries that weights are chosen by."""
    return sum(depth(task) * len(task.queries(*pair)) for pair in dev_pairs(task))


def dev_scores(task: Task) -> int:
    """Scores of all members there."""
    return dev_passages(task) * len(members.members(task, STACKING))


def feature_bytes(task: Task) -> float:
    """Of the stacked model's features, which are copied for LightGBM, and of the members' runs."""
    features = 4 * len(members.members(task, STACKING)) + 9  # see ensemble.stacking
    return 2 * 8.0 * features * dev_passages(task) + 100.0 * dev_scores(task)


def reading_seconds(task: Task, pairs: Sequence[tuple[str, str]]) -> float:
    """What it takes to read the members' runs."""
    config = task.config
    rankers = config.candidates * len(config.ranking.rankers)
    others = config.retrieval.depth * (len(config.retrieval.systems) + len(config.ensemble.runs))
    queries = sum(len(task.queries(*pair)) for pair in pairs)
    return LINE * (rankers + others) * queries


@once
def dev_blocks(task: Task) -> dict[str, dict[str, Run]]:
    """Language -> member -> run on dev of the weighing languages.

    Remarks on uneven members are said once.
    """
    largest = STACKING if STACKING in systems(task) else "ensemble"  # the others see a part of it
    names = members.members(task, largest)
    by_language = {}
    for language, split in dev_pairs(task):
        runs = by_language[language] = blocks(task, language, split, names)
        fused_members = {name: runs[name] for name in members.members(task)}
        for remark in members.remarks(language, split, fused_members):
            say(f"  note: {remark}")
    return by_language


def dev_judged(task: Task, system: str) -> weights.Judged:
    """A system's members on the judged dev queries of the weighing languages."""
    names = members.members(task, system)
    return members.judged(task, dev_blocks(task), names, task.config.splits.dev)


def choose(task: Task, system: str) -> dict:
    """The weights of ``ensemble.weights``, from dev runs of the weighing languages.

    Raises InputError for fixed weights that don't name every member or go with what is fitted, and
    for a rule without judged dev queries.
    """
    settings = task.config.ensemble
    names = members.members(task, system)
    if isinstance(settings.weights, dict):
        if not set(names) <= set(settings.weights):
            raise InputError(
                f"ensemble.weights: found {sorted(settings.weights)}, "
                f"expected a weight for each of {', '.join(names)}"
            )
        if settings.normalise == "sigmoid" or settings.shrink:
            raise InputError(
                "ensemble.weights: fixed weights go with neither normalise=sigmoid nor shrink, "
                "which are fitted on dev; name a rule"
            )
        fixed = {name: settings.weights[name] for name in names}
        return {"weights": fixed, "rule": "fixed"}
    if not dev_blocks(task):
        raise InputError(
            f"ensemble.weights={settings.weights} needs a {task.config.splits.dev} split with "
            f"judgments; set a weight for each of {', '.join(names)}"
        )
    chosen = weights.fit(dev_judged(task, system), settings)
    alone = chosen["dev nDCG@10"]
    parts = []
    for name, weight in chosen["weights"].items():
        parts.append(f"{name} {weight:.3f} (dev {alone[name]:.4f})")
    say(f"{system} weights: {', '.join(parts)}")
    return chosen


def chosen_weights(task: Task, system: str) -> dict:
    """What ``choose`` found for a system, as its step stored it."""
    step = plan(task)[f"{system}-weights"]
    return json.loads((step.path / "weights.json").read_text("utf-8"))


def texts(task: Task, split: str) -> stacking.Texts:
    """The texts of a split's queries and of passages; what was opened stays open."""

    @cache
    def queries(language: str) -> dict[str, str]:
        return {query.qid: query.text for query in task.queries(language, split)}

    @cache
    def passages(language: str):
        return task.passages(language)

    def texts_of(key: weights.Key, docids: Sequence[str]) -> tuple[str, list[str]]:
        language, qid = key
        return queries(language)[qid], [passages(language).text(docid) for docid in docids]

    return texts_of


@once
def stack(task: Task, split: str) -> tuple[stacking.Stack, np.ndarray]:
    """The stacking problem of dev, or of train with out-of-fold scores, and each query's fold.

    Kept, because the model and the estimates are both made from it and its features take time.
    Raises InputError where all queries are in one fold.
    """
    settings = task.config.ensemble.stacking
    assert settings is not None
    if split == task.config.splits.dev:
        by_language = dev_blocks(task)
    else:
        folder = Path(settings.out_of_fold or "")
        by_language = {}
        for language, _ in task.pairs(split):
            by_language[language] = members.out_of_fold_blocks(task, folder, language)
    judged = members.judged(task, by_language, members.members(task, STACKING), split)
    queries = weights.keys_of(judged.members)
    folds = build.folds(task, queries)
    if len(set(folds.values())) < 2:
        raise InputError(
            f"ensemble.stacking: the {len(folds)} judged {split} queries are all in one fold; "
            "give more queries, or set ensemble.stacking=null"
        )
    problem = stacking.Stack(
        judged=judged,
        texts=texts(task, split),
        languages=list(by_language),
        settings=settings,
        seed=task.config.seed,
    )
    return problem, np.array([folds[query] for query in queries])


def build_stacking(task: Task, folder: Path) -> None:
    """Trains the stacked model on dev, or on train where out-of-fold scores are given."""
    splits = task.config.splits
    settings = task.config.ensemble.stacking
    assert settings is not None
    split = splits.train if settings.out_of_fold else splits.dev
    problem, folds = stack(task, split)
    booster = problem.fit(np.ones(len(folds), bool), folds)
    stacking.save(folder, booster, problem, {"split": split, "settings": settings.model_dump()})
    say(f"stacking: {booster.num_trees()} trees from {len(folds)} {split} queries")


def build_estimates(task: Task, folder: Path) -> None:
    """Writes the estimates; an empty list where all judged dev queries are in one fold."""
    judged = dev_judged(task, "ensemble")
    folds = build.folds(task, weights.keys_of(judged.members))
    table: list[dict] = []
    if len(set(folds.values())) < 2:
        say(f"estimates: none, the {len(folds)} judged dev queries are all in one fold")
    else:
        table = estimate.estimates(
            judged=judged,
            folds=folds,
            settings=task.config.ensemble,
            stacked=stacking_method(task),
            seed=task.config.seed,
        )
    write_json(folder / "estimates.json", table)


def stacking_method(task: Task) -> estimate.Method | None:
    """Stacking as the estimates try it out; None without it.

    A model that was learnt on train is the same for every fold of dev.
    """
    settings = task.config.ensemble.stacking
    dev = task.config.splits.dev
    if settings is None:
        return None
    if settings.out_of_fold:
        aligned = dev_judged(task, STACKING).members
        values = stacking.apply(model_folder(task), aligned, texts(task, dev))
        return lambda learn, rows: values[rows]
    problem, fold = stack(task, dev)
    folds = len(set(fold.tolist()))
    if folds < 3:  # one is held out, and the others choose the number of trees among themselves
        say(f"estimates: none of stacking: the judged {dev} queries are in {folds} folds, not 3")
        return None
    return lambda learn, rows: problem.predict(problem.fit(learn, fold), rows)


def model_folder(task: Task) -> Path:
    """Where the stacked model lies."""
    return plan(task)["stacking-model"].path


def fused(task: Task, system: str, language: str, split: str) -> Run:
    """A system's run: the reranked block fused, the hybrid's other candidates in order below it."""
    names, candidates = members.members(task, system), task.config.candidates
    hybrid = task.run("hybrid", language, split)
    runs = blocks(task, language, split, names, hybrid)
    by_member = {name: {language: runs[name]} for name in names}
    aligned = weights.aligned_members(by_member, [(language, qid) for qid in hybrid])
    if system == STACKING:
        values = stacking.apply(model_folder(task), aligned, texts(task, split))
    else:
        values = weights.apply(aligned, chosen_weights(task, system), task.config.ensemble)
    block = aligned.run(values)
    run: Run = {}
    for qid, scores in hybrid.items():
        in_order = [docid for docid, _ in ranked(scores)[:candidates]]
        run[qid] = append_below(block[language, qid], in_order)
    return run
