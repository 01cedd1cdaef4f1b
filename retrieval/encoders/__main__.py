"""Trains the encoders of a configuration alone, with what they need, and compares them.

python -m retrieval.encoders CONFIG [key=value …] [--compare]

With ``--compare`` they are measured on whole collections; see ``retrieval.encoders.compare``.

Any launcher of several processes will do: the trainings are shared, the rest is the first one's.
"""

import argparse
import json
from collections.abc import Sequence
from statistics import fmean

from core import distributed
from core.artefacts import RankedRun, TrainedEncoder
from core.config import from_arguments
from core.console import say
from core.errors import InputError, exit_with_message
from core.settings import Config
from core.steps import Step
from core.task import Task
from retrieval import jvm, search
from retrieval.encoders import compare, dev, encoders
from training import engine

LINE = "  {:24} {:>8} {:>8} {:>8}   {:>8} {:>8} {:>8}   {:>6}"


def run(config: Config, comparing: bool = False) -> None:
    """Builds what is not done, and prints the table; ``comparing``: those of all conditions."""
    task = Task(config)
    search.plan(task)
    names = list(config.retrieval.encoders)
    if not names:
        raise InputError(
            f"{config.name}: retrieval.encoders is empty, so there is no encoder to train"
        )
    encoders.check_division(task)
    tested = compare.conditions(task) if comparing else []
    reserve_heaps(task, [condition.source for condition in tested])
    several = distributed.world_size() > 1
    if several:
        engine.start()
    targets = [task.step(TrainedEncoder(name)) for name in names]
    for name in names:
        targets += bm25_runs(task, name).values()
    targets += compare.needed_runs(tested)
    others = [condition.source for condition in tested]
    encoders.make(task, list(dict.fromkeys(targets)), others)
    if distributed.rank() == 0:
        report(task)
        if tested:
            compare.report(task, tested)
    if several:
        engine.stop()


def reserve_heaps(task: Task, others: Sequence[Task]) -> None:
    """Lets Java start with the largest heap that a collection of an encoder asks for.

    ``others``: of further collections.
    """
    own = [encoders.task_of(task, encoder) for encoder in task.config.retrieval.encoders.values()]
    for source in (*own, *others):
        jvm.reserve(source.config.retrieval.bm25.heap)


def bm25_runs(task: Task, name: str) -> dict[str, Step]:
    """BM25's runs of an encoder's dev queries by language; none where it is no source."""
    encoder = task.config.retrieval.encoders[name]
    source = encoders.task_of(task, encoder)
    if "bm25" not in source.config.retrieval.sources:
        return {}
    runs = {}
    for language in encoders.dev_languages(source, encoder):
        runs[language] = source.step(RankedRun("bm25", language, source.config.splits.dev))
    return runs


# ---- The closing table


def report(task: Task) -> None:
    """Each encoder before and after its training, and BM25 on the same sample of dev."""
    say("\nOn sampled passages of dev (means over languages)")
    titles = [f"{metric.split('@')[0]}@100" for metric in dev.METRICS]
    say(LINE.format("", titles[0], "", "", titles[1], "", "", ""))
    say(LINE.format("encoder", *["base", "tuned", "BM25"] * 2, "step"))
    for name in task.config.retrieval.encoders:
        folder = task.step(TrainedEncoder(name)).path
        state = json.loads((folder / "training.json").read_text("utf-8"))
        measured = dev.read(folder)
        bm25 = bm25_values(task, name)
        cells = []
        for metric in dev.METRICS:
            for values in (measured.get(0), measured.get(state["best_step"]), bm25):
                cells.append(f"{values[metric]:.4f}" if values else "-")
        say(LINE.format(encoders.note_chain(task, name), *cells, state["best_step"]))


def bm25_values(task: Task, name: str) -> dict[str, float] | None:
    """What BM25's order of the sampled passages comes to; None where it is no source."""
    encoder = task.config.retrieval.encoders[name]
    source = encoders.task_of(task, encoder)
    by_language = []
    for language in bm25_runs(task, name):
        own = dev.sample(source, language, encoder.dev, encoder.seed)
        run = source.run("bm25", language, source.config.splits.dev)
        by_language.append(dev.of_run(run, own))
    if not by_language:
        return None
    return {metric: fmean(values[metric] for values in by_language) for metric in dev.METRICS}


def main() -> None:
    """The command line."""
    config, options = from_arguments("trains the encoders of a configuration alone", add_options)
    run(config, options.compare)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Beside the configuration."""
    parser.add_argument(
        "--compare", action="store_true", help="tables of all conditions, on whole collections"
    )


if __name__ == "__main__":
    exit_with_message(main)
