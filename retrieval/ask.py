"""One question against the indexes of a configuration: hits with texts from each source.

python -m retrieval.ask CONFIG LANG "a question" [--hits 5]
"""

import argparse
import shutil
import textwrap

import numpy as np

from core.config import load_config
from core.errors import InputError, exit_with_message
from core.records import Query
from core.runs import ranked
from core.settings import Config
from core.task import Task
from retrieval import bm25, dense, retrievers, search


def ask(
    config: Config, language: str, text: str, hits: int
) -> dict[str, list[tuple[str, float, str]]]:
    """Source -> (docid, score, text), best first. Raises InputError for another language and for indexes not built yet."""
    task = Task(config)
    if language not in task.languages:
        raise InputError(f"language {language!r}: expected one of {', '.join(task.languages)}")
    plan, store, query = search.plan(task), None, [Query("question", text)]
    found = {}
    for source, index in (("bm25", f"bm25-index/{language}"), ("dense", f"vectors/{language}")):
        if source not in config.retrieval.sources:
            continue
        if not plan[index].done:
            raise InputError(
                f"{index} is not made yet; run ./retrieval/run.sh with this configuration first"
            )
        store = store or task.passages(language)
        run = SEARCHES[source](task, language, plan[index].path, store, query, hits)
        found[source] = [
            (docid, score, store.text(docid)) for docid, score in ranked(run["question"])
        ]
    return found


def ask_bm25(task, language, path, _store, query, hits):
    s = task.config.retrieval.bm25
    return bm25.search(
        bm25.open_searcher(language, path, *retrievers.bm25_parameters(task, language), s.heap),
        language,
        query,
        hits,
        s.heap,
    )


def ask_dense(task, _language, path, store, query, hits):
    encoded = retrievers.encoder_of(task).encode_queries([query[0].text])
    return dense.search(np.load(path / "vectors.npy", mmap_mode="r"), store, query, encoded, hits)


SEARCHES = {"bm25": ask_bm25, "dense": ask_dense}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m retrieval.ask", description="one question against a configuration's indexes"
    )
    parser.add_argument("config")
    parser.add_argument("language")
    parser.add_argument("question")
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--hits", type=int, default=5)
    options = parser.parse_intermixed_args()
    width = shutil.get_terminal_size((100, 20)).columns - 4
    for source, hits in ask(
        load_config(options.config, options.settings),
        options.language,
        options.question,
        options.hits,
    ).items():
        print(f"\n{source}")
        for rank, (docid, score, text) in enumerate(hits, 1):
            print(
                f"{rank}. {docid}  {score:.4f}\n{textwrap.indent(textwrap.fill(textwrap.shorten(text, 400, placeholder=' …'), width), '    ')}"
            )


if __name__ == "__main__":
    exit_with_message(main)
