"""Steps and their outputs: an output is reused only if its inputs, its settings and its version constant are the same.

A step's recipe holds the fingerprints of the steps and files that it reads, so the whole plan is known before anything runs.
An output is written to ``NAME-FINGERPRINT.part`` and renamed when complete: a stopped step finds its partial work there again,
and nothing half-written is ever taken for whole.

    python -m core.store --du [WORK]       what lies under WORK, by collection and kind
    python -m core.store --clean [WORK]    removes the outputs that no configuration's last run refers to
"""

import argparse
import contextlib
import json
import resource
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from core import distributed
from core.errors import InputError, exit_with_message
from core.files import digest, finished_folder, lock_of, locked, size_on_disk, write_json

STAGES = ("retrieval", "data_aug", "ranking", "ensemble")


@dataclass(frozen=True)
class Files:
    """Input from outside the pipeline, known by its content."""

    name: str
    fingerprint: str


@dataclass(frozen=True, eq=False)
class Step:
    """A named output with its recipe. ``build`` writes into the folder it is given; ``resumes`` says that it can go on with
    partial work found there. ``seconds`` (two cores), ``disk`` and ``memory`` (bytes) are estimates for the plan."""

    stage: str
    name: str
    version: int
    settings: dict
    inputs: tuple
    build: Callable[[Path], None]
    root: Path
    resumes: bool = False
    seconds: float = 0.0
    disk: float = 0.0
    memory: float = 0.0

    @cached_property
    def recipe(self) -> dict:
        inputs: dict[str, str] = {}
        for i in self.inputs:  # two of one name: of two collections
            inputs[i.name] = (
                i.fingerprint
                if inputs.get(i.name, i.fingerprint) == i.fingerprint
                else digest([inputs[i.name], i.fingerprint])
            )
        return {"version": self.version, "settings": self.settings, "inputs": inputs}

    @cached_property
    def fingerprint(self) -> str:
        return digest([self.name, self.recipe])

    @property
    def path(self) -> Path:
        return (
            self.root / "shared" / self.stage / f"{self.name.replace('/', '-')}-{self.fingerprint}"
        )

    @property
    def done(self) -> bool:
        return self.path.exists()


class Plan(dict):
    """A stage's steps by name, in the order of building."""

    def __init__(self, stage: str, root: Path):
        super().__init__()
        self.stage, self.root = stage, root

    def add(
        self,
        name: str,
        version: int,
        settings: dict,
        inputs: Iterable,
        build: Callable[[Path], None],
        **estimates,
    ) -> Step:
        self[name] = Step(
            self.stage, name, version, settings, tuple(inputs), build, self.root, **estimates
        )
        return self[name]


def changes(before: dict | None, after: dict) -> str:
    """Why a recipe is not the one before it: the settings and inputs that differ."""
    if before is None:
        return "not made yet"
    found = []
    if before["version"] != after["version"]:
        found.append(f"version {before['version']} -> {after['version']}")
    for part in ("settings", "inputs"):
        old, new = flat(before[part]), flat(after[part])
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                found.append(
                    f"{key}: {old.get(key)} -> {new.get(key)}"
                    if part == "settings"
                    else f"{key} changed"
                )
    return (
        "; ".join(found[:3]) + ("; …" if len(found) > 3 else "")
        if found
        else "stopped before its end, or removed"
    )


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {
            k: v
            for name, child in value.items()
            for k, v in flat(child, f"{prefix}.{name}" if prefix else str(name)).items()
        }
    return {prefix: value}


@dataclass
class Journal:
    """What a configuration's folder remembers: the recipe of each step at its last run, and the times."""

    folder: Path
    recipes: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.file.exists():
            self.recipes = json.loads(self.file.read_text("utf-8"))

    @property
    def file(self) -> Path:
        return self.folder / "recipes.json"

    def why(self, step: Step) -> str:
        known = self.recipes.get(step.name)
        return changes(known and known["recipe"], step.recipe)

    def record(self, steps: Iterable[Step], some: bool = False) -> None:
        """Takes note of ``steps``, which are their stage's whole plan or ``some`` of it; of a whole plan, notes of steps that it no longer has
        are dropped."""
        steps = list(steps)
        stages = set() if some else {s.stage for s in steps}
        kept = {n: r for n, r in self.recipes.items() if r["stage"] not in stages}
        self.recipes = kept | {
            s.name: {"stage": s.stage, "recipe": s.recipe, "path": s.path.name} for s in steps
        }
        write_json(self.file, self.recipes)

    def log(self, **entry) -> None:
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(
                json.dumps(
                    {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), **entry}, ensure_ascii=False
                )
                + "\n"
            )


def needed(targets: Iterable[Step]) -> list[Step]:
    """``targets`` and all steps that they are made of, in an order of building."""
    found: dict[Step, None] = {}

    def visit(step: Step) -> None:
        if step not in found:
            for source in step.inputs:
                if isinstance(source, Step):
                    visit(source)
            found[step] = None

    for target in targets:
        visit(target)
    return list(found)


def run_steps(steps: Iterable[Step], folder: Path, some: bool = False) -> None:
    """Builds what is not done yet, in order, one line a step; raises InputError if an earlier stage's output is missing. ``some``: the
    steps are not their stage's whole plan."""
    main = distributed.rank() == 0
    busy = f"{folder}: another run is at work in this folder; wait for it, or give this run its own name (name=…)"
    with locked(folder / "lock", busy) if main else contextlib.nullcontext():
        journal, steps = Journal(folder), list(steps)
        stale = [(step, journal.why(step)) for step in steps if not step.done]
        distributed.barrier()
        if main:
            journal.record(steps, some)  # first, so that --clean keeps what this run makes
        for step, why in stale:
            build(step, why, journal)


def build(step: Step, why: str, journal: Journal) -> None:
    for source in step.inputs:
        if isinstance(source, Step) and not source.done:
            raise InputError(
                f"{step.name}: its input {source.name} is not made; run ./{source.stage}/run.sh with the same configuration first"
            )
    if step.seconds > 10:
        say(f"[{step.stage}] {step.name}: begins ({why}), about {step.seconds:.0f} s on two cores")
    start = time.monotonic()
    with finished_folder(step.path) as part:
        if part != step.path:
            if distributed.rank() == 0 and not step.resumes:
                shutil.rmtree(part)
                part.mkdir()
            distributed.barrier()
            step.build(part)
            if distributed.rank() == 0:
                write_json(part / "recipe.json", step.recipe)
    if distributed.rank() == 0:
        seconds, peak = (
            time.monotonic() - start,
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )
        journal.log(stage=step.stage, step=step.name, seconds=round(seconds, 2), peak_bytes=peak)
        say(f"[{step.stage}] {step.name}: {seconds:.1f} s, peak memory {peak / 1e9:.1f} GB ({why})")


def say(text: str) -> None:
    if distributed.rank() == 0:
        print(text, flush=True)


def kept_beside(path: Path) -> Path:
    """Where what is kept of an output for later ones lies, as a ranker's scores; it goes with the output."""
    return path.parents[1] / "scores" / path.name


def outputs(work: Path) -> Iterator[tuple[Path, bool]]:
    """(an output or partial folder, whether some configuration's last run refers to it), by collection."""
    for collection in sorted(p for p in work.glob("*") if (p / "shared").is_dir()):
        kept = {
            r["path"]
            for file in collection.glob("*/recipes.json")
            for r in json.loads(file.read_text("utf-8")).values()
        }
        for path in sorted(
            p for p in (collection / "shared").glob("*/*") if p.is_dir() and p.name != ".locks"
        ):
            yield path, path.name.removesuffix(".part") in kept


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m core.store", description="disk use of the work folder"
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--du", action="store_true", help="list sizes; unused ones are marked")
    action.add_argument(
        "--clean",
        action="store_true",
        help="remove outputs that no configuration's last run refers to",
    )
    parser.add_argument("work", nargs="?", default="work", type=Path)
    options = parser.parse_args()
    if not options.work.is_dir():
        raise InputError(f"{options.work}: no such folder")
    total = 0
    for path, used in list(outputs(options.work)):
        size = size_on_disk(path)
        if options.du or not used:
            total += size
            print(
                f"{size / 1e6:10.1f} MB  {path.relative_to(options.work)}{'' if used else '  (unused)'}"
            )
        if options.clean and not used:
            with locked(
                lock_of(path.with_name(path.name.removesuffix(".part"))), f"{path}: is being made"
            ):
                shutil.rmtree(path)
    print(f"{total / 1e6:10.1f} MB  {'removed' if options.clean else 'in all'}")


if __name__ == "__main__":
    exit_with_message(main)
