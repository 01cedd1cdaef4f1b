"""An encoder as a folder to share: sentence-transformers opens it and gives the same vectors.

python -m retrieval.encoders.export CONFIG [key=value …] ENCODER FOLDER
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from core import backbones, embedded
from core.artefacts import TrainedEncoder
from core.config import from_arguments
from core.console import say
from core.encoders import Encoder
from core.errors import InputError, exit_with_message
from core.files import finished_folder, write_json
from core.steps import Step
from core.task import Task
from retrieval import search
from retrieval.encoders import dev, encoders


def export(task: Task, name: str, folder: Path) -> None:
    """Writes an encoder's model, its provenance and its card into a new folder.

    Raises InputError as ``finished_step``, and for a folder that is there.
    """
    step = finished_step(task, name)
    if folder.exists():
        raise InputError(f"{folder}: is there already; name a new folder")
    with finished_folder(folder) as part:
        shutil.copytree(step.path / "model", part, dirs_exist_ok=True)
        provenance = {
            "encoder": name,
            "recipe": step.recipe,
            "fingerprint": step.fingerprint,
            "training": training(step),
        }
        write_json(part / "provenance.json", provenance)
        (part / "README.md").write_text(card(task, name, step), "utf-8")


def finished_step(task: Task, name: str) -> Step:
    """The step that made an encoder. Raises InputError for an unknown one, and one not made."""
    search.plan(task)
    known = task.config.retrieval.encoders
    if name not in known:
        expected = ", ".join(known) or "none: retrieval.encoders is empty"
        raise InputError(f"retrieval: found the encoder {name!r}, expected one of {expected}")
    step = task.step(TrainedEncoder(name))
    if not step.done:
        raise InputError(
            f"{name} is not trained with these settings; "
            "run python -m retrieval.encoders with the same configuration first"
        )
    return step


def training(step: Step) -> dict:
    """What an encoder's step notes of its training."""
    return json.loads((step.path / "training.json").read_text("utf-8"))


# ---- The model card


def card(task: Task, name: str, step: Step) -> str:
    """What it is, its figures, its data, how to load it, and where it came from."""
    encoder = task.config.retrieval.encoders[name]
    source = encoders.task_of(task, encoder)
    languages = encoders.training_languages(source, encoder)
    return f"""{card_header(task, name, languages)}
# {name}

{about(task, name)}

{figures(source, encoder, step)}

## Data

{about_data(source, encoder, languages)}

## Use

    from sentence_transformers import SentenceTransformer
    model = SentenceTransformer(FOLDER)
    model.similarity(model.encode_query([query]), model.encode_document([title + "\\n" + text]))

A passage is its title, a line break and its text; without a title the text alone. Queries are cut \
at {encoder.query_length} tokens and
passages at {encoder.passage_length}; prompts, pooling and similarity are in the folder.

## Provenance

`provenance.json` holds the whole recipe; its fingerprint is {step.fingerprint}.
"""


def card_header(task: Task, name: str, languages: list[str]) -> str:
    """The metadata at the head of a card, as hubs read them."""
    metadata: dict[str, Any] = {
        "language": languages,
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "dense-retrieval", "continuum"],
    }
    if base := base_of(task, name):
        metadata["base_model"] = base
    header = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    return f"---\n{header}---"


def base_of(task: Task, name: str) -> str | None:
    """What the first encoder of a chain began with, as a hub knows it; None for a folder's.

    None, too, for weights that were drawn anew: only the architecture is the base's.
    """
    first = encoders.origin(task, name)
    in_folder = Path(first.start or first.backbone).is_dir()
    return None if first.random_weights or in_folder else base_name(first)


def base_name(first: Encoder) -> str:
    """What the first encoder of a chain began with, without the place of a folder."""
    model = first.start or first.backbone
    if Path(model).is_dir():
        return Path(model).name
    return backbones.backbone(model).hub_id or embedded.BASE


def about(task: Task, name: str) -> str:
    """What it was made of."""
    first = encoders.origin(task, name)
    encoder = task.config.retrieval.encoders[name]
    layers = f"{first.layers or 'all'} layers of {base_name(first)}"
    if first.random_weights:
        layers += " (its architecture, weights drawn anew)"
    method = f"method `{encoder.method}`" if encoder.method else "settings of its own"
    chain = encoders.note_chain(task, name)
    return f"""A bi-encoder for passage retrieval, trained with Continuum by {method}: {layers}, \
{chain}."""


def figures(source: Task, encoder: Encoder, step: Step) -> str:
    """The table of MRR@100 and Recall@100 on sampled passages, before and after the training."""
    by_step = dev.read(step.path)
    if not by_step:
        return "There were no dev judgments to measure it by."
    collection, split = source.config.collection_name, source.config.splits.dev
    settings = encoder.dev
    title = (
        f"{split} queries of {collection} (up to {settings.queries} a language, "
        f"among {settings.passages} of its passages)"
    )
    best_step = training(step)["best_step"]
    lines = [f"| {title} | {' | '.join(dev.METRICS)} |", "| --- |" + " ---: |" * len(dev.METRICS)]
    for what, number in (("before training", 0), (f"this model (step {best_step})", best_step)):
        values = [f"{by_step[number][metric]:.4f}" for metric in dev.METRICS]
        lines.append(f"| {what} | {' | '.join(values)} |")
    return "\n".join(lines)


def about_data(source: Task, encoder: Encoder, languages: list[str]) -> str:
    """What a training learned from, and how."""
    examples = "passages alone" if encoder.unlabelled else "judged queries"
    chosen = ", ".join(encoder.chosen)
    per_step = encoder.batch_size * encoder.accumulation
    return (
        f"Collection {source.config.collection_name}, {examples} in {', '.join(languages)}.\n"
        f"Training: {encoder.steps} steps of {per_step} examples, {chosen}, "
        f"learning rate {encoder.learning_rate}."
    )


# ---- The command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to export, and to where."""
    parser.add_argument("encoder")
    parser.add_argument("folder", type=Path)


def main() -> None:
    """The command line."""
    config, options = from_arguments("a trained encoder as a folder to share", add_arguments)
    export(Task(config), options.encoder, options.folder)
    say(f"{options.folder}")


if __name__ == "__main__":
    exit_with_message(main)
