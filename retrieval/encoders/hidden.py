"""How well filters find false negatives: relevant passages that the training was not told of.

python -m retrieval.encoders.hidden CONFIG [key=value …] [--trained]

Of each encoder with ``hidden`` above 0 it tells what every link of its chain of negatives drops,
and what ``false_negatives`` finds among the candidates that the chain leaves, by the weights that
the encoder starts from or, with ``--trained``, by those that it ends with. All are run and measured
on the queries that have a hidden passage.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.artefacts import PassageStore, TrainedEncoder
from core.config import from_arguments
from core.console import say
from core.encoders import Draw, Encoder
from core.errors import InputError, exit_with_message
from core.files import finished_file, write_json
from core.settings import Config
from core.steps import Plan, Step
from core.task import Task
from retrieval import search
from retrieval.encoders import encoders
from retrieval.encoders.hiding import Known, known
from retrieval.encoders.negatives import NEGATIVES
from retrieval.encoders.negatives.mining import Link, Mining, pools_file, run_link
from retrieval.encoders.negatives.pools import Pools

if TYPE_CHECKING:
    from retrieval.encoders.batch import Batch
    from retrieval.encoders.learner import EncoderLearner

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


class Chain(Mining):
    """A chain for the queries that have a hidden passage alone; they are what is measured."""

    @cached_property
    def known(self) -> dict[str, Known]:
        """By language."""
        train = self.task.config.splits.train
        known_of = {}
        for language in self.languages:
            known_of[language] = known(
                self.task.judgments(language, train), language, self.settings
            )
        return known_of

    @property
    def hidden(self) -> dict[str, dict[str, set[str]]]:
        """Language -> query id -> hidden passages."""
        return {language: own.hidden for language, own in self.known.items()}

    @cached_property
    def judged(self) -> dict[str, dict[str, set[str]]]:
        """Language -> query id -> the relevant passages that are not hidden."""
        judged: dict[str, dict[str, set[str]]] = {}
        for language, own in self.known.items():
            judged[language] = {qid: set(own.relevant[qid]) for qid in own.hidden}
        return judged


def run(config: Config, trained: bool = False) -> dict[str, Measured]:
    """Builds what is needed, measures and prints; by encoder. InputError where none hides any."""
    task = Task(config)
    plan = search.plan(task)
    names = [name for name, own in config.retrieval.encoders.items() if own.hidden]
    if not names:
        raise InputError(
            f"{config.name}: no encoder hides relevant passages, so there are none to find; set "
            "hidden, for example retrieval.encoders.NAME.hidden=1.0"
        )
    chains = {name: chain_of(task, plan, name) for name in names}
    targets: list[Step] = []
    for name, mining in chains.items():
        targets += [source for source in mining.inputs if isinstance(source, Step)]
        targets += [mining.task.step(PassageStore(language)) for language in mining.languages]
        if trained and "false_negatives" in mining.settings.in_batch:
            targets.append(task.step(TrainedEncoder(name)))
    encoders.make(task, targets)
    found = {name: measured(task, mining, trained) for name, mining in chains.items()}
    report(task, found)
    return found


def chain_of(task: Task, plan: Plan, name: str) -> Chain:
    """An encoder's chain, for its queries with a hidden passage. InputError without a chain."""
    encoder = task.config.retrieval.encoders[name]
    if not encoder.negatives or encoder.refreshes:
        raise InputError(
            f"retrieval.encoders.{name}: hidden passages are looked for among the candidates "
            "of its negatives, which are mined before the training; set negatives to a chain "
            "that begins with from_run"
        )
    return Chain(**vars(encoders.mining_of(task, plan, name, ())))


def measured(task: Task, mining: Chain, trained: bool) -> Measured:
    """Of all filters of an encoder, all languages together."""
    links: dict[str, Link] = {link: NEGATIVES[link] for link in mining.settings.negatives}
    with tempfile.TemporaryDirectory(dir=made_folder(task.config.folder)) as folder:
        for number, (link, run_it) in enumerate(links.items(), 1):
            made = Path(folder) / f"{number}-{link}"
            for language in mining.languages:
                run_link(mining, run_it, language, made)
            mining.folders.append(made)
        results: Measured = {}
        pairs_of_links = zip(mining.folders, mining.folders[1:], strict=False)
        for (before, after), link in zip(pairs_of_links, list(links)[1:], strict=True):
            results[link] = Found()
            for language, of_language in mining.hidden.items():
                own = Pools(pools_file(before, language)), Pools(pools_file(after, language))
                for qid, docids in of_language.items():
                    for docid, is_dropped in dropped_by(*own, qid):
                        results[link].add(docid in docids, is_dropped)
        if "false_negatives" in mining.settings.in_batch:
            results["false_negatives"] = labelled(task, mining, mining.folders[-1], trained)
    return results


def made_folder(folder: Path) -> Path:
    """The folder, which is there then."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def dropped_by(before: Pools, after: Pools, qid: str) -> Iterator[tuple[str, bool]]:
    """The candidates that a link had from the one before it, and whether it dropped them."""
    left = {candidate.docid for candidate in after.of(qid) if not candidate.dropped}
    for candidate in before.of(qid):
        if not candidate.dropped:
            yield candidate.docid, candidate.docid not in left


# ---- What is found within a step


def labelled(task: Task, mining: Chain, last: Path, trained: bool) -> Found:
    """What ``false_negatives`` finds among all candidates of a query, as at the end of a training.

    Queries with a hidden passage make the batches, a language for itself, each with all its
    candidates, ``last``; the links before it, as a queue, work as they do in a training.
    """
    own = mining.settings
    learner = learner_of(task, mining, last, trained)
    found = Found()
    batches = 0
    for language, of_language in mining.hidden.items():
        first = learner.pairs.spans[language].start
        number_of = {qid: first + i for i, qid in enumerate(learner.pairs.qids(language))}
        qids = list(of_language)
        for start in range(0, len(qids), own.batch_size):
            part = qids[start : start + own.batch_size]
            examples = np.array([number_of[qid] for qid in part], np.int64)
            batch = learner.batch(examples, own.steps - 1, batches)
            batches += 1
            count(found, learner, batch, [of_language[qid] for qid in part])
    return found


def learner_of(task: Task, mining: Chain, last: Path, trained: bool) -> "EncoderLearner":
    """The encoder with all candidates of a query in a batch, by the weights that are asked for."""
    from retrieval.encoders.negatives.drawn import Drawn

    name, own = mining.name, mining.settings
    weights = task.step(TrainedEncoder(name)).path / "model" if trained else None
    number = most_candidates(last, mining.hidden)
    variant = varied(task, name, looking_at_all(own, number, weights))
    learner = encoders.learner(variant, name, task.config.folder / "hidden" / name)
    drawing = own.model_copy(update={"draw": Draw(number=number, order="top")})
    material = replace(learner.material, mined=last, settings=drawing)
    learner.negatives = Drawn(material, learner.pairs)
    learner.model.eval()
    return learner


def count(found: Found, learner: "EncoderLearner", batch: "Batch", hidden: list[set[str]]) -> None:
    """Adds the candidates of a batch's queries; ``hidden``: passages of each of them."""
    import torch

    from retrieval.encoders.encoding import placed
    from retrieval.encoders.learner import scored_of

    queries = torch.from_numpy(learner.encode.rows(batch.queries, "query"))
    passages = torch.from_numpy(learner.encode.rows(batch.passages, "passage"))
    scored = scored_of(
        batch,
        placed(queries, torch.arange(len(queries)), batch.shape.queries),
        placed(passages, torch.from_numpy(batch.passage_places), batch.shape.passages),
    )
    before = scored.negative.clone()
    for link in learner.links:
        if link is learner.entries["false_negatives"]:
            before = scored.negative.clone()
        link.score(scored, batch)
    for link in learner.links:
        link.after(scored, batch)
    for row, columns in enumerate(batch.own_negatives()):
        there = columns[before[row, columns].numpy()]
        is_dropped = ~scored.negative[row, there].numpy()
        names = learner.material.corpus.docids(batch.columns[there])
        for (_, docid), dropped in zip(names, is_dropped.tolist(), strict=True):
            found.add(docid in hidden[row], dropped)


def most_candidates(folder: Path, hidden: dict[str, dict[str, set[str]]]) -> int:
    """How many candidates a query with a hidden passage has left, at most."""
    most = 1
    for language, of_language in hidden.items():
        pools = Pools(pools_file(folder, language))
        for qid in of_language:
            most = max(most, sum(not candidate.dropped for candidate in pools.of(qid)))
    return most


def looking_at_all(own: Encoder, number: int, weights: Path | None) -> Encoder:
    """The settings under which a query has so many candidates, and may find them false.

    They come from a chain that was run already, so there is none in them. ``weights``: of the
    trained encoder, in place of what it starts from.
    """
    values = own.model_dump(exclude_unset=True, exclude={"method", "negatives", *NEGATIVES})
    values["draw"] = {"number": number, "mined": 0.0}
    values["false_negatives"] = {**values.get("false_negatives", {}), "mined": True}
    values["accumulation"] = 1
    if weights is not None:
        values["start"] = str(weights)
        values = {key: value for key, value in values.items() if key not in ("backbone", "layers")}
    return Encoder.model_validate(values)


def varied(task: Task, name: str, encoder: Encoder) -> Task:
    """The same task with one encoder of other settings."""
    retrieval = task.config.retrieval
    changed = retrieval.model_copy(update={"encoders": {**retrieval.encoders, name: encoder}})
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
