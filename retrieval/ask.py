"""One question against the indexes of a configuration: hits with texts from each source.

python -m retrieval.ask CONFIG LANG "a question" [--hits 5]
"""

import argparse
import shutil
import textwrap
from collections.abc import Callable
from typing import NamedTuple

from core.config import count_argument, load_config
from core.errors import InputError, exit_with_message
from core.records import Query, Run
from core.runs import ranked
from core.settings import Config
from core.steps import Step
from core.task import Task
from retrieval import bm25, dense, retrievers, search

SHOWN = 400  # characters of a passage


class Question(NamedTuple):
    """What is asked, and how many hits are wanted."""

    language: str
    text: str
    hits: int

    @property
    def queries(self) -> list[Query]:
        """The question as the only query of a split."""
        return [Query("question", self.text)]


class Hit(NamedTuple):
    """A passage that a source found."""

    docid: str
    score: float
    text: str


def ask(config: Config, language: str, text: str, hits: int) -> dict[str, list[Hit]]:
    """The hits of each source that has an index, best first.

    Raises InputError for a language that is not there and for indexes not built yet.
    """
    task = Task(config)
    if language not in task.languages:
        raise InputError(f"language {language!r}: expected one of {', '.join(task.languages)}")
    steps = search.plan(task)
    question = Question(language, text, hits)
    hits_by_source: dict[str, list[Hit]] = {}
    for source, (kind, search_source) in SEARCHES.items():
        if source not in config.retrieval.sources:
            continue
        index = steps[f"{kind}/{language}"]
        if not index.done:
            raise InputError(
                f"{index.name} is not made yet; "
                "run ./retrieval/run.sh with this configuration first"
            )
        run = search_source(task, index, question)
        passages = task.passages(language)
        hits_by_source[source] = []
        for docid, score in ranked(run["question"]):
            hit = Hit(docid, score, passages.text(docid))
            hits_by_source[source].append(hit)
    return hits_by_source


def ask_bm25(task: Task, index: Step, question: Question) -> Run:
    """The question's run by BM25."""
    heap = task.config.retrieval.bm25.heap
    k1, b = retrievers.bm25_parameters(task, question.language)
    searcher = bm25.open_searcher(question.language, index.path, k1, b, heap)
    return bm25.search(searcher, question.language, question.queries, question.hits, heap)


def ask_dense(task: Task, vectors: Step, question: Question) -> Run:
    """The question's run by exact search of the vectors, also where an index is configured."""
    encoded = retrievers.encoder_of(task).encode_queries([question.text])
    stored, named = retrievers.searchable(vectors, task.passages(question.language))
    return dense.search(stored, named, question.queries, encoded, question.hits)


SEARCHES: dict[str, tuple[str, Callable[[Task, Step, Question], Run]]] = {
    "bm25": ("bm25-index", ask_bm25),
    "dense": ("vectors", ask_dense),
}
"""Source -> the kind of step that holds its index, and the search of it."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m retrieval.ask", description="one question against a configuration's indexes"
    )
    parser.add_argument("config")
    parser.add_argument("language")
    parser.add_argument("question")
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--hits", type=count_argument, default=5)
    options = parser.parse_intermixed_args()
    config = load_config(options.config, options.settings)
    hits_by_source = ask(config, options.language, options.question, options.hits)
    width = shutil.get_terminal_size((100, 20)).columns - 4
    for source, hits in hits_by_source.items():
        print(f"\n{source}")
        for place, hit in enumerate(hits, 1):
            beginning = textwrap.shorten(hit.text, SHOWN, placeholder=" …")
            paragraph = textwrap.indent(textwrap.fill(beginning, width), "    ")
            print(f"{place}. {hit.docid}  {hit.score:.4f}\n{paragraph}")


if __name__ == "__main__":
    exit_with_message(main)
