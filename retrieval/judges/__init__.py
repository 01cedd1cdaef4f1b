"""JUDGES: who reads a candidate and grades it: 0 irrelevant, 1 partially, 2 highly relevant.

data-utilization-2025, 3.3. They live in this room, because the negatives of encoders ask them and
data_aug, a later room, may ask them too; the cross-encoder among them is a finished one, which
needs nothing of the ranking room. An entry is a file here and a line in the table.
"""

from collections.abc import Callable
from pathlib import Path

from core import backbones
from core.answers import key
from core.judging import Judge as Settings
from core.settings import Config
from retrieval.endpoint import model_of
from retrieval.judges.cross_encoder import CrossEncoder
from retrieval.judges.language_model import LanguageModel
from retrieval.judges.questions import Grades, Question

__all__ = ["JUDGES", "Grades", "Question", "fingerprint", "folder", "judge", "reason_against"]

ENDPOINT = "endpoint.sqlite"
"""The file of what language models have answered, whoever asked."""

UNKNOWN = "not judged"
"""Why a candidate is dropped that the judge gave no grade: it is not known to be irrelevant."""


def of_cross_encoder(settings: Settings, models: Path, folder: Path) -> Grades:
    """Scores are kept by the model's content."""
    own = settings.cross_encoder
    known_as = key([backbones.fingerprint(own.model, models), own.max_length])
    answers = folder / f"cross-encoder-{known_as[:16]}.sqlite"
    return CrossEncoder(own, settings.reference, models, answers)


def of_endpoint(settings: Settings, models: Path, folder: Path) -> Grades:
    """Answers of all models and prompts are in one file."""
    return LanguageModel(settings.endpoint, settings.reference, folder / ENDPOINT)


JUDGES: dict[str, Callable[[Settings, Path, Path], Grades]] = {
    "cross_encoder": of_cross_encoder,
    "endpoint": of_endpoint,
}


def folder(config: Config) -> Path:
    """Where the answers of judges and of language models about a collection are kept."""
    return config.home / "answers"


def judge(settings: Settings, models: Path, folder: Path) -> Grades:
    """``folder``: where answers are kept, of any number of judges."""
    return JUDGES[settings.by](settings, models, folder)


def fingerprint(settings: Settings, models: Path) -> str:
    """Of the model that judges, for the recipe of what it decides."""
    if settings.by == "endpoint":
        return model_of(settings.endpoint)
    return backbones.fingerprint(settings.cross_encoder.model, models)


def reason_against(settings: Settings, grade: int | None) -> str:
    """Why a candidate of a grade is no negative; empty where it is one."""
    if grade is None:
        return UNKNOWN
    return "" if grade <= settings.stays else f"judged {grade}"
