"""Steps: an output is made again only if its inputs, its settings or its version changed.

A step's recipe holds the fingerprints of the steps and files that it reads, so a whole plan is
known before anything runs, and "why is this stale" is a difference of two recipes.
"""

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from core.artefacts import Artefact
from core.files import digest
from core.stored import verify

STAGES = ("retrieval", "data_aug", "ranking", "ensemble")


@dataclass(frozen=True)
class Files:
    """Input from outside the pipeline, known by its content."""

    name: str
    fingerprint: str


@dataclass(frozen=True, eq=False)
class Step:
    """A named output with its recipe.

    ``build`` writes into the folder that it is given; ``resumes`` says that it can go on with
    partial work found there; ``whole_machine`` that it takes the GPUs, or all cores: there is one
    of them at a time. ``work`` makes one item of it, known by a number, in the partial output: what
    ``core.cluster`` shares out to other machines before ``build`` completes it. ``seconds`` (on
    this machine), ``disk``, ``memory`` and ``gpu_memory`` (of one GPU; in bytes) are estimates.
    Raise ``version`` when the result of ``build`` changes.
    """

    stage: str
    name: str
    version: int
    settings: dict
    inputs: tuple["Step | Files", ...]
    build: Callable[[Path], object]
    root: Path
    resumes: bool = False
    whole_machine: bool = False
    work: Callable[[Path, int], Any] | None = None
    seconds: float = 0.0
    disk: float = 0.0
    memory: float = 0.0
    gpu_memory: float = 0.0

    @cached_property
    def recipe(self) -> dict:
        """What decides the output: version, settings, and the fingerprint of each input."""
        inputs: dict[str, str] = {}
        for source in self.inputs:
            known = inputs.get(source.name, source.fingerprint)
            if known != source.fingerprint:  # two of one name are of two collections
                inputs[source.name] = digest([known, source.fingerprint])
            else:
                inputs[source.name] = source.fingerprint
        return {"version": self.version, "settings": self.settings, "inputs": inputs}

    @cached_property
    def fingerprint(self) -> str:
        """Of name and recipe."""
        return digest([self.name, self.recipe])

    @property
    def path(self) -> Path:
        """The finished output's folder."""
        folder = f"{self.name.replace('/', '-')}-{self.fingerprint}"
        return self.root / "shared" / self.stage / folder

    @property
    def part(self) -> Path:
        """Where the output lies while it is made."""
        return self.path.with_name(self.path.name + ".part")

    @property
    def digests(self) -> Path:
        """Where digests of files are remembered, for all outputs of a collection."""
        return self.root / "digests"

    def verify(self) -> None:
        """Raises InputError where the finished output is not as it was written."""
        verify(self.path, self.digests)

    @property
    def done(self) -> bool:
        """Whether the output is there, whole."""
        return self.path.exists()


class Plan(dict[str, Step]):
    """A stage's steps by name, in the order of building.

    ``root`` is the collection's folder. Artefacts that the steps make are put into ``published``,
    where other rooms find them.
    """

    def __init__(self, stage: str, root: Path, published: MutableMapping[Artefact, Step]):
        super().__init__()
        self.stage, self.root, self.published = stage, root, published

    def add(
        self,
        name: "str | Artefact",
        version: int,
        settings: dict,
        inputs: Iterable[Step | Files],
        build: Callable[[Path], object],
        **more: Any,
    ) -> Step:
        """A new step. Named by an artefact, it is what other rooms get when they ask for that.

        ``more``: of a step's estimates, ``resumes`` and ``work``.
        """
        step_name = name if isinstance(name, str) else name.step_name
        step = Step(
            stage=self.stage,
            name=step_name,
            version=version,
            settings=settings,
            inputs=tuple(inputs),
            build=build,
            root=self.root,
            **more,
        )
        self[step_name] = step
        if not isinstance(name, str):
            self.published[name] = step
        return step


def changes(before: dict | None, after: dict) -> str:
    """Why a recipe is not the one before it: the first three settings and inputs that differ."""
    if before is None:
        return "not made yet"
    reasons: list[str] = []
    if before["version"] != after["version"]:
        reasons.append(f"version {before['version']} -> {after['version']}")
    old, new = flat(before["settings"]), flat(after["settings"])
    for key in differing(old, new):
        reasons.append(f"{key}: {old.get(key)} -> {new.get(key)}")
    for name in differing(before["inputs"], after["inputs"]):
        reasons.append(f"{name} changed")
    if not reasons:
        return "stopped before its end, or removed"
    more = "; …" if len(reasons) > 3 else ""
    return "; ".join(reasons[:3]) + more


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Keys whose values are not the same, or that only one of the two has; sorted."""
    return [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for name, child in value.items():
        leaves |= flat(child, f"{prefix}.{name}" if prefix else str(name))
    return leaves


def needed(targets: Iterable[Step]) -> list[Step]:
    """``targets`` and all steps that they are made of, in an order of building."""
    order: dict[Step, None] = {}

    def visit(step: Step) -> None:
        if step in order:
            return
        for source in step.inputs:
            if isinstance(source, Step):
                visit(source)
        order[step] = None

    for target in targets:
        visit(target)
    return list(order)
