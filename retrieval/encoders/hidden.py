"""How well filters find false negatives: relevant passages that the training was not told of.

python -m retrieval.encoders.hidden CONFIG [key=value …] [--trained]

Of each encoder with ``hidden`` above 0 it tells what every link of its chain of negatives drops,
and what ``false_negatives`` finds among the candidates that the chain leaves, by the weights that
the encoder starts from or, with ``--trained``, by those that it ends with. All are measured on the
queries that have a hidden passage.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.artefacts import TrainedEncoder
from core.config import from_arguments
from core.console import say
from core.encoders import Draw, Encoder
from core.errors import InputError, exit_with_message
from core.files import finished_file, write_json
from core.settings import Config
from core.steps import Step
from core.task import Task
from retrieval import search
from retrieval.encoders import encoders
from retrieval.encoders.hiding import known
from retrieval.encoders.negatives.mining import pools_file
from retrieval.encoders.negatives.pools import Pools

FILE = "hidden"
TITLES = ("encoder", "filter", "candidates", "hidden", "dropped", "precision", "recall")


@dataclass
class Found:
    """What a filter made of candidates: counts of (query, passage)."""

    candidates: int = 0
    hidden: int = 0  # of them
    dropped: int = 0  # of the candidates
    found: int = 0  # of the hidden ones, dropped

    def add(self, is_hidden: bool, is_dropped: bool) -> None:
        """A candidate."""
        self.candidates += 1
        self.hidden += is_hidden
        self.dropped += is_dropped
        self.found += is_hidden and is_dropped

    @property
    def share(self) -> float | None:
        """Of the candidates that are dropped; None without candidates."""
        return self.dropped / self.candidates if self.candidates else None

    @property
    def precision(self) -> float | None:
        """Hidden ones among the dropped; what is relevant and not judged counts as wrong."""
        return self.found / self.dropped if self.dropped else None

    @property
    def recall(self) -> float | None:
        """Dropped ones among the hidden."""
        return self.found / self.hidden if self.hidden else None


Measured = dict[str, Found]
"""By the filter's name: a link, or ``false_negatives``."""


def run(config: Config, trained: bool = False) -> dict[str, Measured]:
    """Builds what is needed, measures and prints; by encoder. InputError where none hides any."""
    task = Task(config)
    search.plan(task)
    names = [name for name, own in config.retrieval.encoders.items() if own.hidden]
    if not names:
        raise InputError(
            f"{config.name}: no encoder hides relevant passages, so there are none to find; set "
            "hidden, for example retrieval.encoders.NAME.hidden=1.0"
        )
    targets: list[Step] = []
    for name in names:
        own = config.retrieval.encoders[name]
        if not own.negatives or own.refreshes:
            raise InputError(
                f"retrieval.encoders.{name}: hidden passages are looked for among the candidates "
                "of its negatives, which are mined before the training; set negatives to a chain "
                "that begins with from_run"
            )
        step = task.step(TrainedEncoder(name))
        if trained and "false_negatives" in own.in_batch:
            targets.append(step)
        targets.append(mined(step, name))
    encoders.make(task, targets)
    found = {name: measured(task, name, trained) for name in names}
    report(task, found)
    return found


def mined(step: Step, name: str) -> Step:
    """The step of an encoder's negatives."""
    for source in step.inputs:
        if isinstance(source, Step) and source.name == f"negatives/{name}":
            return source
    raise LookupError(f"negatives/{name} is no input of its encoder")


def measured(task: Task, name: str, trained: bool) -> Measured:
    """Of all filters of an encoder, all languages together."""
    encoder = task.config.retrieval.encoders[name]
    source = encoders.task_of(task, encoder)
    languages = encoders.training_languages(source, encoder)
    train = source.config.splits.train
    hidden = {}
    for language in languages:
        hidden[language] = known(source.judgments(language, train), language, encoder).hidden
    folder = mined(task.step(TrainedEncoder(name)), name).path
    links = [folder / f"{number}-{link}" for number, link in enumerate(encoder.negatives, 1)]
    results: Measured = {}
    for before, after, link in zip(links, links[1:], encoder.negatives[1:], strict=False):
        results[link] = Found()
        for language, of_language in hidden.items():
            own = Pools(pools_file(before, language)), Pools(pools_file(after, language))
            for qid, docids in of_language.items():
                for docid, is_dropped in dropped_by(*own, qid):
                    results[link].add(docid in docids, is_dropped)
    if "false_negatives" in encoder.in_batch:
        results["false_negatives"] = labelled(task, name, hidden, trained)
    return results


def dropped_by(before: Pools, after: Pools, qid: str) -> Iterator[tuple[str, bool]]:
    """The candidates that a link had from the one before it, and whether it dropped them."""
    left = {candidate.docid for candidate in after.of(qid) if not candidate.dropped}
    for candidate in before.of(qid):
        if not candidate.dropped:
            yield candidate.docid, candidate.docid not in left


# ---- What is found within a step


def labelled(task: Task, name: str, hidden: dict[str, dict[str, set[str]]], trained: bool) -> Found:
    """What ``false_negatives`` finds among all candidates of a query, as at the end of a training.

    Queries with a hidden passage make the batches, a language for itself, each with all its
    candidates; the links before it, as a queue, work as they do in a training.
    """
    import torch

    from retrieval.encoders.batch import Batch
    from retrieval.encoders.encoding import placed
    from retrieval.encoders.learner import scored_of

    own = task.config.retrieval.encoders[name]
    weights = task.step(TrainedEncoder(name)).path / "model" if trained else None
    last = mined(task.step(TrainedEncoder(name)), name).path
    last /= f"{len(own.negatives)}-{own.negatives[-1]}"
    changed = looking_at_all(own, most_candidates(last, hidden), weights)
    variant = varied(task, name, changed)
    learner = encoders.learner(variant, name, task.config.folder / "hidden" / name)
    learner.model.eval()
    corpus = learner.material.corpus
    step = own.steps - 1

    def vectors_of(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        queries = torch.from_numpy(learner.encode.rows(batch.queries, "query"))
        passages = torch.from_numpy(learner.encode.rows(batch.passages, "passage"))
        places = torch.from_numpy(batch.passage_places)
        return (
            placed(queries, torch.arange(len(queries)), batch.shape.queries),
            placed(passages, places, batch.shape.passages),
        )

    found = Found()
    number = 0
    for language, of_language in hidden.items():
        first = learner.pairs.spans[language].start
        of_qid = {qid: first + i for i, qid in enumerate(learner.pairs.qids(language))}
        examples = np.array([of_qid[qid] for qid in of_language], np.int64)
        qids = list(of_language)
        for start in range(0, len(examples), own.batch_size):
            numbers = examples[start : start + own.batch_size]
            batch = learner.batch(numbers, step, number)
            number += 1
            scored = scored_of(batch, *vectors_of(batch))
            for link in learner.links:
                if link is learner.entries["false_negatives"]:
                    was_negative = scored.negative.clone()
                link.score(scored, batch)
            for link in learner.links:
                link.after(scored, batch)
            is_negative = scored.negative.numpy()
            for row, columns in enumerate(batch.own_negatives()):
                there = columns[was_negative[row, columns].numpy()]
                names = corpus.docids(batch.columns[there])
                for column, (_, docid) in zip(there.tolist(), names, strict=True):
                    is_hidden = docid in of_language[qids[start + row]]
                    found.add(is_hidden, not bool(is_negative[row, column]))
    return found


def most_candidates(folder: Path, hidden: dict[str, dict[str, set[str]]]) -> int:
    """How many candidates a query with a hidden passage has left, at most."""
    most = 1
    for language, of_language in hidden.items():
        pools = Pools(pools_file(folder, language))
        for qid in of_language:
            most = max(most, sum(not candidate.dropped for candidate in pools.of(qid)))
    return most


def looking_at_all(own: Encoder, number: int, weights: Path | None) -> Encoder:
    """The settings under which a query has all its candidates, and may find them false."""
    values = own.model_dump(exclude_unset=True)
    values["draw"] = Draw(number=number, order="top").model_dump()
    values["false_negatives"] = {**values.get("false_negatives", {}), "mined": True}
    values["accumulation"] = 1
    if weights is not None:
        values["start"] = str(weights)
        values = {key: value for key, value in values.items() if key not in ("backbone", "layers")}
    return Encoder.model_validate(values)


def varied(task: Task, name: str, encoder: Encoder) -> Task:
    """The same task with one encoder alone, of other settings."""
    retrieval = task.config.retrieval
    known_others = {**retrieval.encoders, name: encoder}
    changed = retrieval.model_copy(update={"encoders": known_others})
    variant = Task(task.config.model_copy(update={"retrieval": changed}))
    search.plan(variant)
    return variant


# ---- The table


def report(task: Task, found: dict[str, Measured]) -> None:
    """Prints the table, and leaves it beside the results as two files."""
    rows = []
    figures: dict[str, dict] = {}
    for name, filters in found.items():
        for filter_name, own in filters.items():
            counts = [str(own.candidates), str(own.hidden)]
            shares = [cell(value) for value in (own.share, own.precision, own.recall)]
            rows.append([name, filter_name, *counts, *shares])
            figures.setdefault(name, {})[filter_name] = vars(own)
    lines = table(TITLES, rows)
    folder = task.config.folder
    with finished_file(folder / f"{FILE}.md") as file:
        file.write("\n".join(lines) + "\n")
    write_json(folder / f"{FILE}.json", figures)
    say("\n" + "\n".join(lines) + f"\n\nAlso in {folder}/{FILE}.md and {FILE}.json")


def cell(value: float | None) -> str:
    """A share, or what stands for none."""
    return "-" if value is None else f"{value:.3f}"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of Markdown."""
    lines = [f"| {' | '.join(titles)} |", "| --- | --- |" + " ---: |" * (len(titles) - 2)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def main() -> None:
    """The command line."""
    config, options = from_arguments("how well filters find false negatives", add_options)
    run(config, options.trained)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Beside the configuration."""
    parser.add_argument(
        "--trained", action="store_true", help="train the encoders, and use what they end with"
    )


if __name__ == "__main__":
    exit_with_message(main)
