"""The ensemble stage's steps: weights from dev, the fused runs, the submission.

Members: every cross-encoder and the hybrid (``ensemble``), or the cross-encoders alone as in the paper (``ensemble-rankers``). They are
compared on the block that was reranked; the rest of the candidates follows in hybrid order.
"""
import json
from functools import cache
from pathlib import Path

from core.errors import InputError
from core.files import write_json
from core.fusion import fuse
from core.records import Run
from core.runs import append_below, ranked, top_k, write_run
from core.store import Plan, say
from core.task import Task
from ensemble import submit, weights
from ranking import rank
from retrieval import search

SYSTEMS = ("ensemble-rankers", "ensemble")


def members(task: Task, system: str) -> list[str]:
    rankers = list(task.config.ranking.rankers)
    return [*rankers, "hybrid"] if system == "ensemble" else rankers


@cache
def plan(task: Task) -> Plan:
    steps, c = Plan("ensemble", task.config.home), task.config
    for system in SYSTEMS:
        settings = {**c.ensemble.model_dump(), "members": members(task, system), "depth": rank.depth(task)}
        dev = [(la, c.splits.dev) for la in search.weighing_languages(task)]
        inputs = [x for pair in dev for x in (*run_steps_of(task, system, *pair), task.qrels_input(*pair))]
        chosen = steps.add(f"{system}-weights", 1, settings, inputs, lambda folder, s=system: write_json(folder / "weights.json", choose(task, s)), seconds=5)
        for la, split in task.pairs(c.splits.dev, c.splits.test):
            steps.add(f"{system}/{la}-{split}", 1, {"members": members(task, system)}, [chosen, *run_steps_of(task, system, la, split)],
                      lambda folder, s=system, la=la, split=split: write_run(folder / "run.trec", fused(task, s, la, split), s), seconds=1)
    tested = task.pairs(c.splits.test)
    if tested:
        settings = {**c.submission.model_dump(), "split": c.splits.test, "config": c.model_dump(mode="json", exclude={"work"})}
        inputs = [*(steps[f"ensemble/{la}-{s}"] for la, s in tested), *(task.topics_input(la, s) for la, s in tested)]
        steps.add("submission", 1, settings, inputs, lambda folder: build_submission(task, folder), seconds=2)
    return steps


def run_steps_of(task: Task, system: str, language: str, split: str) -> list:
    """The steps of a system's members; the hybrid is always among them, it orders what was not reranked."""
    plans = {**search.plan(task), **rank.plan(task)}
    return [plans[f"{m}/{language}-{split}"] for m in dict.fromkeys([*members(task, system), "hybrid"])]


def blocks(task: Task, language: str, split: str) -> dict[str, Run]:
    """Every member's scores on the reranked block of each query."""
    plans, deep = {**search.plan(task), **rank.plan(task)}, rank.depth(task)
    hybrid = search.run_of(plans[f"hybrid/{language}-{split}"])
    block = {qid: top_k(scores, deep) for qid, scores in hybrid.items()}
    runs = {m: search.run_of(plans[f"{m}/{language}-{split}"]) for m in task.config.ranking.rankers}
    return {**{m: {q: {d: run[q][d] for d in scores} for q, scores in block.items() if q in run} for m, run in runs.items()}, "hybrid": block}


def choose(task: Task, system: str) -> dict:
    """The weights of ``ensemble.weights``, from dev runs of the weighing languages."""
    c, dev, names = task.config.ensemble, task.config.splits.dev, members(task, system)
    if isinstance(c.weights, dict):
        if not set(names) <= set(c.weights):
            raise InputError(f"ensemble.weights: found {sorted(c.weights)}, expected a weight for each of {', '.join(names)}")
        return {"weights": {n: c.weights[n] for n in names}, "rule": "fixed"}
    languages = search.weighing_languages(task)
    by_language = {la: blocks(task, la, dev) for la in languages}
    runs = {n: {la: by_language[la][n] for la in languages} for n in names}
    scores = weights.dev_scores(runs, {la: search.checked_judgments(task, la, dev) for la in languages})
    table = weights.correlations(runs, c.normalise)
    chosen = weights.RULES[c.weights](scores, table)
    say(f"{system} weights: " + ", ".join(f"{n} {w:.3f} (dev {scores[n]:.4f})" for n, w in chosen.items()))
    return {"weights": chosen, "rule": c.weights, "dev nDCG@10": scores, "correlations": table}


def chosen_weights(task: Task, system: str) -> dict:
    """What ``choose`` found for a system, as its step stored it."""
    return json.loads((plan(task)[f"{system}-weights"].path / "weights.json").read_text("utf-8"))


def fused(task: Task, system: str, language: str, split: str) -> Run:
    chosen = chosen_weights(task, system)["weights"]
    runs = {name: run for name, run in blocks(task, language, split).items() if name in chosen}
    found = fuse(runs, chosen, task.config.ensemble.normalise, "zero")
    hybrid = search.run_of(search.plan(task)[f"hybrid/{language}-{split}"])
    return {qid: append_below(found.get(qid, {}), (d for d, _ in ranked(scores)[:task.config.candidates])) for qid, scores in hybrid.items()}


def build_submission(task: Task, folder: Path) -> None:
    c, split = task.config, task.config.splits.test
    entries = []
    for la, _ in task.pairs(split):
        run = search.run_of(plan(task)[f"ensemble/{la}-{split}"])
        entries.append(submit.Entry(la, "surprise" if task.surprise(la) else "known", run, [q.qid for q in task.queries(la, split)], search.passages(task, la)))
    manifest = {"collection": c.collection_name, "name": c.name, "split": split, "config": c.model_dump(mode="json", exclude={"work"}),
                "ensemble": chosen_weights(task, "ensemble"),
                "recipes": {s.name: s.fingerprint for s in (*rank.plan(task).values(), *plan(task).values()) if s.name != "submission"}}
    submit.write(folder / "submission.zip", entries, c.submission.depth, c.submission.tag, split, manifest)
