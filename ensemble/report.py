"""The report: one static HTML file (``report.html`` filled in by Jinja2, which escapes all text), without scripts or network."""

import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from core.files import finished_file
from core.task import Task
from data_aug import build as groups
from ensemble import analysis, charts, estimate, fuse, results, weights
from ranking import rank, rankers

PAGE = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
)
CURVE_POINTS = 120  # of a training curve; more are averaged


def stages(found: dict, compared: dict, split: str) -> list[dict]:
    """A row a system: figure, change against the stage before it, and whether that is significant."""
    best = {
        column: max(round(v[column]["nDCG@10"], 4) for v in found[split].values())
        for column in next(iter(found[split].values()))
    }
    rows = []
    for system, by_column in found[split].items():
        note = compared[split].get(system, {"against": "", "columns": {}})
        rows.append(
            {
                "system": system,
                "against": note["against"],
                "cells": [
                    cell(v["nDCG@10"], best[column], note["columns"].get(column))
                    for column, v in by_column.items()
                ],
            }
        )
    return rows


def cell(value: float, best: float, note: dict | None) -> dict:
    found = {"value": f"{value:.4f}", "best": round(value, 4) == best, "change": ""}
    if note:
        found |= {
            "change": f"{note['difference']:+.4f}{'*' if note['holm'] < 0.05 else ''}",
            "direction": "up"
            if note["difference"] > 0
            else "down"
            if note["difference"] < 0
            else "",
            "detail": f"{note['wins']} won, {note['losses']} lost of {note['queries']}; p {note['p']:.4f}, Holm {note['holm']:.4f}",
        }
    return found


def averaged(by_language: list[dict[float, float]]) -> dict[float, float]:
    return (
        {x: sum(v[x] for v in by_language) / len(by_language) for x in by_language[0]}
        if by_language
        else {}
    )


def curves(task: Task, looks: analysis.Looks) -> list:
    """Recall of the sources and nDCG@10 by depth, means over languages, known and surprise apart; loss and dev score of each training."""
    found = []
    for group, languages in results.groups(task, list(looks)).items():
        for kind, title, label in (
            ("recall", "Recall@k of the sources", "k"),
            ("depth", "nDCG@10 by candidates reranked (0: the hybrid)", "candidates"),
        ):
            names = getattr(looks[languages[0]], kind)
            found.append(
                charts.lines(
                    f"{title}, {group}",
                    label,
                    {n: averaged([getattr(looks[la], kind)[n] for la in languages]) for n in names},
                    even=True,
                )
            )
    training = {n: training_log(task, n) for n in task.config.ranking.trainings}
    losses = {
        f"{n} {kind}": thinned({e["step"]: e[kind] for e in log if kind in e})
        for n, log in training.items()
        for kind in ("clean", "adversarial")
    }
    dev = {
        n: {e["step"]: e["nDCG@10"] for e in log if e.get("nDCG@10") is not None}
        for n, log in training.items()
    }
    return [
        *found,
        charts.lines("Training loss", "step", losses),
        charts.lines("Dev nDCG@10 while training (a sample)", "step", dev),
    ]


def training_log(task: Task, ranker: str) -> list[dict]:
    file = rank.plan(task)[f"ranker/{ranker}"].path / "training.jsonl"
    return (
        [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []
    )


def thinned(points: dict[int, float]) -> dict[int, float]:
    """Means over equal stretches of steps: at most CURVE_POINTS."""
    size = -(-len(points) // CURVE_POINTS) or 1
    steps = list(points)
    return {
        steps[i]: sum(points[s] for s in steps[i : i + size]) / len(steps[i : i + size])
        for i in range(0, len(steps), size)
    }


def weight_rows(found: dict) -> list[list[str]]:
    scores, own = found.get("dev nDCG@10", {}), found.get("by_language", {})
    return [
        ["member", "weight", "dev nDCG@10", *own],
        *(
            [
                n,
                f"{w:.4f}",
                f"{scores[n]:.4f}" if n in scores else "",
                *(f"{v[n]:.4f}" for v in own.values()),
            ]
            for n, w in found["weights"].items()
        ),
    ]


def members_part(task: Task, looks: analysis.Looks, elsewhere: dict) -> dict:
    """Score distributions, weights, estimates and what the stacked model looks at."""
    steps, found = fuse.plan(task), {"weights": [], "estimates": None, "stacking": None}
    scores = (
        {n: [look.scores[n] for look in looks.values()] for n in task.config.ranking.rankers}
        if looks
        else {}
    )
    found["histograms"] = [
        charts.histogram(
            f"Scores of {n}",
            {
                "relevant": [v for right, _ in parts for v in right],
                "others": [v for _, other in parts for v in other],
            },
        )
        for n, parts in scores.items()
    ]
    for system in fuse.WEIGHTED:
        chosen = fuse.chosen_weights(task, system)
        table = [*weights.matrix_rows(chosen["correlations"])] if "correlations" in chosen else None
        found["weights"].append(
            {
                "system": system,
                "rule": chosen["rule"],
                "rows": weight_rows(chosen),
                "correlations": table,
            }
        )
    if values := results.estimates(task):
        found["estimates"] = estimate.rows(values, elsewhere)
    if "stacking-model" in steps:
        note = json.loads((steps["stacking-model"].path / "stacking.json").read_text("utf-8"))
        names = sorted(
            note["features"],
            key=lambda f: -sum(shares[f] for shares in note["importance"].values()),
        )
        found["stacking"] = {
            "note": f"{note['trees']} trees from {note['queries']} {note['split']} queries. Share of the mean absolute contribution (TreeSHAP), by language.",
            "rows": [
                ["feature", *note["importance"]],
                *(
                    [f, *(f"{shares[f]:.1%}" for shares in note["importance"].values())]
                    for f in names[:15]
                ),
            ],
        }
    return found


def provenance(task: Task) -> dict:
    """Training pairs by recipe, language and what they are, and a few of each kind with their texts."""
    rows, samples = [["recipe", "language", "what", "count"]], []
    for step in (s for s in groups.plan(task).values() if s.name.startswith("groups/")):
        name, file = step.name.removeprefix("groups/"), step.path / "sample.json"
        rows += [
            [name, *key.split(" ", 1), str(value)]
            for key, value in json.loads((step.path / "counts.json").read_text("utf-8"))[
                "counts"
            ].items()
        ]
        samples += (
            [{"recipe": name, **pair} for pair in json.loads(file.read_text("utf-8"))]
            if file.exists()
            else []
        )
    return {"provenance": rows, "samples": samples}


def trainings(task: Task) -> dict:
    """The closing table of each training, and what a cascade and int8 cost."""
    rows, gates = (
        [["ranker", "first stage", "before training", "tuned", "at step"]],
        [["ranker", "way", "nDCG@10", "whole", "difference", "queries"]],
    )
    for name in task.config.ranking.trainings:
        state = json.loads(
            (rank.plan(task)[f"ranker/{name}"].path / "training.json").read_text("utf-8")
        )
        figures = [
            f"{state[k]:.4f}" if state.get(k, -1) >= 0 else ""
            for k in ("first_stage", "base", "best")
        ]
        rows.append([rankers.note_chain(task, name), *figures, str(state["best_step"])])
    for name, way, note in rank.costs(task):
        gates.append(
            [
                name,
                way,
                f"{note['own']:.4f}",
                f"{note['whole']:.4f}",
                f"{note['own'] - note['whole']:+.4f}",
                str(note["queries"]),
            ]
        )
    return {"trainings": rows, "gates": gates if len(gates) > 1 else None}


def times(task: Task) -> list[list[str]]:
    """Seconds and peak memory by stage and kind of step, each step's last building."""
    log = task.config.folder / "log.jsonl"
    last = (
        {e["step"]: e for e in map(json.loads, log.read_text("utf-8").splitlines())}
        if log.exists()
        else {}
    )
    totals: dict[tuple[str, str], list] = {}
    for name, entry in last.items():
        total = totals.setdefault(
            (entry["stage"], name if name.startswith("ranker/") else name.split("/")[0]),
            [0, 0.0, 0],
        )
        total[0], total[1], total[2] = (
            total[0] + 1,
            total[1] + entry["seconds"],
            max(total[2], entry["peak_bytes"]),
        )
    return [
        ["stage", "step", "outputs", "seconds", "peak GB"],
        *([s, k, str(n), f"{t:.1f}", f"{m / 1e9:.2f}"] for (s, k), (n, t, m) in totals.items()),
    ]


def split_part(task: Task, found: dict, compared: dict, looks: analysis.Looks, split: str) -> dict:
    """Everything that needs the judgments of the report's split."""
    shares = {la: look.fates for la, look in looks.items()}
    return {
        "columns": list(next(iter(found[split].values()))),
        "stages": stages(found, compared, split),
        "tests": results.comparison_rows(compared, split),
        "metrics": [
            (f"{s}, {metric}", results.table(found, s, metric))
            for s in reversed(found)
            for metric in next(iter(next(iter(found[s].values())).values()))
        ],
        "curves": curves(task, looks),
        "fates_chart": charts.stacked("Relevant passages", shares),
        "fates": [
            ["", *analysis.FATES],
            *([la, *(f"{v:.1%}" for v in parts.values())] for la, parts in shares.items()),
        ],
        "worst": [(la, look.worst) for la, look in looks.items() if look.worst],
        "worst_count": analysis.WORST,
    }


def write(task: Task, found: dict, compared: dict, looks: analysis.Looks, elsewhere: dict) -> None:
    c, split = task.config, results.report_split(task)
    page = PAGE.get_template("report.html").render(
        title=f"{c.collection_name}: {c.name}",
        split=split,
        final=c.submission.system,
        stored=c.retrieval.depth,
        candidates=c.candidates,
        subtitle=f"{len(task.languages)} languages ({', '.join(task.languages)}); {', '.join(results.systems(task))}",
        times=times(task),
        marked=", ".join(results.transductive(task)),
        targets=" and ".join(results.target_splits(task)),
        config=json.dumps(c.model_dump(mode="json"), ensure_ascii=False, indent=1),
        **provenance(task),
        **trainings(task),
        **members_part(task, looks, elsewhere),
        **(split_part(task, found, compared, looks, split) if split else {}),
    )
    with finished_file(c.folder / "report" / "index.html") as file:
        file.write(page + "\n")
