"""SQuAD-format JSON: each paragraph a passage, each answerable question a topic.

    python -m core.sources.squad OUT LANGUAGE SPLIT=FILE [SPLIT=FILE …]

Relevant is the paragraph with the answer. A paragraph that several files hold is one passage.
Unanswerable questions (``is_impossible``, or without answers) are left out and counted.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from core.errors import InputError, exit_with_message
from core.records import Document, Qrels, Query
from core.sources.writing import Split, by_split, write_language
from core.text import json_file


def articles(path: Path) -> list[dict]:
    """The articles of a file, each with ``paragraphs``; raises InputError for other files."""
    data = json_file(path, 'an object {"data": […]}')
    listed = data.get("data")
    if not isinstance(listed, list) or not all(is_article(entry) for entry in listed):
        raise InputError(
            f'{path}: expected {{"data": [{{"title": …, '
            f'"paragraphs": [{{"context": …, "qas": […]}}]}}]}}'
        )
    return listed


def is_article(value: object) -> bool:
    """Whether it has paragraphs, with a title where it has one."""
    if not isinstance(value, dict) or not isinstance(value.get("title", ""), str):
        return False
    paragraphs = value.get("paragraphs")
    return isinstance(paragraphs, list) and all(is_paragraph(entry) for entry in paragraphs)


def is_paragraph(value: object) -> bool:
    """Whether it is a text with questions."""
    if not isinstance(value, dict) or not isinstance(value.get("context"), str):
        return False
    questions = value.get("qas")
    return isinstance(questions, list) and all(is_question(entry) for entry in questions)


def is_question(value: object) -> bool:
    """Whether it has an id and a text."""
    if not isinstance(value, dict) or not isinstance(value.get("question"), str):
        return False
    return isinstance(value.get("id"), str | int)


class Squad:
    """Passages over all files, and topics by split.

    Docids are ARTICLE#PARAGRAPH, numbered in the order of the files; articles are one by title.
    """

    def __init__(self, files: dict[str, Path]):
        self.docids: dict[tuple[str, str], str] = {}  # of (title, paragraph)
        self.splits: dict[str, Split] = {}
        self.left_out = 0
        self.articles: dict[str, int] = {}  # numbers by title
        self.paragraphs: Counter = Counter()  # of an article so far
        for split, path in files.items():
            queries: list[Query] = []
            qrels: Qrels = {}
            for article in articles(path):
                title = article.get("title", "")
                for paragraph in article["paragraphs"]:
                    docid = self.docid(title, paragraph["context"])
                    self.add_questions(split, paragraph["qas"], docid, queries, qrels)
            self.splits[split] = (queries, qrels)

    def docid(self, title: str, text: str) -> str:
        """Of a paragraph, a new one if it was not seen before."""
        number = self.articles.setdefault(title, len(self.articles))
        if (title, text) not in self.docids:
            self.docids[title, text] = f"{number}#{self.paragraphs[number]}"
            self.paragraphs[number] += 1
        return self.docids[title, text]

    def add_questions(
        self, split: str, questions: list[dict], docid: str, queries: list[Query], qrels: Qrels
    ) -> None:
        """Adds a paragraph's questions to ``queries`` and ``qrels``.

        Raises InputError for an id that the split has already.
        """
        for question in questions:
            if question.get("is_impossible") or not question.get("answers"):
                self.left_out += 1
                continue
            qid = "".join(str(question["id"]).split())
            if qid in qrels:
                raise InputError(f"{split}: question id {qid} a second time")
            queries.append(Query(qid, question["question"]))
            qrels[qid] = {docid: 1}

    def documents(self) -> Iterator[Document]:
        """The passages in the order of their first appearance."""
        for (title, text), docid in self.docids.items():
            yield Document(docid, title, text)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m core.sources.squad", description="SQuAD-format JSON into MIRACL's format"
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("language")
    parser.add_argument("files", nargs="+", metavar="SPLIT=FILE")
    options = parser.parse_args()
    squad = Squad(by_split(options.files, "files"))
    line = write_language(options.out, options.language, squad.documents, lambda: squad.splits)
    print(line, f"({squad.left_out} questions without an answer left out)")


if __name__ == "__main__":
    exit_with_message(main)
