"""What rooms hand to each other, by typed names.

The room that makes an artefact adds its step under the artefact's name (``Plan.add``), which
publishes it with the task; a later room asks the task for it (``task.step``) and never sees the
other room's plan. The step's name, as it stands in recipes and on disk, is spelt here alone.
"""

from dataclasses import dataclass
from typing import Protocol

ENSEMBLES = ("ensemble-rankers", "ensemble", "stacking")
"""The systems of the ensemble stage; no ranker, source or given run may take their names."""


class Artefact(Protocol):
    """The name of something that one room makes and others use."""

    @property
    def step_name(self) -> str:
        """Of the step that makes it."""


@dataclass(frozen=True)
class PassageStore:
    """The passages of a language, opened by ``core.passages.Passages``."""

    language: str

    @property
    def step_name(self) -> str:
        """As on disk."""
        return f"passages/{self.language}"


@dataclass(frozen=True)
class RankedRun:
    """A system's run of a language and split: ``run.trec`` in its folder.

    Systems are the sources of retrieval, ``hybrid``, the rankers, and those of the ensemble.
    """

    system: str
    language: str
    split: str

    @property
    def step_name(self) -> str:
        """As on disk."""
        return f"{self.system}/{self.language}-{self.split}"


@dataclass(frozen=True)
class TrainingGroups:
    """The pairs that a recipe makes, one parquet file a draw."""

    recipe: str

    @property
    def step_name(self) -> str:
        """As on disk."""
        return f"groups/{self.recipe}"


@dataclass(frozen=True)
class FoldFile:
    """The folds of all judged train and dev queries in use."""

    @property
    def step_name(self) -> str:
        """As on disk."""
        return "folds"


@dataclass(frozen=True)
class TrainedRanker:
    """A cross-encoder: ``model`` in its folder, and the history of its training."""

    name: str

    @property
    def step_name(self) -> str:
        """As on disk."""
        return f"ranker/{self.name}"


@dataclass(frozen=True)
class TrainedEncoder:
    """A bi-encoder that was trained here: ``model`` in its folder."""

    name: str

    @property
    def step_name(self) -> str:
        """As on disk."""
        return f"encoder/{self.name}"
