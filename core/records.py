"""What the stages talk about.

Ids are strings; they repeat across languages, so a key is always (language, id).
"""

from collections.abc import Mapping
from typing import NamedTuple


class Document(NamedTuple):
    """A passage. ``docid`` is ``article#number`` in MIRACL; ``title`` may be empty."""

    docid: str
    title: str
    text: str


class Query(NamedTuple):
    """A question of one language and split."""

    qid: str
    text: str


class ScoredDocument(NamedTuple):
    """A passage of a run; the score is the system's own."""

    docid: str
    score: float


class TrainingPair(NamedTuple):
    """A row of a training-group file.

    ``label`` lies in [0, 1]; ``origin`` names the augmentation that made the pair, ``teacher`` the
    system whose scores it follows, if any, and ``reason`` says why it is there.
    ``passage_language`` is set where the passage is of another language than the query.
    """

    language: str
    qid: str
    docid: str
    label: float
    origin: str
    round: int
    teacher: str
    reason: str
    passage_language: str = ""


Run = dict[str, dict[str, float]]
"""Of one language and split: query id -> docid -> score."""

RunByQuery = Mapping[str, dict[str, float]]
"""A run that is asked query by query: a Run, or one on disk (``core.runs.StoredRun``)."""

Ranking = tuple[str, dict[str, float]]
"""One query of a run: its id, and docid -> score."""

Qrels = dict[str, dict[str, int]]
"""Of one language and split: query id -> docid -> relevance."""
