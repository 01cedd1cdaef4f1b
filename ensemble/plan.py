"""What a run would do: done, stale and why, and what the rest will take; and what to forget before it.

python -m ensemble.plan CONFIG [key=value …] [--from STAGE] [--until STAGE] [--force STAGE]
"""

import shutil

from core.building import Journal
from core.config import from_arguments, last_round, until_round
from core.console import say
from core.errors import exit_with_message
from core.settings import Config
from core.steps import STAGES, Plan, Step
from core.store import kept_beside
from core.task import Task
from data_aug import build
from data_aug.augment import round_folder
from ensemble import fuse
from ranking import rank
from retrieval import search

PLANS = {
    "retrieval": search.plan,
    "data_aug": build.plan,
    "ranking": rank.plan,
    "ensemble": fuse.plan,
}


def depends(step: Step, stage: str) -> bool:
    """Whether a step is of a stage or stands on one that is."""
    return step.stage == stage or any(depends(s, stage) for s in step.inputs if isinstance(s, Step))


def discard(plans: dict[str, Plan], stage: str) -> int:
    """Removes the outputs of a stage and of all that depends on it, so that they are made again; also partial work."""
    count = 0
    for plan in plans.values():
        for step in plan.values():
            if depends(step, stage):
                for path in (
                    step.path,
                    step.path.with_name(step.path.name + ".part"),
                    kept_beside(step.path),
                ):
                    if path.exists():
                        shutil.rmtree(path)
                        count += 1
    return count


def lines(plans: dict[str, Plan], journal: Journal, stages: tuple[str, ...]):
    """Text lines of the plan, by stage and kind of step."""
    rest: list[Step] = []
    for stage in stages:
        kinds: dict[str, list[Step]] = {}
        for step in plans[stage].values():
            kinds.setdefault(
                step.name if step.name.startswith("ranker/") else step.name.split("/")[0], []
            ).append(step)
        yield stage
        for kind, steps in kinds.items():
            stale = [s for s in steps if not s.done]
            rest += stale
            if not stale:
                yield f"  {kind:24} done ({len(steps)})"
                continue
            begun = sum(s.path.with_name(s.path.name + ".part").exists() for s in stale)
            yield f"  {kind:24} {len(stale)} of {len(steps)} to make{f', {begun} begun' if begun else ''}, about {minutes(sum(s.seconds for s in stale))}: {journal.why(stale[0])}"
    yield (
        (
            f"\nto make: {len(rest)} outputs, about {minutes(sum(s.seconds for s in rest))} on two cores, {sum(s.disk for s in rest) / 1e9:.1f} GB of disk, "
            f"up to {max((s.memory for s in rest), default=0) / 1e9:.1f} GB of memory"
        )
        if rest
        else "\nall done"
    )


def plannable(config: Config) -> tuple[Config, int | None]:
    """The configuration as far as the rounds whose teachers are there, and the first round after them, if any."""
    last = last_round(config)
    for round_ in range(1, last + 1):
        if not round_folder(config, round_ - 1).is_dir():
            return until_round(config, round_ - 1, config.name), round_
    return config, None


def minutes(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def arguments(parser) -> None:
    parser.add_argument("--from", dest="first", choices=STAGES, default=STAGES[0])
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1])
    parser.add_argument(
        "--force", choices=STAGES, help="forget this stage's outputs and all that depends on them"
    )


def main() -> None:
    config, options = from_arguments("what a run would do", arguments)
    config, later = plannable(config)
    task = Task(config)
    plans = {stage: plan(task) for stage, plan in PLANS.items()}
    if options.force:
        say(
            f"forgot {discard(plans, options.force)} outputs of {options.force} and of what depends on it"
        )
        return
    stages = STAGES[STAGES.index(options.first) : STAGES.index(options.until) + 1]
    say("\n".join(lines(plans, Journal(config.folder), stages)))
    if later:
        say(
            f"\nand then round {later}: what its pseudo-labels come from is made in round {later - 1}, so it is not planned yet"
        )


if __name__ == "__main__":
    exit_with_message(main)
