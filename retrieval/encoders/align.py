"""Finds the queries that ask the same in several languages, by the dense source's vectors.

python -m retrieval.encoders.align CONFIG SPLIT PIVOT FILE [--least 1.03] [key=value …]

Each language's queries are paired with the language PIVOT's. Two are the same question where each
is the other's best by the ratio margin (Artetxe and Schwenk 2019, 3.1): their cosine over the mean
cosine of both with their nearest neighbours. Only texts are read, no judgments.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from core.config import from_arguments
from core.console import say
from core.errors import InputError, exit_with_message
from core.task import Task
from retrieval import retrievers
from retrieval.encoders.parallel import Question, write

NEIGHBOURS = 4  # whose mean cosine a pair is measured by
LEAST = 1.03
"""The margin of a pair that counts."""


def align(task: Task, split: str, pivot: str, least: float) -> list[Question]:
    """The questions of a split in all its languages, in the order of the pivot's queries.

    A language that has no such question is not among its own; one in the pivot alone is left out.
    """
    languages = [language for language, _ in task.pairs(split)]
    if pivot not in languages:
        raise InputError(
            f"found the pivot {pivot}, expected a language with {split} topics: "
            f"{', '.join(languages) or 'there is none'}"
        )
    trained = retrievers.trained_encoder(task)
    if trained:
        raise InputError(
            f"retrieval.dense.backbone: found {trained}, which is trained here, expected an "
            "encoder that is there already, such as embedded"
        )
    encoder = retrievers.encoder_of(task)
    vectors = {}
    for language in languages:
        texts = [query.text for query in task.queries(language, split)]
        vectors[language] = normalised(encoder.encode_queries(texts))
    return questions_of(task, split, pivot, same_as(vectors, pivot, least))


def same_as(
    vectors: Mapping[str, np.ndarray], pivot: str, least: float
) -> dict[str, dict[int, int]]:
    """Other language -> a query's place in the pivot -> that of the same question there."""
    found = {}
    for language, others in vectors.items():
        if language != pivot:
            found[language] = pairs_of(margins(vectors[pivot], others), least)
    return found


def questions_of(
    task: Task, split: str, pivot: str, same: Mapping[str, Mapping[int, int]]
) -> list[Question]:
    """The pairs as questions, by query ids; says how many each language has."""
    questions: list[Question] = []
    for place, query in enumerate(task.queries(pivot, split)):
        question: dict[str, str] = {pivot: query.qid}
        for language, places in same.items():
            if place in places:
                question[language] = task.queries(language, split)[places[place]].qid
        if len(question) > 1:
            questions.append(question)
    for language, places in same.items():
        total = len(task.queries(language, split))
        say(f"  {language}: {len(places)} of {total} queries ask what one of {pivot} asks")
    return questions


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Of length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def margins(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The ratio margin of all pairs [first, second] of normalised vectors."""
    cosines = first @ second.T
    return cosines / ((near(cosines)[:, None] + near(cosines.T)[None, :]) / 2)


def near(cosines: np.ndarray) -> np.ndarray:
    """The mean of each row's highest NEIGHBOURS values."""
    count = min(NEIGHBOURS, cosines.shape[1])
    return np.sort(cosines, axis=1)[:, -count:].mean(1)


def pairs_of(margin: np.ndarray, least: float) -> dict[int, int]:
    """Rows -> columns where each is the other's best, and at least ``least``."""
    best_column = margin.argmax(1)
    best_row = margin.argmax(0)
    pairs = {}
    for row, column in enumerate(best_column.tolist()):
        if best_row[column] == row and margin[row, column] >= least:
            pairs[row] = column
    return pairs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to align, and where to write it."""
    parser.add_argument("split")
    parser.add_argument("pivot", help="the language that the others are compared with")
    parser.add_argument("file", type=Path)
    parser.add_argument("--least", type=float, default=LEAST, help="margin of a pair that counts")


def main() -> None:
    """The command line."""
    config, options = from_arguments("finds queries that ask the same", add_arguments)
    task = Task(config)
    questions = align(task, options.split, options.pivot, options.least)
    languages = [options.pivot]
    languages += [la for la, _ in task.pairs(options.split) if la != options.pivot]
    write(options.file, languages, questions)
    say(f"{options.file}: {len(questions)} questions")


if __name__ == "__main__":
    exit_with_message(main)
