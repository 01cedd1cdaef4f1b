"""What a run would do: done, stale and why, and what the rest will take; what to forget before it.

Configurations that trainings take their data from are planned, too.

python -m ensemble.plan CONFIG [key=value …] [--from STAGE] [--until STAGE] [--force STAGE]
"""

import argparse
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from core.building import Journal
from core.config import from_arguments, last_round, until_round, with_data
from core.console import say
from core.errors import exit_with_message
from core.machine import described
from core.settings import Config
from core.steps import STAGES, Plan, Step, needed
from core.store import kept_beside
from core.task import Task
from data_aug import build
from data_aug.augment import round_folder
from ensemble import submit
from ranking import rank
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
    return (
        f"to make: {len(stale)} outputs, about {time} {described()}, {disk:.1f} GB of disk, "
        f"up to {memory:.1f} GB of memory"
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
    parts = planned(config)
    if options.force:
        count = discard(parts, options.force)
        say(f"forgot {count} outputs of {options.force} and of what depends on it")
        return
    stages = STAGES[STAGES.index(options.first) : STAGES.index(options.until) + 1]
    say("\n".join(lines(parts, stages)))
    _, later = plannable(config)
    if later:
        say(
            f"\nand then round {later}: what its pseudo-labels come from is made in round "
            f"{later - 1}, so it is not planned yet"
        )


if __name__ == "__main__":
    exit_with_message(main)
