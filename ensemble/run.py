"""The ensemble stage: weights, stacking, fused runs, submission, results, report.

python -m ensemble.run CONFIG [key=value …]
"""

import os
import shutil

from core.building import run_steps
from core.config import from_arguments, last_round
from core.console import say
from core.errors import exit_with_message
from core.settings import Config
from core.task import Task
from data_aug.augment import round_folder
from ensemble import estimate, fuse, ledger, report, results


def run(config: Config) -> None:
    task = Task(config)
    run_steps(fuse.plan(task).values(), config.folder)
    found, single, looks = results.collect(task)
    compared = results.significance(task, found, single)
    results.write(task, found, compared)
    link_runs(task)
    enter(task, found)
    elsewhere = results.measured(task, found)
    report.write(task, found, compared, looks, elsewhere)
    tell(task, found, compared, elsewhere)


def link_runs(task: Task) -> None:
    """The configuration's own view of its runs, runs/SYSTEM/LANG-SPLIT.trec, also by round, for the pseudo-labels of the next; and its submission."""
    folder, round_ = task.config.folder, last_round(task.config)
    for target in (folder / "runs", round_folder(task.config, round_)):
        shutil.rmtree(target, ignore_errors=True)
        for system in results.systems(task):
            (target / system).mkdir(parents=True)
            for la, split in task.pairs(task.config.splits.dev, task.config.splits.test):
                os.link(
                    results.run_step(task, system, la, split).path / "run.trec",
                    target / system / f"{la}-{split}.trec",
                )
    if "submission" in fuse.plan(task):
        shutil.copy(
            fuse.plan(task)["submission"].path / "submission.zip", folder / "submission.zip"
        )


def enter(task: Task, found: dict) -> None:
    """The submission's line in the ledger."""
    c, step = task.config, fuse.plan(task).get("submission")
    if step:
        dev = found.get(c.splits.dev, {}).get(c.submission.system, {})
        name = {"ensemble": c.ensemble.weights, "stacking": "stacking"}.get(c.submission.system)
        honest = next(
            (row["nested"] for row in results.estimates(task) if row["method"] == name), None
        )
        number = ledger.note(
            c,
            step.path / "submission.zip",
            {la: v["nDCG@10"] for la, v in dev.items() if la in task.languages},
            honest,
        )
        say(f"submission {number} is in the ledger {ledger.path_of(c)}")


def tell(task: Task, found: dict, compared: dict, elsewhere: dict) -> None:
    """One table for the evaluated split, and where things are."""
    c, split = task.config, results.report_split(task)
    if split:
        head, *_ = results.table(found, split)
        rows = [
            [metric, *row]
            for metric in results.TABLE
            for row in results.table(found, split, metric)[1:]
        ]
        say(
            f"\n{c.collection_name}, {split}\n{results.text_table([['metric', 'system', *head[1:]], *rows], left=2)}"
        )
        say(
            f"\nnDCG@10 on {split} against the stage before\n{results.text_table(results.comparison_rows(compared, split), left=3)}"
        )
    if names := results.transductive(task):
        say(
            f"\ntransductive, trained on unlabelled {' and '.join(results.target_splits(task))} queries: {', '.join(names)}"
        )
    if values := results.estimates(task):
        say(
            f"\nways of fusing on {c.splits.dev}, nDCG@10\n{results.text_table(estimate.rows(values, elsewhere))}"
        )
    say(
        f"\nresults     {c.folder / 'results.json'}\nreport      {c.folder / 'report' / 'index.html'}"
    )
    if (c.folder / "submission.zip").exists():
        say(f"submission  {c.folder / 'submission.zip'}")


def main() -> None:
    run(from_arguments("runs to one run, a submission and a report")[0])


if __name__ == "__main__":
    exit_with_message(main)
