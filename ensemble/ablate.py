"""Ablations: rows that each change one thing of a base configuration, over seeds, in one table.

    python -m ensemble.ablate configs/ablations/table3.yaml [key=value …] [--rows pl,fgm] [--table]

Every row and seed is a configuration of its own, NAME-ROW-SEED; what they share is made once, and a
stopped run goes on. ``--rows``: these and those that they are on or beside, and the table has no
others. ``--table`` only prints what is there. A file may name another with ``extends:``, as
configurations do; it has that one's rows, too.
"""

import argparse
import csv
import gc
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from pydantic import Field

from core import cluster
from core.artefacts import TrainedRanker
from core.building import Journal, run_steps
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
from core.parts import Languages, Name, Part, Whole
from core.settings import Config
from core.steps import Step, needed
from core.task import Task
from data_aug import build
from ensemble import charts, fuse, results
from ensemble import run as ensemble_stage
from ensemble.report import PAGE
from ensemble.results import Key
from ranking import rank
from retrieval import search
from retrieval.retrievers import RETRIEVERS

MODULE = "ensemble.ablate"  # also where it is what was started
PLACEHOLDER = "untrained"  # a ranker that no figure needs, as a configuration must have one

# ---- The file


class Row(Part):
    """A change to the row that it is ``on``: of its ranker, or (``set``) of anything else.

    ``beside``: rows whose rankers are there, too, as teachers of pseudo-labels or members of an
    ensemble. ``system``: what is measured, the row's own ranker without it.
    """

    on: str | None = None
    ranker: dict = {}
    set: dict = {}
    beside: list[str] = []
    system: str | None = None
    paper: dict[Literal["known", "surprise"], float] = {}  # the paper's figures, shown beside ours
    x: float | None = None  # its place on the curve of the rows that have one


class Ablation(Part):
    """Rows over a base configuration, and what is measured."""

    base: str  # a configuration, beside this file
    set: dict = {}  # over the base, for all rows
    ranker: dict = {}  # over the defaults, for all rows
    seeds: list[Whole] = Field([0, 1, 2], min_length=1)
    split: str | None = None  # that is measured; splits.test without it
    languages: Languages = []  # that are measured; all without it
    rows: dict[Name, Row] = Field(min_length=1)


def read(path: Path, only: Sequence[str] = ()) -> Ablation:
    """All rows, or ``only`` some with those that they are on or beside.

    Raises InputError for a key or a row that is not known, for rows built on each other in a ring,
    for a row on a later one (a table compares each row with one above it), and for a row beside
    one without a ranker.
    """
    ablation = checked(Ablation, layers_of(path))
    rows = ablation.rows
    for name, row in rows.items():
        for other in [row.on, *row.beside] if row.on else row.beside:
            if other not in rows:
                raise InputError(
                    f"{path}: rows.{name}: found the row {other!r}, "
                    f"expected one of {', '.join(rows)}"
                )
        lineage(ablation, name, path)
        check_beside(ablation, name, path)
    check_order(ablation, path)
    unknown = [name for name in only if name not in rows]
    if unknown:
        raise InputError(f"--rows: found {', '.join(unknown)}, expected some of {', '.join(rows)}")
    kept: set[str] = set()
    for name in only or rows:
        kept.update(involved(ablation, name, path))
    chosen = {name: row for name, row in rows.items() if name in kept}
    return ablation.model_copy(update={"rows": chosen})


def check_order(ablation: Ablation, path: Path) -> None:
    """Raises InputError for a row that is on a later one."""
    above: list[str] = []
    for name, row in ablation.rows.items():
        if row.on is not None and row.on not in above:
            expected = f"one of {', '.join(above)}" if above else "none: it is the first row"
            raise InputError(
                f"{path}: rows.{name}.on: found {row.on!r}, which comes after it, "
                f"expected {expected}"
            )
        above.append(name)


def check_beside(ablation: Ablation, name: str, path: Path) -> None:
    """Raises InputError for a row beside ``name`` that has no ranker of its own."""
    for other in ablation.rows[name].beside:
        system = ablation.rows[other].system
        if system is not None:
            raise InputError(
                f"{path}: rows.{name}.beside: found {other!r}, which measures {system} and has no "
                "ranker of its own, expected rows with rankers"
            )


def lineage(ablation: Ablation, name: str, path: Path) -> list[str]:
    """The row and those that it is built on, the first one first.

    Raises InputError where they are in a ring.
    """
    names = [name]
    while on := ablation.rows[names[0]].on:
        if on in names:
            ring = " on ".join([*names, on])
            raise InputError(f"{path}: rows {ring}: built on each other in a ring")
        names.insert(0, on)
    return names


def involved(ablation: Ablation, name: str, path: Path) -> list[str]:
    """The row, those beside it, and all that these are built on."""
    names: dict[str, None] = {}
    for row in (*ablation.rows[name].beside, name):
        names |= dict.fromkeys(lineage(ablation, row, path))
    return list(names)


# ---- A row's configuration


def configuration(
    ablation: Ablation, path: Path, name: str, seed: int, arguments: Sequence[str]
) -> Config:
    """A row's configuration.

    The base, the layers of the row's lineage, and the rankers of the row and of those beside it,
    each with the seed.
    """
    layers = [*layers_of(path.parent / ablation.base), (f"{path}: set", ablation.set)]
    for other in involved(ablation, name, path):
        layers.append((f"{path}: rows.{other}.set", ablation.rows[other].set))
    layers += [argument_layer(argument) for argument in arguments]
    rankers = {}
    for other in rows_with_rankers(ablation, name):
        rankers[other] = ranker_of(ablation, path, other, seed)
    whole = merged_layers(Config, layers)
    whole["ranking"] = {**whole.get("ranking", {}), "rankers": rankers or {PLACEHOLDER: {}}}
    return from_layers([(f"{path}: row {name}", whole)], path, f"{path.stem}-{name}-{seed}")


def ranker_of(ablation: Ablation, path: Path, name: str, seed: int) -> dict:
    """A row's ranker: what its lineage changes of that of all rows, with the seed.

    A given model is not trained: it has what its lineage says alone.
    """
    changes = [ablation.rows[above].ranker for above in lineage(ablation, name, path)]
    of_all = {} if is_given(ablation, path, name) else {"seed": seed, **ablation.ranker}
    return reduce(merged, changes, of_all)


def is_given(ablation: Ablation, path: Path, name: str) -> bool:
    """Whether a row's ranker is a given model."""
    return any("model" in ablation.rows[above].ranker for above in lineage(ablation, name, path))


def rows_with_rankers(ablation: Ablation, name: str) -> list[str]:
    """Those whose rankers a row needs: those beside it and, unless it has a system, itself."""
    row = ablation.rows[name]
    return [*row.beside] if row.system else [*row.beside, name]


def system_of(ablation: Ablation, name: str) -> str:
    """What is measured of a row."""
    return ablation.rows[name].system or name


def depends_on_seed(ablation: Ablation, path: Path, name: str) -> bool:
    """Whether a row measures what was trained here."""
    system = ablation.rows[name].system
    if system is None:
        return not is_given(ablation, path, name)
    return system not in (*RETRIEVERS, "hybrid")


def split_of(ablation: Ablation, config: Config) -> str:
    """The split that is measured."""
    return ablation.split or config.splits.test


def check(ablation: Ablation, path: Path, arguments: Sequence[str]) -> None:
    """Of all rows, before hours of the first one. Raises InputError."""
    for name in ablation.rows:
        task = Task(configuration(ablation, path, name, ablation.seeds[0], arguments))
        check_system(task, system_of(ablation, name), where=f"{path}: rows.{name}.system")
        measured(task, split_of(ablation, task.config), ablation.languages)


def check_system(task: Task, system: str, where: str) -> None:
    """Raises InputError for a system that a row does not have.

    Without rankers of its own or beside it, it has those of the first stage alone.
    """
    known = results.systems(task)
    if list(task.config.ranking.rankers) == [PLACEHOLDER]:
        known = task.config.retrieval.systems
    if system not in known:
        raise InputError(f"{where}: found {system!r}, expected one of {', '.join(known)}")


def measured(task: Task, split: str, languages: Sequence[str]) -> list[str]:
    """``languages``, or all judged ones.

    Raises InputError for a split that is none of the configuration's, or has no judgments, and for
    a language without them.
    """
    configured = list(task.config.splits.model_dump().values())
    if split not in configured:
        raise InputError(f"split: found {split!r}, expected one of {', '.join(configured)}")
    judged = results.judged_languages(task, split)
    unjudged = [language for language in languages if language not in judged]
    if unjudged:
        raise InputError(
            f"languages: {', '.join(unjudged)} have no judged {split} queries; "
            f"those with are {', '.join(judged)}"
        )
    if not judged:
        raise InputError(f"split: no language has judged {split} queries, expected some to measure")
    return list(languages or judged)


# ---- Making and measuring rows


@dataclass
class Figures:
    """What is known of a row so far.

    ``by_seed``: seed -> language -> query id -> nDCG@10. ``pairs``: seen by the row's own ranker.
    ``seconds``: of its training, all seeds together. ``transductive``: it learnt from unlabelled
    queries of a split that is evaluated.
    """

    by_seed: dict[int, dict[str, dict[str, float]]] = field(default_factory=dict)
    pairs: int = 0
    seconds: float = 0.0
    transductive: bool = False


def run(path: Path, arguments: Sequence[str], only: Sequence[str] = ()) -> dict[str, Figures]:
    """Every row with every seed; the table is written anew after each.

    All rows with the first seed, then with the next: an early look at the whole table.
    """
    ablation = read(path, only)
    check(ablation, path, arguments)
    for name in ablation.rows:
        config = configuration(ablation, path, name, ablation.seeds[0], arguments)
        search.reserve_heaps(with_data(config))
    share_rows(path, ablation, arguments)
    rows: dict[str, Figures] = {}
    for seed in ablation.seeds:
        for name in ablation.rows:
            if seed != ablation.seeds[0] and not depends_on_seed(ablation, path, name):
                continue
            say(f"row {name}, seed {seed}")
            config = configuration(ablation, path, name, seed, arguments)
            split = split_of(ablation, config)
            system = system_of(ablation, name)
            task, runs = make(config, system, split, ablation.languages)
            figures = rows.setdefault(name, Figures())
            figures.by_seed[seed] = ndcg_by_language(task, system, split, runs)
            figures.pairs = pairs_seen(config, name)
            figures.seconds += training_seconds(config, name)
            figures.transductive = system in results.transductive(task)
            write(path, ablation, config, split, rows, results.by_kind(task, list(runs)))
            del task, runs  # with its models; they refer to each other, so they are looked for
            gc.collect()
    return rows


def make(
    config: Config, system: str, split: str, languages: Sequence[str]
) -> tuple[Task, dict[str, Step]]:
    """Language -> the run that is measured, made with what it needs and no more.

    Of earlier rounds everything is made, for pseudo-labels. Raises InputError for a system that
    the configuration does not have.
    """
    for round_ in range(last_round(config)):
        part = until_round(config, round_, config.name)
        steps: list[Step] = []
        for stage in (build, rank, fuse):
            steps += stage.plan(Task(part)).values()
        build_needed(part, steps)
        ensemble_stage.run(part)
    task = Task(config)
    check_system(task, system, where=f"{config.name}: the system to measure")
    runs = {}
    for language in measured(task, split, languages):
        runs[language] = results.run_step(task, system, language, split)
    build_needed(config, runs.values())
    return task, runs


def build_needed(config: Config, targets: Iterable[Step]) -> None:
    """Builds ``targets`` and what they need, each collection's steps for its own configuration.

    Rows that are made at the same time meet in the folders of training data: nobody enters one
    where nothing is to do.
    """
    steps = needed(targets)
    *data, own_config = with_data(config)
    for part in data:
        own = [step for step in steps if step.root == part.home]
        if not all(step.done for step in own):
            run_steps(own, part.folder, some=True)
    own = [step for step in steps if step.root == own_config.home]
    run_steps(own, own_config.folder, some=True)


def share_rows(path: Path, ablation: Ablation, arguments: Sequence[str]) -> None:
    """With ``engine: ray``, lets a cluster make every row with every seed before they are measured.

    First the first stage of all rows and the data of their chains are made, on the whole cluster.
    A row is one actor's, from its training to its runs; one that needs what another is making
    waits for it.
    """
    items = []
    for seed in ablation.seeds:
        for name in ablation.rows:
            if seed == ablation.seeds[0] or depends_on_seed(ablation, path, name):
                items.append(cluster.Item(f"row {name}, seed {seed}", (name, seed)))
    a_row = next(iter(ablation.rows))
    config = configuration(ablation, path, a_row, ablation.seeds[0], arguments)
    if config.engine != "ray":
        return
    for name in ablation.rows:
        own = configuration(ablation, path, name, ablation.seeds[0], arguments)
        steps = needed(targets(ablation, own, name))
        build_needed(own, [step for step in steps if is_shared(step, own)])
    told = (path.resolve(), list(arguments), list(ablation.rows))
    cluster.share(config, f"{MODULE}:rows_of", told, f"{MODULE}:make_row", items, "rows")


def targets(ablation: Ablation, config: Config, name: str) -> list[Step]:
    """The runs that a row is measured by; with rounds, all that the first of them trains."""
    if last_round(config):
        return list(rank.plan(Task(until_round(config, 0, config.name))).values())
    task = Task(config)
    split, system = split_of(ablation, config), system_of(ablation, name)
    languages = measured(task, split, ablation.languages)
    return [results.run_step(task, system, language, split) for language in languages]


def is_shared(step: Step, config: Config) -> bool:
    """Whether rows have a step in common: the first stage, and data of another collection."""
    return step.stage == "retrieval" or step.root != config.home


def rows_of(path: Path, arguments: list[str], only: list[str]) -> tuple[Ablation, Path, list[str]]:
    """What an actor makes rows by: as the machine that leads read them, but by its own hands."""
    return read(path, only), path, [*arguments, "engine=local", "ray.address=null"]


def make_row(told: tuple[Ablation, Path, list[str]], name: str, seed: int) -> None:
    """One row with one seed, on an actor."""
    ablation, path, arguments = told
    config = configuration(ablation, path, name, seed, arguments)
    make(config, system_of(ablation, name), split_of(ablation, config), ablation.languages)
    gc.collect()  # its models: a task and its plans refer to each other


def ndcg_by_language(
    task: Task, system: str, split: str, languages: Iterable[str]
) -> dict[str, dict[str, float]]:
    """Language -> query id -> nDCG@10 of a system."""
    values = {}
    for language in languages:
        run_ = task.run(system, language, split)
        values[language] = evaluate(run_, split_judgments(task, language, split))["nDCG@10"]
    return values


def pairs_seen(config: Config, name: str) -> int:
    """By the row's own ranker in its training; 0 where it has none, or a given one."""
    ranker = config.ranking.rankers.get(name)
    if ranker is None or ranker.model is not None:
        return 0
    return ranker.steps * ranker.batch_size * ranker.accumulation


def training_seconds(config: Config, name: str) -> float:
    """Of the row's own training, as it was last made; 0 where it was not made here."""
    entry = Journal(config.folder).last_buildings().get(TrainedRanker(name).step_name)
    return entry["seconds"] if entry else 0.0


# ---- The table


def compare(
    ablation: Ablation, rows: Mapping[str, Figures], kinds: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """A line a row and kind of languages, as ``ablation.json`` has them.

    ``kinds``: "known" or "surprise" -> languages. Means are over seeds of the means over
    languages, and the standard deviation over seeds is that of a sample, None of one seed. A row
    that is on another has their difference, with p of a paired randomisation test of it,
    Holm-corrected for the rows of the kind.
    """
    lines: list[dict[str, Any]] = []
    for kind, languages in kinds.items():
        of_kind = {}
        for name, figures in rows.items():
            of_kind[name] = line_of(ablation, name, figures, kind, languages)
        tested = []
        for name, line in of_kind.items():
            base = ablation.rows[name].on
            if base is None or base not in rows:
                continue
            before = by_query(rows[base], languages)
            after = by_query(rows[name], languages)
            gains = [after[key] - before[key] for key in before]
            language_of_each = [language for language, _ in before]
            line["difference"] = line["mean"] - of_kind[base]["mean"]
            line["p"] = randomisation_test(gains, language_of_each)
            tested.append(line)
        corrected = holm([line["p"] for line in tested])
        for line, p in zip(tested, corrected, strict=True):
            line["holm"] = p
        lines += of_kind.values()
    return lines


def line_of(
    ablation: Ablation, name: str, figures: Figures, kind: str, languages: Sequence[str]
) -> dict[str, Any]:
    """A row's own figures in the languages of a kind."""
    means = []
    for of_seed in figures.by_seed.values():
        means.append(fmean(fmean(of_seed[language].values()) for language in languages))
    paper: Mapping[Any, float] = ablation.rows[name].paper
    return {
        "row": name,
        "group": kind,
        "on": ablation.rows[name].on,
        "mean": fmean(means),
        "standard deviation": stdev(means) if len(means) > 1 else None,
        "seeds": len(means),
        "by_seed": means,
        "paper": paper.get(kind),
        "pairs": figures.pairs,
        "seconds": figures.seconds,
        "transductive": figures.transductive,
    }


def by_query(figures: Figures, languages: Sequence[str]) -> dict[Key, float]:
    """Each query's nDCG@10, a mean over seeds."""
    seeds = list(figures.by_seed.values())
    means = {}
    for language in languages:
        for qid in seeds[0][language]:
            means[language, qid] = fmean(of_seed[language][qid] for of_seed in seeds)
    return means


def table(lines: Sequence[Mapping[str, Any]], split: str) -> list[list[str]]:
    """The lines of ``compare`` as text, with a head."""
    head = ["row", "on", "languages", f"nDCG@10 {split}", "standard deviation", "seeds"]
    head += ["difference", "p", "p (Holm)", "pairs", "seconds", "paper", ""]
    rows = [head]
    for line in lines:
        named = [line["row"], line["on"] or "", line["group"]]
        deviation = line["standard deviation"]
        spread = "" if deviation is None else f"{deviation:.4f}"
        measured = [f"{line['mean']:.4f}", spread, str(line["seeds"])]
        tested = ["", "", ""]
        if "p" in line:
            tested = [f"{line['difference']:+.4f}", f"{line['p']:.4f}", f"{line['holm']:.4f}"]
        pairs = str(line["pairs"] or "")
        seconds = f"{line['seconds']:.0f}" if line["seconds"] else ""
        paper = f"{line['paper']:.3f}" if line["paper"] else ""
        mark = "transductive" if line["transductive"] else ""
        rows.append([*named, *measured, *tested, pairs, seconds, paper, mark])
    return rows


def curves(ablation: Ablation, lines: Iterable[Mapping[str, Any]]) -> dict[str, dict[float, float]]:
    """Rows that have an ``x``, as a curve for each row that they are on and kind of languages."""
    points: dict[str, dict[float, float]] = {}
    for line in lines:
        row = ablation.rows[line["row"]]
        if row.x is not None:
            points.setdefault(f"on {row.on}, {line['group']}", {})[row.x] = line["mean"]
    return points


def folder_of(config: Config, path: Path) -> Path:
    """Where the table of the file at ``path`` is written."""
    return config.home / path.stem


def write(
    path: Path,
    ablation: Ablation,
    config: Config,
    split: str,
    rows: Mapping[str, Figures],
    kinds: Mapping[str, Sequence[str]],
) -> None:
    """ablation.json, .csv, .txt and .html of what there is so far."""
    folder = folder_of(config, path)
    folder.mkdir(parents=True, exist_ok=True)
    lines = compare(ablation, rows, kinds)
    write_json(folder / "ablation.json", lines)
    cells = table(lines, split)
    as_csv = io.StringIO()
    csv.writer(as_csv, lineterminator="\n").writerows(cells)
    write_text(folder / "ablation.csv", as_csv.getvalue())
    write_text(folder / "ablation.txt", results.text_table(cells, left=3) + "\n")
    page = PAGE.get_template("ablation.html").render(
        title=f"{config.collection_name}: {path.stem}",
        split=split,
        rows=cells,
        chart=charts.lines(f"nDCG@10 on {split}", "", curves(ablation, lines)),
    )
    write_text(folder / "ablation.html", page + "\n")


def write_text(path: Path, text: str) -> None:
    """A file that is whole or absent."""
    with finished_file(path) as file:
        file.write(text)


# ---- The command line


def main() -> None:
    """Makes the rows, unless only the table is asked for, and prints the table."""
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
    path = options.ablation
    ablation = read(path, options.rows)
    if not options.table:
        run(path, options.settings, options.rows)
    a_row, seed = next(iter(ablation.rows)), ablation.seeds[0]
    folder = folder_of(configuration(ablation, path, a_row, seed, options.settings), path)
    text = folder / "ablation.txt"
    if not text.is_file():
        raise InputError(f"{folder}: no table yet; run without --table")
    say(f"\n{text.read_text('utf-8')}")
    say(f"table  {folder / 'ablation.csv'}")
    say(f"report {folder / 'ablation.html'}")


if __name__ == "__main__":
    exit_with_message(main)
