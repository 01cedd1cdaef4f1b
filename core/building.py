"""Building what is not done, and what a configuration's folder remembers of it.

An output is written to ``NAME-FINGERPRINT.part`` and renamed when complete: a stopped step finds
its partial work there again, and nothing half-written is ever taken for whole.
"""

import contextlib
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core import distributed, machine
from core.console import say
from core.errors import InputError
from core.files import finished_folder, lock_of, locked, write_json
from core.steps import Step, changes, needed
from core.stored import RECIPE, append_line, damaged, note_digests, stored_json, stored_lines

ANNOUNCED = 10  # seconds from which a step says that it begins


@dataclass
class Journal:
    """What a configuration's folder remembers: each step's recipe at its last run, and times."""

    folder: Path
    recipes: dict[str, dict] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.read()

    def read(self) -> None:
        """Takes over what the folder says now."""
        if self.file.exists():
            notes = stored_json(self.file)
            if not all(is_note(note) for note in notes.values()):
                raise damaged(self.file, "holds other entries than notes of steps")
            self.recipes = notes

    @property
    def file(self) -> Path:
        """Where the recipes are kept; ``core.store`` reads them to know what is in use."""
        return self.folder / "recipes.json"

    def why(self, step: Step) -> str:
        """Why a step is to be made."""
        known = self.recipes.get(step.name)
        return changes(known and known["recipe"], step.recipe)

    def record(self, steps: Iterable[Step], some: bool = False) -> None:
        """Takes note of ``steps``: their stage's whole plan, or ``some`` of it.

        Of a whole plan, notes of steps that it no longer has are dropped. Several processes may
        take note at the same time.
        """
        steps = list(steps)
        planned_stages = set() if some else {step.stage for step in steps}
        with locked(self.folder / "recipes.lock"):
            self.read()
            notes: dict[str, dict] = {}
            for name, note in self.recipes.items():
                if note["stage"] not in planned_stages:
                    notes[name] = note
            for step in steps:
                notes[step.name] = {
                    "stage": step.stage,
                    "recipe": step.recipe,
                    "path": step.path.name,
                }
            self.recipes = notes
            write_json(self.file, self.recipes)

    def log(self, **entry: Any) -> None:
        """One line of ``log.jsonl``."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), **entry}
        append_line(self.log_file, line)

    @property
    def log_file(self) -> Path:
        """A line for each step that was made, with its time and memory."""
        return self.folder / "log.jsonl"

    def last_buildings(self) -> dict[str, dict]:
        """Step -> its last line in the log, in the order of the first ones."""
        last: dict[str, dict] = {}
        if self.log_file.exists():
            for entry in stored_lines(self.log_file, ("step", "seconds")):
                last[entry["step"]] = entry
        return last


def is_note(value: Any) -> bool:
    """Whether it is what a Journal keeps of a step."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("stage"), str)
        and isinstance(value.get("path"), str)
        and isinstance(value.get("recipe"), dict)
        and {"version", "settings", "inputs"} <= value["recipe"].keys()
    )


def run_steps(steps: Iterable[Step], folder: Path, some: bool = False) -> None:
    """Builds what is not done yet, in order, one line a step; as ``begun`` says."""
    with begun(steps, folder, some) as (journal, stale):
        for step, why in stale:
            build(step, why, journal)


@contextlib.contextmanager
def begun(
    steps: Iterable[Step], folder: Path, some: bool = False
) -> Iterator[tuple[Journal, list[tuple[Step, str]]]]:
    """What is not done yet, and why, for a block that builds it.

    ``folder`` is the configuration's; one run at a time works in it. ``some``: the steps are not
    their stage's whole plan. Raises InputError if an earlier stage's output is missing, and for one
    that is damaged.
    """
    main = distributed.rank() == 0
    busy = (
        f"{folder}: another run is at work in this folder; wait for it, "
        "or give this run its own name (name=…)"
    )
    with locked(folder / "lock", busy) if main else contextlib.nullcontext():
        journal = Journal(folder)
        steps = list(steps)
        if main:
            for step in needed(steps):
                if step.done:
                    step.verify()
        stale = [(step, journal.why(step)) for step in steps if not step.done]
        distributed.barrier()
        if main:
            journal.record(steps, some)  # first, so that --clean keeps what this run makes
        yield journal, stale


@contextlib.contextmanager
def shared_work(step: Step, folder: Path) -> Iterator[Path | None]:
    """The partial output of a step, for one of several processes that fill it together.

    None if the output is there already. As long as one of the processes is at work nobody else
    builds or removes it, and ``folder``, the configuration's, refers to it from now on, so that
    ``core.store --clean`` spares it between the last of them and the run that completes it.
    """
    Journal(folder).record([step], some=True)
    with locked(lock_of(step.path), shared=True):
        if step.done:
            yield None
            return
        step.part.mkdir(parents=True, exist_ok=True)
        yield step.part


def build(step: Step, why: str, journal: Journal) -> None:
    """Makes one output, with all processes; the first one says and notes what it cost."""
    for source in step.inputs:
        if isinstance(source, Step) and not source.done:
            raise InputError(
                f"{step.name}: its input {source.name} is not made; "
                f"run ./{source.stage}/run.sh with the same configuration first"
            )
    if step.seconds > ANNOUNCED:
        estimate = f"about {step.seconds:.0f} s {machine.described()}"
        say(f"[{step.stage}] {step.name}: begins ({why}), {estimate}")
    start = time.monotonic()
    with finished_folder(step.path) as part:
        if part != step.path:  # otherwise another run has made it meanwhile
            fill(step, part)
    if distributed.rank() == 0:
        seconds = time.monotonic() - start
        peak = machine.peak_memory()
        journal.log(stage=step.stage, step=step.name, seconds=round(seconds, 2), peak_bytes=peak)
        memory = f"peak memory {peak / 1e9:.1f} GB"
        say(f"[{step.stage}] {step.name}: {seconds:.1f} s, {memory} ({why})")


def fill(step: Step, part: Path) -> None:
    """Lets the step write into ``part``, emptied before unless it goes on with partial work."""
    main = distributed.rank() == 0
    if main and not step.resumes:
        shutil.rmtree(part)
        part.mkdir()
    distributed.barrier()
    step.build(part)
    if main:
        write_json(part / RECIPE, step.recipe)
        note_digests(part, step.digests)
