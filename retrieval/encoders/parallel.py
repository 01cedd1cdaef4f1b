"""Queries that ask the same in several languages, by a file of their ids.

Its first line names languages, every other line gives one question's query ids in them, with a tab
between two and ``-`` where a language lacks it. ``retrieval.encoders.align`` finds such questions.
Passages that say the same stand in a file of the same form.
"""

from collections.abc import Collection, Container, Iterable, Mapping
from pathlib import Path

from core.errors import InputError, at_line
from core.files import finished_file
from core.runs import text_lines

NONE = "-"

Question = Mapping[str, str]
"""Language -> query id."""


class Parallel:
    """The questions of a file. Raises InputError for lines that are none, and ids given twice.

    ``wanted``: (language, id) of which a question has to have one to be kept, where a file has far
    more; ``kind``: what the ids are of.
    """

    def __init__(
        self,
        path: Path,
        wanted: Container[tuple[str, str]] | None = None,
        kind: str = "query",
    ):
        if not path.is_file():
            raise InputError(
                f"{path}: no such file, expected query ids of the same questions; "
                "python -m retrieval.encoders.align finds them"
            )
        self.path = path
        self.languages: list[str] = []
        self.questions: list[Question] = []
        seen: set[tuple[str, str]] = set()
        for number, line in enumerate(text_lines(path), 1):
            columns = line.split("\t")
            if number == 1:
                if len(set(columns)) < len(columns):
                    raise at_line(path, number, line.replace("\t", ", "), "each language once")
                self.languages = columns
                continue
            if len(columns) != len(self.languages):
                expected = f"{len(self.languages)}, one of each of {', '.join(self.languages)}"
                raise at_line(path, number, f"{len(columns)} columns", expected)
            pairs = zip(self.languages, columns, strict=True)
            question = {language: qid for language, qid in pairs if qid != NONE}
            if wanted is not None and not any(own in wanted for own in question.items()):
                continue
            for language, qid in question.items():
                if (language, qid) in seen:
                    what = f"{kind} {qid} of {language} a second time"
                    raise at_line(path, number, what, f"each {kind} in one question")
                seen.add((language, qid))
            self.questions.append(question)

    def ids(self, asked: str, judged: str) -> dict[str, str]:
        """The ids of questions in the language ``asked`` -> those in the language ``judged``.

        Raises InputError for a language that the file has no column of.
        """
        for language in (asked, judged):
            if language not in self.languages:
                raise InputError(
                    f"{self.path}: no column of {language}, expected one of "
                    f"{', '.join(self.languages)}"
                )
        both = {}
        for question in self.questions:
            if asked in question and judged in question:
                both[question[asked]] = question[judged]
        return both


def write(path: Path, languages: Collection[str], questions: Iterable[Question]) -> None:
    """The file that ``Parallel`` reads."""
    with finished_file(path) as file:
        file.write("\t".join(languages) + "\n")
        for question in questions:
            columns = [question.get(language, NONE) for language in languages]
            file.write("\t".join(columns) + "\n")
