"""What a judge is asked."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Question(NamedTuple):
    """Texts; ``reference`` is a passage that is relevant to the query."""

    query: str
    reference: str
    candidate: str


class Grades(Protocol):
    """A judge."""

    def grades(self, questions: Sequence[Question]) -> list[int | None]:
        """0, 1 or 2 for each candidate; None where there is no verdict on it.

        Raises InputError for a judge that is out of order: that is never a verdict.
        """

    def described(self) -> str:
        """What judging has cost so far, for a line; empty where there is nothing to say."""
