"""What a run would do: done, stale and why, and what the rest will take; what to forget before it.

Configurations that trainings take their data from are planned, too.

python -m ensemble.plan CONFIG [key=value …] [--from STAGE] [--until STAGE] [--force STAGE]
"""

import argparse
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from core.artefacts import TrainedRanker
from core.building import Journal
from core.config import from_arguments, last_round, until_round, with_data
from core.console import say
from core.errors import InputError, exit_with_message
from core.machine import described
from core.pace import Measurement, known, measure
from core.settings import Config
from core.steps import STAGES, Plan, Step, needed
from core.store import kept_beside
from core.task import Task
from data_aug import build
from data_aug.augment import round_folder
from ensemble import submit
from ranking import pace as ranking_pace
from ranking import rank
from retrieval import pace as retrieval_pace
from retrieval import search

PLANS: dict[str, Callable[[Task], Plan]] = {
    "retrieval": search.plan,
    "data_aug": build.plan,
    "ranking": rank.plan,
    "ensemble": submit.plan,
}
# of a configuration that gives training data
PLANS_OF_DATA: dict[str, Callable[[Task], Plan]] = {
    "retrieval": search.plan,
    "data_aug": build.plan_groups,
}


WORTH_MEASURING = 60.0  # seconds of work, as it is guessed, from which its body is measured


@dataclass(frozen=True)
class Planned:
    """A configuration's part of a run: the plans of the stages that are run for it."""

    config: Config
    plans: dict[str, Plan]


def planned(config: Config) -> list[Planned]:
    """Those that the trainings take their data from, and ``config`` itself.

    The latter as far as it can be planned; see ``plannable``.
    """
    *data, _ = with_data(config)
    parts = [Planned(part, plans_of(part, PLANS_OF_DATA)) for part in data]
    own, _ = plannable(config)
    return [*parts, Planned(own, plans_of(own, PLANS))]


def plans_of(config: Config, plans: Mapping[str, Callable[[Task], Plan]]) -> dict[str, Plan]:
    """Stage -> its plan."""
    task = Task(config)
    return {stage: plan(task) for stage, plan in plans.items()}


def plannable(config: Config) -> tuple[Config, int | None]:
    """The configuration as far as the rounds whose teachers are there.

    And the first round after them, if any.
    """
    for round_ in range(1, last_round(config) + 1):
        if not round_folder(config, round_ - 1).is_dir():
            return until_round(config, round_ - 1, config.name), round_
    return config, None


def discard(parts: Sequence[Planned], stage: str) -> int:
    """Removes the outputs of a stage and of all that depends on it; returns how many there were.

    Partial work goes, too, and the stage's outputs of training data: what is run next makes them
    again.
    """
    steps: list[Step] = []
    for part in parts:
        for plan in part.plans.values():
            steps += plan.values()
    forgotten: dict[Step, None] = {}
    for step in needed(steps):  # in order of building: what a step is made of came before it
        if step.stage == stage or any(source in forgotten for source in step.inputs):
            forgotten[step] = None
    count = 0
    for step in forgotten:
        for path in (step.path, step.part, kept_beside(step.path)):
            if path.exists():
                shutil.rmtree(path)
                count += 1
    return count


def measure_paces(parts: Sequence[Planned]) -> bool:
    """Measures how fast bodies are that have much to do and were not measured on this machine.

    True where there was something to measure, so that the plan's estimates have changed.
    """
    wanted: list[Measurement] = []
    for part in parts:
        task = Task(part.config)
        left = seconds_left(part)
        if left.get("vectors", 0) > WORTH_MEASURING:
            wanted += retrieval_pace.measurements(task)
        ranking = part.config.ranking
        learn = [
            name
            for name in ranking.trained
            if left.get(TrainedRanker(name).step_name, 0) > WORTH_MEASURING
        ]
        score = [name for name in ranking.rankers if left.get(name, 0) > WORTH_MEASURING]
        wanted += ranking_pace.measurements(task, learn, score)
    work = parts[0].config.work
    unknown = [one for one in wanted if known(work, one.known_by) is None]
    measure(work, unknown)
    return bool(unknown)


def seconds_left(part: Planned) -> dict[str, float]:
    """Kind of step -> what all that is to be made of it takes."""
    left: dict[str, float] = {}
    for plan in part.plans.values():
        for kind, steps in kinds(plan).items():
            left[kind] = sum(step.seconds for step in steps if not step.done)
    return left


def lines(parts: Sequence[Planned], stages: Sequence[str]) -> Iterator[str]:
    """Text lines of the plan, by configuration, stage and kind of step, and the sum of it all."""
    stale: dict[str, Step] = {}  # by path, as configurations of one collection share outputs
    for part in parts:
        shown = [stage for stage in stages if stage in part.plans]
        if len(parts) > 1 and shown:
            yield f"{part.config.name}, on {part.config.collection_name}"
        journal = Journal(part.config.folder)
        for stage in shown:
            yield stage
            for kind, steps in kinds(part.plans[stage]).items():
                yield f"  {kind:24} {state(steps, journal)}"
                for step in steps:
                    if not step.done:
                        stale[str(step.path)] = step
    yield f"\n{cost(list(stale.values()))}"


def kinds(plan: Plan) -> dict[str, list[Step]]:
    """The steps that are shown as one line; each training has a line of its own."""
    by_kind: dict[str, list[Step]] = {}
    for step in plan.values():
        kind = step.name if step.name.startswith("ranker/") else step.name.split("/")[0]
        by_kind.setdefault(kind, []).append(step)
    return by_kind


def state(steps: Sequence[Step], journal: Journal) -> str:
    """How many are to be made, how long that takes, and why the first of them is."""
    stale = [step for step in steps if not step.done]
    if not stale:
        return f"done ({len(steps)})"
    begun = sum(step.part.exists() for step in stale)
    partly = f", {begun} begun" if begun else ""
    time = minutes(sum(step.seconds for step in stale))
    why = journal.why(stale[0])
    return f"{len(stale)} of {len(steps)} to make{partly}, about {time}: {why}"


def cost(stale: Sequence[Step]) -> str:
    """What all that is to be made takes on this machine."""
    if not stale:
        return "all done"
    time = minutes(sum(step.seconds for step in stale))
    disk = sum(step.disk for step in stale) / 1e9
    memory = max(step.memory for step in stale) / 1e9
    on_gpu = max(step.gpu_memory for step in stale) / 1e9
    of_gpu = f", {on_gpu:.1f} GB of a GPU's" if on_gpu else ""
    return (
        f"to make: {len(stale)} outputs, about {time} {described()}, {disk:.1f} GB of disk, "
        f"up to {memory:.1f} GB of memory{of_gpu}"
    )


def minutes(seconds: float) -> str:
    """In the unit that a person would say."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options beside CONFIG and key=value."""
    parser.add_argument("--from", dest="first", choices=STAGES, default=STAGES[0])
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1])
    parser.add_argument(
        "--force", choices=STAGES, help="forget this stage's outputs and all that depends on them"
    )


def main() -> None:
    """The command line."""
    config, options = from_arguments("what a run would do", arguments)
    stages = STAGES[STAGES.index(options.first) : STAGES.index(options.until) + 1]
    if not stages:
        raise InputError(
            f"--until {options.until} comes before --from {options.first}; "
            f"the stages in order: {', '.join(STAGES)}"
        )
    parts = planned(config)
    if options.force:
        count = discard(parts, options.force)
        say(f"forgot {count} outputs of {options.force} and of what depends on it")
        return
    if measure_paces(parts):
        parts = planned(config)
    say("\n".join(lines(parts, stages)))
    _, later = plannable(config)
    if later:
        say(
            f"\nand then round {later}: what its pseudo-labels come from is made in round "
            f"{later - 1}, so it is not planned yet"
        )


if __name__ == "__main__":
    exit_with_message(main)
