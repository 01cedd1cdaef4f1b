"""The report: one static HTML file, without scripts or network.

``report.html`` filled in by Jinja2, which escapes all text.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from core.artefacts import TrainedRanker, TrainingGroups
from core.building import Journal
from core.files import finished_file
from core.task import Task
from ensemble import analysis, charts, estimate, fuse, results, weights
from ranking import rank, rankers

PAGE = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
)
CURVE_POINTS = 120  # of a training curve; more are averaged
FEATURES = 15  # of the stacked model that are shown


def write(
    task: Task,
    figures: results.Results,
    compared: dict,
    looks: analysis.Looks,
    elsewhere: Mapping[str, Mapping[str, float]],
) -> None:
    """``report/index.html`` in the configuration's folder.

    ``figures``, ``compared``, ``looks`` and ``elsewhere`` are what ``results`` gives by
    ``collect``, ``significance`` and ``measured``.
    """
    config = task.config
    split = results.report_split(task)
    languages = ", ".join(task.languages)
    systems = ", ".join(results.systems(task))
    content = {
        "title": f"{config.collection_name}: {config.name}",
        "subtitle": f"{len(task.languages)} languages ({languages}); {systems}",
        "split": split,
        "final": config.submission.system,
        "stored": config.retrieval.depth,
        "candidates": config.candidates,
        "marked": ", ".join(results.transductive(task)),
        "targets": " and ".join(results.target_splits(task)),
        "given": ", ".join(given_rankers(task)),
        "times": times(task),
        "config": json.dumps(config.model_dump(mode="json"), ensure_ascii=False, indent=1),
    }
    content |= provenance(task)
    content |= trainings(task)
    content |= members_part(task, looks, elsewhere)
    if split:
        content |= split_part(task, figures, compared, looks, split)
    page = PAGE.get_template("report.html").render(content)
    with finished_file(config.folder / "report" / "index.html") as file:
        file.write(page + "\n")


def split_part(
    task: Task, figures: results.Results, compared: dict, looks: analysis.Looks, split: str
) -> dict[str, Any]:
    """Everything that needs the judgments of the report's split."""
    a_system = next(iter(figures[split].values()))
    columns = list(a_system)
    metrics = list(a_system[columns[0]])
    tables = []
    for name in reversed(figures):  # test before dev
        for metric in metrics:
            tables.append((f"{name}, {metric}", results.table(figures, name, metric)))
    fates = {}
    fate_rows = [["", *analysis.FATES]]
    worst = []
    for language, look in looks.items():
        fates[language] = look.fates
        fate_rows.append([language, *percentages(look.fates.values())])
        if look.worst:
            worst.append((language, look.worst))
    return {
        "columns": columns,
        "stages": stages(figures, compared, split),
        "tests": results.comparison_rows(compared, split),
        "metrics": tables,
        "curves": [*depth_curves(task, looks), *training_curves(task)],
        "fates_chart": charts.stacked("Relevant passages", fates),
        "fates": fate_rows,
        "worst": worst,
        "worst_count": analysis.WORST,
    }


def percentages(shares: Iterable[float]) -> list[str]:
    """Shares of 1 as text, with one decimal."""
    return [f"{share:.1%}" for share in shares]


def stages(figures: results.Results, compared: Mapping, split: str) -> list[dict]:
    """A row a system: figure, change against the stage before it, whether that is significant."""
    by_system = figures[split]
    columns = list(next(iter(by_system.values())))
    best = {}
    for column in columns:
        values = [by_column[column]["nDCG@10"] for by_column in by_system.values()]
        best[column] = round(max(values), 4)
    rows = []
    for system, by_column in by_system.items():
        note = compared[split].get(system, {"against": "", "columns": {}})
        cells = []
        for column, means in by_column.items():
            compared_with_base = note["columns"].get(column)
            cells.append(cell(means["nDCG@10"], best[column], compared_with_base))
        rows.append({"system": system, "against": note["against"], "cells": cells})
    return rows


def cell(value: float, best: float, note: Mapping | None) -> dict:
    """A figure of the grid; ``note``: how it compares with the stage before, if with any."""
    shown = {"value": f"{value:.4f}", "best": round(value, 4) == best, "change": ""}
    if note is None:
        return shown
    difference = note["difference"]
    star = "*" if note["holm"] < 0.05 else ""
    direction = ""
    if difference:
        direction = "up" if difference > 0 else "down"
    return shown | {
        "change": f"{difference:+.4f}{star}",
        "direction": direction,
        "detail": (
            f"{note['wins']} won, {note['losses']} lost of {note['queries']}; "
            f"p {note['p']:.4f}, Holm {note['holm']:.4f}"
        ),
    }


def depth_curves(task: Task, looks: analysis.Looks) -> list[Markup]:
    """Recall of the sources and nDCG@10 by depth, known and surprise languages apart."""
    drawn = []
    for kind, languages in results.by_kind(task, list(looks)).items():
        chosen = [looks[language] for language in languages]
        drawn.append(
            charts.lines(
                title=f"Recall@k of the sources, {kind}",
                x_label="k",
                series=averaged_series([look.recall for look in chosen]),
                even=True,
            )
        )
        drawn.append(
            charts.lines(
                title=f"nDCG@10 by candidates reranked (0: the hybrid), {kind}",
                x_label="candidates",
                series=averaged_series([look.depth for look in chosen]),
                even=True,
            )
        )
    return drawn


Curve = Mapping[int, float]


def averaged_series(by_language: Sequence[Mapping[str, Curve]]) -> dict[str, dict[int, float]]:
    """Name -> curve: of each name the mean over languages."""
    series = {}
    for name in by_language[0]:
        series[name] = averaged([curves[name] for curves in by_language])
    return series


def averaged(curves: Sequence[Curve]) -> dict[int, float]:
    """The mean of curves over the same points."""
    mean = {}
    for x in curves[0]:
        mean[x] = sum(curve[x] for curve in curves) / len(curves)
    return mean


def training_curves(task: Task) -> list[Markup]:
    """Loss and dev score of each training; given rankers have none."""
    losses: dict[str, dict[int, float]] = {}
    dev: dict[str, dict[int, float]] = {}
    for name in task.config.ranking.trained:
        log = training_log(task, name)
        for kind in ("clean", "adversarial"):
            losses[f"{name} {kind}"] = thinned(points_of(log, kind))
        dev[name] = points_of(log, "nDCG@10")
    return [
        charts.lines("Training loss", "step", losses),
        charts.lines("Dev nDCG@10 while training (a sample)", "step", dev),
    ]


def points_of(log: Sequence[Mapping], what: str) -> dict[int, float]:
    """Step -> value, of the entries of a training's log that have one."""
    points = {}
    for entry in log:
        if entry.get(what) is not None:
            points[entry["step"]] = entry[what]
    return points


def training_log(task: Task, ranker: str) -> list[dict]:
    """The entries of a training's log."""
    file = task.step(TrainedRanker(ranker)).path / "training.jsonl"
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def thinned(points: Curve) -> dict[int, float]:
    """Means over equal stretches of steps: at most CURVE_POINTS."""
    size = -(-len(points) // CURVE_POINTS) or 1
    steps = list(points)
    means = {}
    for start in range(0, len(steps), size):
        stretch = steps[start : start + size]
        means[stretch[0]] = sum(points[step] for step in stretch) / len(stretch)
    return means


def members_part(
    task: Task, looks: analysis.Looks, elsewhere: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Score distributions, weights, estimates and what the stacked model looks at."""
    values = results.estimates(task)
    return {
        "histograms": [histogram(name, looks) for name in task.config.ranking.rankers if looks],
        "weights": [weights_part(task, system) for system in fuse.WEIGHTED],
        "estimates": estimate.rows(values, elsewhere) if values else None,
        "stacking": stacking_part(task),
    }


def histogram(ranker: str, looks: analysis.Looks) -> Markup:
    """A ranker's scores in all languages, of relevant candidates and of the others."""
    relevant: list[float] = []
    others: list[float] = []
    for look in looks.values():
        of_relevant, of_others = look.scores[ranker]
        relevant += of_relevant
        others += of_others
    return charts.histogram(f"Scores of {ranker}", {"relevant": relevant, "others": others})


def weights_part(task: Task, system: str) -> dict[str, Any]:
    """The weights of a system, and how its members' scores correlate, where that was computed."""
    chosen = fuse.chosen_weights(task, system)
    correlations = None
    if "correlations" in chosen:
        correlations = list(weights.matrix_rows(chosen["correlations"]))
    return {
        "system": system,
        "rule": chosen["rule"],
        "rows": weight_rows(chosen),
        "correlations": correlations,
    }


def weight_rows(chosen: Mapping) -> list[list[str]]:
    """A row a member: its weight, its nDCG@10 on dev, and its weights by language, if any."""
    scores = chosen.get("dev nDCG@10", {})
    by_language = chosen.get("by_language", {})
    rows = [["member", "weight", "dev nDCG@10", *by_language]]
    for name, weight in chosen["weights"].items():
        alone = f"{scores[name]:.4f}" if name in scores else ""
        own = [f"{of_language[name]:.4f}" for of_language in by_language.values()]
        rows.append([name, f"{weight:.4f}", alone, *own])
    return rows


def stacking_part(task: Task) -> dict[str, Any] | None:
    """What moves the stacked model's scores: the features that matter most, by language."""
    step = fuse.plan(task).get("stacking-model")
    if step is None:
        return None
    note = json.loads((step.path / "stacking.json").read_text("utf-8"))
    by_language = note["importance"]

    def importance(feature: str) -> float:
        return sum(shares[feature] for shares in by_language.values())

    most_important = sorted(note["features"], key=importance, reverse=True)[:FEATURES]
    rows = [["feature", *by_language]]
    for feature in most_important:
        of_feature = [shares[feature] for shares in by_language.values()]
        rows.append([feature, *percentages(of_feature)])
    return {
        "note": (
            f"{note['trees']} trees from {note['queries']} {note['split']} queries. "
            "Share of the mean absolute contribution (TreeSHAP), by language."
        ),
        "rows": rows,
    }


def provenance(task: Task) -> dict[str, Any]:
    """Training pairs by recipe, language and what they are, and a few of each kind with texts."""
    rows = [["recipe", "language", "what", "count"]]
    samples = []
    for artefact, step in task.published.items():
        if not isinstance(artefact, TrainingGroups) or not step.done:  # not done: nobody's
            continue
        counts = json.loads((step.path / "counts.json").read_text("utf-8"))["counts"]
        for key, count in counts.items():
            language, what = key.split(" ", 1)
            rows.append([artefact.recipe, language, what, str(count)])
        file = step.path / "sample.json"
        if file.exists():
            for pair in json.loads(file.read_text("utf-8")):
                samples.append({"recipe": artefact.recipe, **pair})
    return {"provenance": rows, "samples": samples}


def trainings(task: Task) -> dict[str, Any]:
    """The closing table of each training (none if all rankers are given); what gates cost.

    Gates are cheaper ways of scoring: a cascade, and int8.
    """
    rows = [["ranker", "first stage", "before training", "tuned", "at step"]]
    for name in task.config.ranking.trained:
        file = task.step(TrainedRanker(name)).path / "training.json"
        state = json.loads(file.read_text("utf-8"))
        figures = []
        for key in ("first_stage", "base", "best"):
            known = state.get(key, -1) >= 0  # -1 stands for "not measured"
            figures.append(f"{state[key]:.4f}" if known else "")
        rows.append([rankers.note_chain(task, name), *figures, str(state["best_step"])])
    gates = [["ranker", "way", "nDCG@10", "whole", "difference", "queries"]]
    for name, way, note in rank.costs(task):
        own, whole = note["own"], note["whole"]
        figures = [f"{own:.4f}", f"{whole:.4f}", f"{own - whole:+.4f}"]
        gates.append([name, way, *figures, str(note["queries"])])
    return {
        "trainings": rows if len(rows) > 1 else None,
        "gates": gates if len(gates) > 1 else None,
    }


def given_rankers(task: Task) -> list[str]:
    """Rankers that score as they are, each with its model."""
    given = []
    for name, ranker in task.config.ranking.rankers.items():
        if ranker.model is not None:
            given.append(f"{name} ({ranker.model})")
    return given


def times(task: Task) -> list[list[str]]:
    """Outputs, seconds and peak memory by stage and kind of step, each step's last building."""
    rows = [["stage", "step", "outputs", "seconds", "peak GB"]]
    by_kind: dict[tuple[str, str], list[dict]] = {}
    for name, entry in Journal(task.config.folder).last_buildings().items():
        kind = name if name.startswith("ranker/") else name.split("/")[0]
        by_kind.setdefault((entry["stage"], kind), []).append(entry)
    for (stage, kind), entries in by_kind.items():
        seconds = sum(entry["seconds"] for entry in entries)
        peak = max(entry["peak_bytes"] for entry in entries)
        rows.append([stage, kind, str(len(entries)), f"{seconds:.1f}", f"{peak / 1e9:.2f}"])
    return rows
