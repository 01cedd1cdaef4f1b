"""The ensemble stage: weights, fused runs, submission, results, report.

    python -m ensemble.run CONFIG [key=value …]
"""
import os
import shutil

from core.config import from_arguments
from core.errors import exit_with_message
from core.settings import Config
from core.store import run_steps, say
from core.task import Task
from ensemble import fuse, report, results


def run(config: Config) -> None:
    task = Task(config)
    run_steps(fuse.plan(task).values(), config.folder)
    found, single = results.collect(task)
    compared = results.significance(task, single)
    results.write(task, found, compared)
    report.write(task, found, compared)
    link_runs(task)
    tell(task, found, compared)


def link_runs(task: Task) -> None:
    """The configuration's own view of its runs, runs/SYSTEM/LANG-SPLIT.trec, and its submission."""
    folder = task.config.folder
    shutil.rmtree(folder / "runs", ignore_errors=True)
    for system in results.systems(task):
        (folder / "runs" / system).mkdir(parents=True)
        for la, split in task.pairs(task.config.splits.dev, task.config.splits.test):
            os.link(results.run_step(task, system, la, split).path / "run.trec", folder / "runs" / system / f"{la}-{split}.trec")
    if "submission" in fuse.plan(task):
        shutil.copy(fuse.plan(task)["submission"].path / "submission.zip", folder / "submission.zip")


def tell(task: Task, found: dict, compared: dict) -> None:
    """One table for the evaluated split, and where things are."""
    c = task.config
    split = c.splits.test if c.splits.test in found else c.splits.dev
    if split in found:
        head, *_ = results.table(found, split)
        rows = [[metric, *row] for metric in results.TABLE for row in results.table(found, split, metric)[1:]]
        say(f"\n{c.collection_name}, {split}\n{results.text_table([['metric', 'system', *head[1:]], *rows], left=2)}")
        say(f"\n{results.text_table([row for row in report.comparison_rows(compared) if row[1] in ('split', split)], left=3)}")
    say(f"\nresults     {c.folder / 'results.json'}\nreport      {c.folder / 'report' / 'index.html'}")
    if (c.folder / "submission.zip").exists():
        say(f"submission  {c.folder / 'submission.zip'}")


def main() -> None:
    run(from_arguments("runs to one run, a submission and a report")[0])


if __name__ == "__main__":
    exit_with_message(main)
