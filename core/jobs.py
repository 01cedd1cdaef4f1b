"""A stage's independent steps side by side, each job a process.

What is made is what one job makes: a step knows nothing of the others but their outputs.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from core import distributed, machine
from core.building import Journal, begun, build, run_steps
from core.console import say
from core.processes import Team, finished
from core.settings import Config
from core.steps import Plan, Step
from core.task import Task

Planner = Callable[[Task], Plan]
"""A stage's ``plan``, which the jobs' processes import by its name."""


def run_plan(plan: Planner, task: Task) -> None:
    """Builds what is not done of a stage's plan, as many steps at once as ``jobs`` says.

    Fewer where memory would not hold as many of the largest. Of steps that take the whole machine
    there is one at a time, and one process has all of them: it keeps what they have loaded. Where a
    step fails the others are ended, and go on when they are run again; its error is raised. One
    after another where a cluster does the work: its machines are busy with one step.
    """
    steps = plan(task).values()
    folder = task.config.folder
    one = task.config.jobs == 1 or task.config.engine != "local"
    if one or distributed.world_size() > 1:
        run_steps(steps, folder)
        return
    with begun(steps, folder) as (_, stale):
        count = jobs_that_fit(task.config.jobs, [step for step, _ in stale])
        if stale and count > 1:
            Schedule(plan, task.config, stale, count).run()
        elif stale:
            journal = Journal(folder)
            for step, why in stale:
                build(step, why, journal)


def jobs_that_fit(wanted: int, steps: Sequence[Step]) -> int:
    """How many of the largest steps memory holds, at most ``wanted``; says so if they are fewer."""
    largest = max((step.memory for step in steps), default=0.0)
    free = machine.free_memory()
    count = min(wanted, max(1, int(free // largest))) if largest else wanted
    if count < wanted:
        say(
            f"  note: {machine.counted(count, 'job')} in place of {wanted}: "
            f"{free / 1e9:.1f} GB of memory are free, and a step takes up to {largest / 1e9:.1f} GB"
        )
    return count


class Schedule:
    """Which step begins next, longest first among those whose inputs are there."""

    def __init__(
        self, plan: Planner, config: Config, stale: Iterable[tuple[Step, str]], count: int
    ):
        self.plan = plan
        self.config = config.model_dump_json(exclude_unset=True)
        self.left = {step.name: (step, why) for step, why in stale}
        self.running: dict[str, Step] = {}
        takes_all = any(step.whole_machine for step, _ in self.left.values())
        self.wide = Team(1)
        self.beside = Team(count - 1 if takes_all else count)

    def run(self) -> None:
        """Until all are built, or one fails."""
        try:
            while self.left or self.running:
                self.begin_what_can_be()
                for name, _ in finished(self.wide, self.beside):
                    del self.running[name]
        except BaseException:
            at_work = [worker.doing for team in (self.wide, self.beside) for worker in team.busy]
            if at_work:
                say(f"  stopped with it, to go on when run again: {', '.join(map(str, at_work))}")
            raise
        finally:
            self.wide.close()
            self.beside.close()

    def begin_what_can_be(self) -> None:
        """Gives work to every process that is idle, where there is some."""
        by_time = sorted(self.left.values(), key=lambda entry: -entry[0].seconds)
        for step, why in by_time:
            team = self.wide if step.whole_machine else self.beside
            if team.idle and self.is_ready(step):
                del self.left[step.name]
                self.running[step.name] = step
                planned_by = (self.plan, self.config)
                team.begin(step.name, build_by, planned_by, step.name, step.fingerprint, why)

    def is_ready(self, step: Step) -> bool:
        """Whether none of its inputs is still to be made here; others ``build`` looks at."""
        for source in step.inputs:
            if isinstance(source, Step) and source.name in self.left.keys() | self.running.keys():
                return False
        return True


def build_by(planned_by: tuple[Planner, str], name: str, fingerprint: str, why: str) -> None:
    """What a job's process does: builds a step of the plan that it has made for itself."""
    plan, folder = planned(*planned_by)
    step = plan[name]
    if step.fingerprint != fingerprint:
        raise RuntimeError(f"{name}: two processes plan it with different recipes")
    build(step, why, Journal(folder))


@lru_cache(maxsize=1)
def planned(plan: Planner, settings: str) -> tuple[Plan, Path]:
    """The stage's plan, and the folder of the configuration, whose ``settings`` are in JSON."""
    config = Config.model_validate_json(settings)
    return plan(Task(config)), config.folder
