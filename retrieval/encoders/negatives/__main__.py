"""The negatives of a configuration's encoders alone, and what became of their candidates.

python -m retrieval.encoders.negatives CONFIG [key=value …] [--dry-run]

The table is that of data-utilization-2025, Table 8. With ``--dry-run`` nothing is asked of a
language model: it says how much would be, and what that would cost.
"""

import argparse
from collections.abc import Sequence

from core.config import from_arguments
from core.console import say
from core.errors import InputError, exit_with_message
from core.files import finished_file, write_json
from core.settings import Config
from core.steps import Step
from core.task import Task
from retrieval import search
from retrieval.encoders import __main__ as stage
from retrieval.encoders import encoders
from retrieval.encoders.negatives import shares
from retrieval.encoders.negatives.dry import dry_run

FILE = "negatives"


def run(config: Config, is_dry: bool = False) -> None:
    """Makes the chains that are not made, and prints the table; ``is_dry``: the costs."""
    task = Task(config)
    search.plan(task)
    stage.reserve_heaps(task, [])
    names = [name for name, own in config.retrieval.encoders.items() if own.negatives]
    mined = [name for name in names if not config.retrieval.encoders[name].refreshes]
    if not mined:
        raise InputError(
            f"{config.name}: none of retrieval.encoders has negatives that are made before it is "
            "trained, so there is nothing to make"
        )
    if is_dry:
        dry_run(task, mined)
        return
    steps = {name: encoders.chain_step(task, name) for name in mined}
    encoders.make(task, list(steps.values()))
    report(task, steps)


def report(task: Task, steps: dict[str, Step]) -> None:
    """Prints a table an encoder, and leaves them beside the results as two files."""
    lines: list[str] = []
    figures = {}
    for name, step in steps.items():
        encoder = task.config.retrieval.encoders[name]
        source = encoders.task_of(task, encoder)
        languages = encoders.training_languages(source, encoder)
        rows = shares.of_chain(step.path, encoder.negatives, languages)
        lines += [f"### {name}: {', '.join(encoder.negatives)}", "", *table(rows), ""]
        figures[name] = {row.language: row.figures for row in rows}
    folder = task.config.folder
    with finished_file(folder / f"{FILE}.md") as file:
        file.write("\n".join(lines))
    write_json(folder / f"{FILE}.json", figures)
    say("\n" + "\n".join(lines) + f"Also in {folder}/{FILE}.md and {FILE}.json")


def table(rows: Sequence[shares.Shares]) -> list[str]:
    """Lines of Markdown, a column a language, as Table 8 has them."""
    titles = [row.language for row in rows]
    lines = [f"| | {' | '.join(titles)} |", "| --- |" + " ---: |" * len(titles)]
    for figure in rows[0].figures:
        cells = []
        for row in rows:
            value = row.figures[figure]
            cells.append("–" if value is None else shares.FORMATS[figure].format(value))
        lines.append(f"| {figure} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """The command line."""
    config, options = from_arguments("makes the negatives of encoders", add_options)
    run(config, options.dry_run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Beside the configuration."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what language models would be asked and what it would cost",
    )


if __name__ == "__main__":
    exit_with_message(main)
