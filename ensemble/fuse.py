"""The ensemble stage's steps: weights and a stacked model from dev, what they are worth, the fused runs, the submission.

Members are compared on the block that was reranked; the rest of the candidates follows in hybrid order.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np

from core.artefacts import RankedRun
from core.console import say
from core.errors import InputError
from core.files import write_json
from core.records import Run
from core.runs import append_below, ranked, write_run
from core.steps import Plan
from core.task import Task, once
from data_aug import build as groups
from ensemble import estimate, members, stacking, submit, weights
from ensemble.members import blocks
from ranking import rank
from retrieval import search

WEIGHTED = ("ensemble-rankers", "ensemble")


def systems(task: Task) -> list[str]:
    """Of this stage; stacking needs judged dev queries."""
    return [
        *WEIGHTED,
        *(["stacking"] if task.config.ensemble.stacking and task.weighing_languages() else []),
    ]


@once
def plan(task: Task) -> Plan:
    steps, c = task.new_plan("ensemble"), task.config
    dev = [(la, c.splits.dev) for la in task.weighing_languages()]
    judged = [x for pair in dev for x in (*members.inputs(task, *pair), task.qrels_input(*pair))]
    texts = [
        x for la, s in dev for x in (task.topics_input(la, s), search.plan(task)[f"passages/{la}"])
    ]
    fusing, depth = c.ensemble.model_dump(exclude={"runs", "stacking"}), rank.depth(task)
    chosen = {}
    for system in WEIGHTED:
        chosen[system] = steps.add(
            f"{system}-weights",
            2,
            {**fusing, "members": members.members(task, system), "depth": depth},
            judged,
            lambda folder, s=system: write_json(folder / "weights.json", choose(task, s)),
            seconds=5,
        )
    if dev:
        stacked = c.ensemble.stacking.model_dump() if c.ensemble.stacking else None
        settings = {
            "stacking": stacked,
            "members": members.members(task, "stacking" if stacked else "ensemble"),
            "depth": depth,
            "seed": c.seed,
        }
        folds = groups.plan(task)["folds"]
        if stacked:
            chosen["stacking"] = steps.add(
                "stacking-model",
                1,
                settings,
                [*judged, *texts, folds, *out_of_fold(task)],
                lambda folder: build_stacking(task, folder),
                seconds=20,
            )
        steps.add(
            "estimates",
            1,
            {**settings, **fusing},
            [*judged, *texts, folds, *([chosen["stacking"]] if stacked else [])],
            lambda folder: build_estimates(task, folder),
            seconds=60,
        )
    for system in systems(task):
        for la, split in task.pairs(c.splits.dev, c.splits.test):
            found = (
                [task.topics_input(la, split), search.plan(task)[f"passages/{la}"]]
                if system == "stacking"
                else []
            )
            settings = {
                "members": members.members(task, system),
                **({"fusing": fusing} if system != "stacking" else {}),
                "candidates": c.candidates,
            }
            steps.add(
                RankedRun(system, la, split),
                2,
                settings,
                [chosen[system], *members.inputs(task, la, split), *found],
                lambda folder, s=system, la=la, split=split: write_run(
                    folder / "run.trec", fused(task, s, la, split), s
                ),
                seconds=1,
            )
    if task.pairs(c.splits.test):
        add_submission(task, steps)
    return steps


def add_submission(task: Task, steps: Plan) -> None:
    c, split = task.config, task.config.splits.test
    plans, known = (
        {**search.plan(task), **rank.plan(task), **steps},
        [*task.config.retrieval.systems, *c.ranking.rankers, *systems(task)],
    )
    if c.submission.system not in known:
        raise InputError(
            f"submission.system: found {c.submission.system!r}, expected one of {', '.join(known)}"
        )
    settings = {
        **c.submission.model_dump(),
        "split": split,
        "config": c.model_dump(mode="json", exclude={"work"}),
    }
    inputs = [
        x
        for la, s in task.pairs(split)
        for x in (plans[f"{c.submission.system}/{la}-{s}"], task.topics_input(la, s))
    ]
    steps.add(
        "submission",
        2,
        settings,
        inputs,
        lambda folder: submit.build(task, folder, plans, chosen_weights(task, "ensemble")),
        seconds=2,
    )


def out_of_fold(task: Task) -> list:
    folder = task.config.ensemble.stacking.out_of_fold
    return (
        [
            members.out_of_fold_files(task, Path(folder)),
            *(task.qrels_input(*pair) for pair in task.pairs(task.config.splits.train)),
        ]
        if folder
        else []
    )


@once
def dev_blocks(task: Task) -> dict[str, dict[str, Run]]:
    """Language -> member -> run on dev of the weighing languages, with remarks on uneven ones said once."""
    found = {la: blocks(task, la, task.config.splits.dev) for la in task.weighing_languages()}
    for la, runs in found.items():
        for remark in members.remarks(
            la, task.config.splits.dev, {n: runs[n] for n in members.members(task)}
        ):
            say(f"  note: {remark}")
    return found


def dev_judged(task: Task, system: str) -> weights.Judged:
    return members.judged(
        task, dev_blocks(task), members.members(task, system), task.config.splits.dev
    )


def choose(task: Task, system: str) -> dict:
    """The weights of ``ensemble.weights``, from dev runs of the weighing languages."""
    c, names = task.config.ensemble, members.members(task, system)
    if isinstance(c.weights, dict):
        if not set(names) <= set(c.weights):
            raise InputError(
                f"ensemble.weights: found {sorted(c.weights)}, expected a weight for each of {', '.join(names)}"
            )
        if c.normalise == "sigmoid" or c.shrink:
            raise InputError(
                "ensemble.weights: fixed weights go with neither normalise=sigmoid nor shrink, which are fitted on dev; name a rule"
            )
        return {"weights": {n: c.weights[n] for n in names}, "rule": "fixed"}
    if not dev_blocks(task):
        raise InputError(
            f"ensemble.weights={c.weights} needs a {task.config.splits.dev} split with judgments; set a weight for each of {', '.join(names)}"
        )
    chosen = weights.fit(dev_judged(task, system), c)
    say(
        f"{system} weights: "
        + ", ".join(
            f"{n} {w:.3f} (dev {chosen['dev nDCG@10'][n]:.4f})"
            for n, w in chosen["weights"].items()
        )
    )
    return chosen


def chosen_weights(task: Task, system: str) -> dict:
    """What ``choose`` found for a system, as its step stored it."""
    return json.loads((plan(task)[f"{system}-weights"].path / "weights.json").read_text("utf-8"))


def texts(task: Task, split: str) -> stacking.Texts:
    queries = cache(lambda la: {q.qid: q.text for q in task.queries(la, split)})
    store = cache(lambda la: task.passages(la))
    return lambda key, docids: (queries(key[0])[key[1]], [store(key[0]).text(d) for d in docids])


def stack(task: Task, split: str) -> tuple[stacking.Stack, np.ndarray]:
    """The stacking problem of dev, or of train with out-of-fold scores, and the fold of each query."""
    c, s = task.config, task.config.ensemble.stacking
    found = (
        dev_blocks(task)
        if split == c.splits.dev
        else {
            la: members.out_of_fold_blocks(task, Path(s.out_of_fold), la)
            for la, _ in task.pairs(split)
        }
    )
    judged = members.judged(task, found, members.members(task, "stacking"), split)
    folds = groups.folds(task, judged.members.queries)
    if len(set(folds.values())) < 2:
        raise InputError(
            f"ensemble.stacking: the {len(folds)} judged {split} queries are all in one fold; give more queries, or set ensemble.stacking=null"
        )
    return stacking.Stack(judged, texts(task, split), list(found), s, c.seed), np.array(
        [folds[q] for q in judged.members.queries]
    )


def build_stacking(task: Task, folder: Path) -> None:
    c = task.config
    split = c.splits.train if c.ensemble.stacking.out_of_fold else c.splits.dev
    found, folds = stack(task, split)
    booster = found.fit(np.ones(len(folds), bool), folds)
    stacking.save(
        folder, booster, found, {"split": split, "settings": c.ensemble.stacking.model_dump()}
    )
    say(f"stacking: {booster.num_trees()} trees from {len(folds)} {split} queries")


def build_estimates(task: Task, folder: Path) -> None:
    c = task.config
    judged = dev_judged(task, "ensemble")
    folds = groups.folds(task, judged.members.queries)
    if len(set(folds.values())) < 2:
        say(f"estimates: none, the {len(folds)} judged dev queries are all in one fold")
        return write_json(folder / "estimates.json", [])
    stacked = None
    if c.ensemble.stacking and c.ensemble.stacking.out_of_fold:
        values = stacking.apply(
            plan(task)["stacking-model"].path,
            dev_judged(task, "stacking").members,
            texts(task, c.splits.dev),
        )  # learnt on train
        stacked = lambda learn, rows: values[rows]
    elif c.ensemble.stacking:
        problem, fold = stack(task, c.splits.dev)
        stacked = lambda learn, rows: problem.predict(problem.fit(learn, fold), rows)
    write_json(
        folder / "estimates.json", estimate.estimates(judged, folds, c.ensemble, stacked, c.seed)
    )


def fused(task: Task, system: str, language: str, split: str) -> Run:
    c, found = task.config, blocks(task, language, split)
    hybrid = task.run("hybrid", language, split)
    aligned = weights.aligned_members(
        {n: {language: found[n]} for n in members.members(task, system)},
        [(language, q) for q in hybrid],
    )
    if system == "stacking":
        values = stacking.apply(plan(task)["stacking-model"].path, aligned, texts(task, split))
    else:
        values = weights.apply(aligned, chosen_weights(task, system), c.ensemble)
    run = aligned.run(values)
    return {
        qid: append_below(run[language, qid], (d for d, _ in ranked(scores)[: c.candidates]))
        for qid, scores in hybrid.items()
    }
