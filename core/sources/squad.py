"""SQuAD-format JSON: each paragraph a passage, each answerable question a topic, the paragraph with the answer relevant.

    python -m core.sources.squad OUT LANGUAGE SPLIT=FILE [SPLIT=FILE …]

A paragraph that several files hold is one passage. Unanswerable questions (``is_impossible``, or without answers) are left out and counted.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import InputError, exit_with_message
from core.records import Document, Qrels, Query
from core.sources.writing import Split, by_split, write_language


def articles(path: Path) -> list[dict]:
    try:
        data: Any = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON in UTF-8 ({error})") from None
    found = data.get("data") if isinstance(data, dict) else None
    if not isinstance(found, list) or not all(
        isinstance(a, dict) and isinstance(a.get("paragraphs"), list) for a in found
    ):
        raise InputError(
            f'{path}: expected {{"data": [{{"title": …, "paragraphs": [{{"context": …, "qas": […]}}]}}]}}'
        )
    return found


class Squad:
    """Passages over all files, and topics by split. Docids are ARTICLE#PARAGRAPH, numbered in the order of the files."""

    def __init__(self, files: dict[str, Path]):
        self.docids: dict[tuple[str, str], str] = {}
        self.splits: dict[str, Split] = {}
        self.left_out = 0
        titles: dict[str, int] = {}
        self.paragraphs: Counter = Counter()
        for split, path in files.items():
            queries: list[Query] = []
            qrels: Qrels = {}
            for article in articles(path):
                title = article.get("title", "")
                number = titles.setdefault(title, len(titles))
                for paragraph in article["paragraphs"]:
                    if (title, paragraph["context"]) not in self.docids:
                        self.docids[title, paragraph["context"]] = (
                            f"{number}#{self.paragraphs[number]}"
                        )
                        self.paragraphs[number] += 1
                    self.add(
                        split, paragraph, self.docids[title, paragraph["context"]], queries, qrels
                    )
            self.splits[split] = (queries, qrels)

    def add(
        self, split: str, paragraph: dict, docid: str, queries: list[Query], qrels: Qrels
    ) -> None:
        for qa in paragraph["qas"]:
            if qa.get("is_impossible") or not qa.get("answers"):
                self.left_out += 1
                continue
            qid = "".join(str(qa["id"]).split())
            if qid in qrels:
                raise InputError(f"{split}: question id {qid} a second time")
            queries.append(Query(qid, qa["question"]))
            qrels[qid] = {docid: 1}

    def documents(self) -> Iterator[Document]:
        return (Document(docid, title, text) for (title, text), docid in self.docids.items())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m core.sources.squad", description="SQuAD-format JSON into MIRACL's format"
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("language")
    parser.add_argument("files", nargs="+", metavar="SPLIT=FILE")
    options = parser.parse_args()
    found = Squad(by_split(options.files, "files"))
    print(
        write_language(options.out, options.language, found.documents, lambda: found.splits),
        f"({found.left_out} questions without an answer left out)",
    )


if __name__ == "__main__":
    exit_with_message(main)
