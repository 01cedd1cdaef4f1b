"""Ablations: rows that each change one thing of a base configuration, trained with several seeds, in one table.

    python -m ensemble.ablate configs/ablations/table3.yaml [key=value …] [--rows pl,fgm] [--table]

Every row and seed is a configuration of its own, NAME-ROW-SEED; what they share is made once, and a stopped run goes on. ``--rows``: these
and those that they are on or beside, and the table has no others. ``--table`` only prints what is there. A file may name another with
``extends:``, as configurations do; it has that one's rows, too.
"""

import argparse
import csv
import gc
import io
import json
from collections.abc import Iterable, Sequence
from functools import reduce
from pathlib import Path
from statistics import fmean, pstdev
from typing import Literal

from pydantic import Field

from core.building import run_steps
from core.config import (
    argument_layer,
    checked,
    from_layers,
    last_round,
    layers_of,
    merged,
    merged_layers,
    until_round,
    with_data,
)
from core.console import say
from core.errors import InputError, exit_with_message
from core.evaluate import evaluate, holm, randomisation_test
from core.files import finished_file, write_json
from core.judgments import split_judgments
from core.parts import Part
from core.settings import Config
from core.steps import Step, needed
from core.task import Task
from data_aug import build
from ensemble import charts, fuse, results
from ensemble import run as ensemble_stage
from ensemble.report import PAGE
from ranking import rank
from retrieval import search
from retrieval.retrievers import RETRIEVERS


class Row(Part):
    """A change to the row that it is ``on``: of its ranker, or (``set``) of anything else. ``beside``: rows whose rankers are there, too,
    as teachers of pseudo-labels or members of an ensemble. ``system``: what is measured, the row's own ranker without it."""

    on: str | None = None
    ranker: dict = {}
    set: dict = {}
    beside: list[str] = []
    system: str | None = None
    paper: dict[Literal["known", "surprise"], float] = {}  # the paper's figures, shown beside ours
    x: float | None = None  # its place on the curve of the rows that have one


class Ablation(Part):
    base: str  # a configuration, beside this file
    set: dict = {}  # over the base, for all rows
    ranker: dict = {}  # over the defaults, for all rows
    seeds: list[int] = Field([0, 1, 2], min_length=1)
    split: str | None = None  # that is measured; splits.test without it
    languages: list[str] = []  # that are measured; all without it
    rows: dict[str, Row] = Field(min_length=1)


def read(path: Path, only: Sequence[str] = ()) -> Ablation:
    """All rows, or ``only`` some with those that they are on or beside. Raises InputError for a key or a row that is not known, and for
    rows built on each other in a ring."""
    found = checked(Ablation, layers_of(path))
    for name, row in found.rows.items():
        for other in (*([row.on] if row.on else []), *row.beside):
            if other not in found.rows:
                raise InputError(
                    f"{path}: rows.{name}: found the row {other!r}, expected one of {', '.join(found.rows)}"
                )
        lineage(found, name, path)
    if unknown := [name for name in only if name not in found.rows]:
        raise InputError(
            f"--rows: found {', '.join(unknown)}, expected some of {', '.join(found.rows)}"
        )
    kept = {row for name in only or found.rows for row in involved(found, name, path)}
    return found.model_copy(
        update={"rows": {name: row for name, row in found.rows.items() if name in kept}}
    )


def lineage(ablation: Ablation, name: str, path: Path) -> list[str]:
    """The row and those that it is built on, the first one first."""
    names = [name]
    while on := ablation.rows[names[0]].on:
        if on in names:
            raise InputError(
                f"{path}: rows {' on '.join([*names, on])}: built on each other in a ring"
            )
        names.insert(0, on)
    return names


def involved(ablation: Ablation, name: str, path: Path) -> list[str]:
    """The row, those beside it, and all that these are built on."""
    return list(
        dict.fromkeys(
            ancestor
            for n in [*ablation.rows[name].beside, name]
            for ancestor in lineage(ablation, n, path)
        )
    )


def configuration(
    ablation: Ablation, path: Path, name: str, seed: int, arguments: Sequence[str]
) -> Config:
    """The base, the layers of the row's lineage, and the rankers of the row and of those beside it, each with the seed."""

    def ranker(row: str) -> dict:
        return reduce(
            merged,
            (ablation.rows[ancestor].ranker for ancestor in lineage(ablation, row, path)),
            {"seed": seed, **ablation.ranker},
        )

    row = ablation.rows[name]
    rows = [*row.beside, *([] if row.system else [name])]
    layers = [*layers_of(path.parent / ablation.base), (f"{path}: set", ablation.set)]
    for other in involved(ablation, name, path):
        layers.append((f"{path}: rows.{other}.set", ablation.rows[other].set))
    layers += [argument_layer(argument) for argument in arguments]
    whole = merged_layers(Config, layers)
    whole["ranking"] = {
        **whole.get("ranking", {}),
        "rankers": {n: ranker(n) for n in rows} or {"untrained": {}},
    }
    return from_layers([(f"{path}: row {name}", whole)], path, f"{path.stem}-{name}-{seed}")


def system_of(ablation: Ablation, name: str) -> str:
    return ablation.rows[name].system or name


def trained(ablation: Ablation, name: str) -> bool:
    """Whether a row's figures depend on the seed."""
    return ablation.rows[name].system not in (*RETRIEVERS, "hybrid")


def make(
    config: Config, system: str, split: str, languages: Sequence[str]
) -> tuple[Task, dict[str, Step]]:
    """Language -> the run that is measured, made with what it needs and no more; of earlier rounds everything, for pseudo-labels."""
    for round_ in range(last_round(config)):
        part = until_round(config, round_, config.name)
        build_needed(
            part,
            [step for stage in (build, rank, fuse) for step in stage.plan(Task(part)).values()],
        )
        ensemble_stage.run(part)
    task = Task(config)
    runs = {
        la: results.run_step(task, system, la, split) for la in measured(task, split, languages)
    }
    build_needed(config, runs.values())
    return task, runs


def build_needed(config: Config, targets: Iterable[Step]) -> None:
    steps = needed(targets)
    for part in with_data(config):
        run_steps([s for s in steps if s.root == part.home], part.folder, some=True)


def measured(task: Task, split: str, languages: Sequence[str]) -> list[str]:
    """``languages``, or all judged ones. Raises InputError for a language without judgments."""
    judged = [la for la, _ in results.judged_pairs(task, split)]
    wrong = [la for la in languages if la not in judged]
    if wrong:
        raise InputError(
            f"languages: {', '.join(wrong)} have no judged {split} queries; those with are {', '.join(judged)}"
        )
    return list(languages or judged)


def seconds(config: Config, name: str) -> float:
    """Of the row's own training, as it was last made."""
    log = config.folder / "log.jsonl"
    entries = map(json.loads, log.read_text("utf-8").splitlines()) if log.exists() else ()
    return next(
        (e["seconds"] for e in reversed(list(entries)) if e["step"] == f"ranker/{name}"), 0.0
    )


def check(ablation: Ablation, path: Path, arguments: Sequence[str]) -> None:
    """Of all rows, before hours of the first one. Raises InputError."""
    for name in ablation.rows:
        task = Task(configuration(ablation, path, name, ablation.seeds[0], arguments))
        if system_of(ablation, name) not in (known := results.systems(task)):
            raise InputError(
                f"{path}: rows.{name}.system: found {system_of(ablation, name)!r}, expected one of {', '.join(known)}"
            )
        measured(task, split_of(ablation, task.config), ablation.languages)


def split_of(ablation: Ablation, config: Config) -> str:
    return ablation.split or config.splits.test


def run(path: Path, arguments: Sequence[str], only: Sequence[str] = ()) -> dict:
    """Every row with every seed; ``rows`` -> name -> figures, as the table and the JSON file have them."""
    ablation, rows = read(path, only), {}
    check(ablation, path, arguments)
    for seed in (
        ablation.seeds
    ):  # all rows with the first seed, then with the next: an early look at the whole table
        for name in (n for n in ablation.rows if trained(ablation, n) or seed == ablation.seeds[0]):
            config = configuration(ablation, path, name, seed, arguments)
            split = split_of(ablation, config)
            say(f"row {name}, seed {seed}")
            task, runs = make(config, system_of(ablation, name), split, ablation.languages)
            entry = rows.setdefault(
                name,
                {
                    "seeds": {},
                    "transductive": system_of(ablation, name) in results.transductive(task),
                    "seconds": 0.0,
                    "pairs": sum(
                        r.steps * r.batch_size * r.accumulation
                        for n, r in config.ranking.rankers.items()
                        if n == name
                    ),
                },
            )
            entry["seeds"][seed] = {
                la: evaluate(search.run_of(run), split_judgments(task, la, split))["nDCG@10"]
                for la, run in runs.items()
            }
            entry["seconds"] += seconds(config, name)
            write(path, ablation, config, split, rows, results.by_kind(task, list(runs)))
            del task, runs  # with its models; they refer to each other, so they are looked for
            gc.collect()
    return rows


def compare(ablation: Ablation, rows: dict, groups: dict[str, list[str]]) -> list[dict]:
    """A line a row and group: mean and spread over seeds, and against the row it is on the difference of means over seeds, by query, with
    p of a paired randomisation test, Holm-corrected for the rows of the group."""

    def by_query(name: str, languages: list[str]) -> dict:
        seeds = list(rows[name]["seeds"].values())
        return {(la, q): fmean(s[la][q] for s in seeds) for la in languages for q in seeds[0][la]}

    found = []
    for group, languages in groups.items():
        lines = []
        for name in rows:
            own = [
                fmean(fmean(s[la].values()) for la in languages)
                for s in rows[name]["seeds"].values()
            ]
            line = {
                "row": name,
                "group": group,
                "on": ablation.rows[name].on,
                "mean": fmean(own),
                "spread": pstdev(own),
                "seeds": len(own),
                "by_seed": own,
                "paper": ablation.rows[name].paper.get(group),
                "pairs": rows[name]["pairs"],
                "seconds": rows[name]["seconds"],
                "transductive": rows[name]["transductive"],
            }
            if line["on"] in rows:
                before, after = by_query(line["on"], languages), by_query(name, languages)
                line |= {
                    "difference": line["mean"]
                    - next(x["mean"] for x in lines if x["row"] == line["on"]),
                    "p": randomisation_test(
                        [after[k] - before[k] for k in before], [la for la, _ in before]
                    ),
                }
            lines.append(line)
        tested = [line for line in lines if "p" in line]
        for line, corrected in zip(tested, holm([line["p"] for line in tested])):
            line["holm"] = corrected
        found += lines
    return found


def table(lines: list[dict], split: str) -> list[list[str]]:
    return [
        [
            "row",
            "on",
            "languages",
            f"nDCG@10 {split}",
            "spread",
            "seeds",
            "difference",
            "p",
            "p (Holm)",
            "pairs",
            "seconds",
            "paper",
            "",
        ],
        *(
            [
                line["row"],
                line["on"] or "",
                line["group"],
                f"{line['mean']:.4f}",
                f"{line['spread']:.4f}" if line["seeds"] > 1 else "",
                str(line["seeds"]),
                *(
                    (f"{line['difference']:+.4f}", f"{line['p']:.4f}", f"{line['holm']:.4f}")
                    if "p" in line
                    else ("", "", "")
                ),
                str(line["pairs"] or ""),
                f"{line['seconds']:.0f}" if line["seconds"] else "",
                f"{line['paper']:.3f}" if line["paper"] else "",
                "transductive" if line["transductive"] else "",
            ]
            for line in lines
        ),
    ]


def folder_of(config: Config, path: Path) -> Path:
    return config.home / path.stem


def write(
    path: Path,
    ablation: Ablation,
    config: Config,
    split: str,
    rows: dict,
    groups: dict[str, list[str]],
) -> None:
    """ablation.json, .csv, .txt and .html of what there is so far."""
    folder, lines = folder_of(config, path), compare(ablation, rows, groups)
    cells = table(lines, split)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "ablation.json", lines)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(cells)
    curve = {
        f"{row}, {group}": points
        for group in groups
        for row, points in curves(
            ablation, [line for line in lines if line["group"] == group]
        ).items()
    }
    page = PAGE.get_template("ablation.html").render(
        title=f"{config.collection_name}: {path.stem}",
        split=split,
        rows=cells,
        chart=charts.lines(f"nDCG@10 on {split}", "", curve),
    )
    for name, content in (
        ("csv", text.getvalue()),
        ("txt", results.text_table(cells, left=3) + "\n"),
        ("html", page + "\n"),
    ):
        with finished_file(folder / f"ablation.{name}") as file:
            file.write(content)


def curves(ablation: Ablation, lines: list[dict]) -> dict[str, dict[float, float]]:
    """Rows that have an ``x``, as one curve for each row that they are on."""
    found: dict[str, dict[float, float]] = {}
    for line in lines:
        row = ablation.rows[line["row"]]
        if row.x is not None:
            found.setdefault(f"on {row.on}", {})[row.x] = line["mean"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m ensemble.ablate",
        description="rows that each change one thing, in one table",
    )
    parser.add_argument("ablation", type=Path)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument(
        "--rows",
        type=lambda text: text.split(","),
        default=[],
        metavar="ROW,ROW",
        help="only these, and those that they are on or beside",
    )
    parser.add_argument("--table", action="store_true", help="only print what is there")
    options = parser.parse_intermixed_args()
    ablation = read(options.ablation, options.rows)
    if not options.table:
        run(options.ablation, options.settings, options.rows)
    folder = folder_of(
        configuration(
            ablation,
            options.ablation,
            next(iter(ablation.rows)),
            ablation.seeds[0],
            options.settings,
        ),
        options.ablation,
    )
    if not (folder / "ablation.txt").is_file():
        raise InputError(f"{folder}: no table yet; run without --table")
    say(
        f"\n{(folder / 'ablation.txt').read_text('utf-8')}\ntable  {folder / 'ablation.csv'}\nreport {folder / 'ablation.html'}"
    )


if __name__ == "__main__":
    exit_with_message(main)
