"""What the stages talk about. Ids are strings; they repeat across languages, so a key is always (language, id)."""

from typing import NamedTuple


class Document(NamedTuple):
    docid: str
    title: str
    text: str


class Query(NamedTuple):
    qid: str
    text: str


class ScoredDocument(NamedTuple):
    docid: str
    score: float


class TrainingPair(NamedTuple):
    """A row of a training-group file; ``label`` in [0, 1], ``origin`` names the augmentation that made it. ``passage_language`` where the
    passage is of another language than the query."""

    language: str
    qid: str
    docid: str
    label: float
    origin: str
    round: int
    teacher: str
    reason: str
    passage_language: str = ""


Run = dict[str, dict[str, float]]  # one language and split: query id -> docid -> score
Qrels = dict[str, dict[str, int]]  # one language and split: query id -> docid -> relevance
