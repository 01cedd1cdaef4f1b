"""The ensemble stage: weights, stacking, fused runs, submission, results, report.

python -m ensemble.run CONFIG [key=value …]
"""

import os
import shutil
from collections.abc import Mapping

from core.artefacts import RankedRun
from core.building import run_steps
from core.config import from_arguments, last_round
from core.console import say
from core.errors import exit_with_message
from core.settings import Config
from core.task import Task
from data_aug.augment import note_scored, round_folder
from ensemble import estimate, ledger, report, results, submit
from ranking.rankers import own_depth


def run(config: Config) -> None:
    """Builds what is not done, and writes results and report anew from all that is there."""
    task = Task(config)
    run_steps(submit.plan(task).values(), config.folder)
    figures, single, looks = results.collect(task)
    compared = results.significance(task, figures, single)
    results.write(task, figures, compared)
    link_runs(task)
    enter(task, figures)
    elsewhere = results.measured(task)
    report.write(task, figures, compared, looks, elsewhere)
    tell(task, figures, compared, elsewhere)


def link_runs(task: Task) -> None:
    """The configuration's own view of its runs, runs/SYSTEM/LANG-SPLIT.trec, and its submission.

    The runs also lie by round, for the pseudo-labels of the next one.
    """
    config, splits = task.config, task.config.splits
    for view in (config.folder / "runs", round_folder(config, last_round(config))):
        shutil.rmtree(view, ignore_errors=True)
        for system in results.systems(task):
            (view / system).mkdir(parents=True)
            note_scored(view / system, scored_depth(task, system))
            for language, split in task.pairs(splits.dev, splits.test):
                made = task.step(RankedRun(system, language, split)).path / "run.trec"
                os.link(made, view / system / f"{language}-{split}.trec")
    submission = submit.plan(task).get("submission")
    if submission:
        shutil.copy(submission.path / "submission.zip", config.folder / "submission.zip")


def scored_depth(task: Task, system: str) -> int | None:
    """How many passages of a query a system scored; None: all of its run."""
    config = task.config
    if system in config.retrieval.systems:
        return None
    if system in config.ranking.rankers:
        return own_depth(task, config.ranking.rankers[system])
    if system == "ensemble-rankers" and not config.ensemble.runs:
        return max(own_depth(task, ranker) for ranker in config.ranking.rankers.values())
    return config.block  # the hybrid or a given run scores what no ranker does


def enter(task: Task, figures: results.Results) -> None:
    """The submission's line in the ledger, with what dev says of it."""
    config, submission = task.config, submit.plan(task).get("submission")
    if submission is None:
        return
    system = config.submission.system
    by_column = figures.get(config.splits.dev, {}).get(system, {})
    dev = {la: means["nDCG@10"] for la, means in by_column.items() if la in task.languages}
    method = {"ensemble": config.ensemble.weights, "stacking": "stacking"}.get(system)
    nested = [row["nested"] for row in results.estimates(task) if row["method"] == method]
    number = ledger.note(
        config,
        submission=submission.path / "submission.zip",
        dev=dev,
        nested=nested[0] if nested else None,
    )
    say(f"submission {number} is in the ledger {ledger.path_of(config)}")


def tell(
    task: Task,
    figures: results.Results,
    compared: dict,
    elsewhere: Mapping[str, Mapping[str, float]],
) -> None:
    """One table for the evaluated split, and where things are."""
    config, split = task.config, results.report_split(task)
    if split:
        say(f"\n{config.collection_name}, {split}\n{figures_table(figures, split)}")
        rows = results.comparison_rows(compared, split)
        say(f"\nnDCG@10 on {split} against the stage before\n{results.text_table(rows, left=3)}")
    if names := results.transductive(task):
        targets = " and ".join(results.target_splits(task))
        say(f"\ntransductive, trained on unlabelled {targets} queries: {', '.join(names)}")
    if estimates := results.estimates(task):
        rows = estimate.rows(estimates, elsewhere)
        say(f"\nways of fusing on {config.splits.dev}, nDCG@10\n{results.text_table(rows)}")
    say(f"\nresults     {config.folder / 'results.json'}")
    say(f"report      {config.folder / 'report' / 'index.html'}")
    if (config.folder / "submission.zip").exists():
        say(f"submission  {config.folder / 'submission.zip'}")


def figures_table(figures: results.Results, split: str) -> str:
    """A row a metric and system, a column a language or kind."""
    rows: list[list[str]] = []
    for metric in results.TABLE:
        head, *by_system = results.table(figures, split, metric)
        if not rows:
            rows.append(["metric", "system", *head[1:]])
        rows += [[metric, *row] for row in by_system]
    return results.text_table(rows, left=2)


def main() -> None:
    """The command line."""
    run(from_arguments("runs to one run, a submission and a report")[0])


if __name__ == "__main__":
    exit_with_message(main)
