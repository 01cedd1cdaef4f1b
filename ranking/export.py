"""A ranker as a folder to share: sentence-transformers and transformers load it and score as we do.

python -m ranking.export CONFIG [key=value …] RANKER FOLDER
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from core import backbones, embedded, embedded_ranker
from core.artefacts import TrainedRanker, TrainingGroups
from core.config import from_arguments
from core.console import say
from core.errors import InputError, exit_with_message
from core.files import finished_folder, write_json
from core.settings import Ranker
from core.steps import Step
from core.task import Task
from ranking import rank, rankers
from ranking.reranker import LENGTHS

# Logits, where sentence-transformers would put a sigmoid
IDENTITY = "torch.nn.modules.linear.Identity"


def export(task: Task, name: str, folder: Path) -> None:
    """Writes a ranker's model, its provenance and its card into a new folder.

    Raises InputError as ``finished_step``, and for a folder that is there.
    """
    step = finished_step(task, name)
    if folder.exists():
        raise InputError(f"{folder}: is there already; name a new folder")
    lengths = lengths_of(task, name, step)
    with finished_folder(folder) as part:
        for file in (step.path / "model").iterdir():
            shutil.copy(file, part / file.name)
        edit(
            part / "config.json",
            sentence_transformers={"activation_fn": IDENTITY},
            **{LENGTHS: lengths},
        )
        edit(part / "tokenizer_config.json", model_max_length=lengths["max_length"])
        provenance = {
            "ranker": name,
            "recipe": step.recipe,
            "fingerprint": step.fingerprint,
            "training": training(step.path),
        }
        write_json(part / "provenance.json", provenance)
        (part / "README.md").write_text(card(task, name, step, lengths), "utf-8")


def finished_step(task: Task, name: str) -> Step:
    """The step that made a ranker. Raises InputError for an unknown one, and one not made."""
    known = task.config.ranking.trainings
    if name not in known:
        raise InputError(f"ranking: found the ranker {name!r}, expected one of {', '.join(known)}")
    step = rank.plan(task)[TrainedRanker(name).step_name]
    if not step.done:
        raise InputError(
            f"{name} is not trained with these settings; "
            "run ranking/run.sh with the same configuration first"
        )
    return step


def lengths_of(task: Task, name: str, step: Step) -> dict[str, int]:
    """The pieces at which a ranker's queries and pairs are cut."""
    tokenize = rankers.tokenizer_of(task, name, step.path / "model")
    return {"query_length": tokenize.query_length, "max_length": tokenize.max_length}


def edit(path: Path, **values: Any) -> None:
    """Sets values of a JSON file."""
    write_json(path, {**json.loads(path.read_text("utf-8")), **values})


def training(path: Path) -> dict:
    """What a ranker's step notes of its training."""
    return json.loads((path / "training.json").read_text("utf-8"))


# ---- The model card


def card(task: Task, name: str, step: Step, lengths: dict[str, int]) -> str:
    """What it is, its figures, its data, how to load it, and where it came from."""
    ranker = task.config.ranking.trainings[name]
    if ranker.model is not None:
        languages = task.languages
        base = base_of(ranker.model)
        about = about_given(ranker, lengths)
    else:
        source = rankers.task_of(task, ranker)
        languages = rankers.training_languages(source, ranker)
        body = rankers.origin(task, name)
        base = backbones.backbone(body.backbone).hub_id or embedded.BASE
        about = about_trained(task, name, step, base)
    return f"""{card_header(languages, base)}
# {name}

{about}
## Use

    from sentence_transformers import CrossEncoder
    CrossEncoder(FOLDER).predict([(query, title + "\\n" + text)])      # logits

or `ranking.Reranker(FOLDER).rank(query, passages)`, or AutoModelForSequenceClassification. \
Continuum cuts a query at {lengths["query_length"]} pieces and a pair at
{lengths["max_length"]} by shortening the passage; other libraries shorten the longer text first, \
which differs for longer queries alone.

## Provenance

`provenance.json` holds the whole recipe; its fingerprint is {step.fingerprint}.
"""


def card_header(languages: list[str], base: str | None) -> str:
    """The metadata at the head of a card, as hubs read them."""
    metadata: dict[str, Any] = {
        "language": languages,
        "library_name": "sentence-transformers",
        "pipeline_tag": "text-ranking",
        "tags": ["cross-encoder", "reranker", "continuum"],
    }
    if base:
        metadata["base_model"] = base
    header = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    return f"---\n{header}---"


def base_of(model: str) -> str | None:
    """What a given model was made of, as a hub knows it; None for a folder's."""
    if model == embedded_ranker.NAME:
        return embedded.BASE
    return None if Path(model).is_dir() else backbones.backbone(model).hub_id


def about_given(ranker: Ranker, lengths: dict[str, int]) -> str:
    """Of a given model, without the place of a folder."""
    assert ranker.model is not None
    model = Path(ranker.model).name if Path(ranker.model).is_dir() else ranker.model
    return f"""A cross-encoder for passage reranking: {model}, taken as it is.

Continuum did not train it. It was used with query_length {lengths["query_length"]} and \
max_length {lengths["max_length"]}.
"""


def about_trained(task: Task, name: str, step: Step, base: str) -> str:
    """Of a training: its figures on dev, and its data."""
    ranker = task.config.ranking.trainings[name]
    source = rankers.task_of(task, ranker)
    layers = rankers.origin(task, name).layers or "all"
    chain = rankers.note_chain(task, name)
    return f"""A cross-encoder for passage reranking, trained with Continuum: \
{layers} layers of {base}, {chain}.

{about_figures(source, ranker, training(step.path))}
## Data

{about_data(source, ranker)}"""


def about_figures(source: Task, ranker: Ranker, state: dict) -> str:
    """The table of nDCG@10 before and after a training."""
    collection = source.config.collection_name
    dev = source.config.splits.dev
    return f"""| nDCG@10 on {dev} queries of {collection} (up to {ranker.dev_queries} a language, \
{ranker.dev_depth} candidates) | |
| --- | --- |
{figure_rows(state)}
"""


def about_data(source: Task, ranker: Ranker) -> str:
    """What a training learned from, and how."""
    languages = ", ".join(rankers.training_languages(source, ranker))
    counts = pair_counts(source, ranker)
    counted = ", ".join(f"{count} {origin}" for origin, count in counts.items())
    pairs = ranker.batch_size * ranker.accumulation
    return f"""Collection {source.config.collection_name}, recipe `{ranker.recipe}`, \
languages {languages}: {counted}.
Training: {ranker.steps} steps of {pairs} pairs, \
loss {ranker.loss}, FGM epsilon {ranker.fgm.epsilon}, dropout samples {ranker.dropouts}, \
learning rate {ranker.learning_rate}.
"""


def pair_counts(source: Task, ranker: Ranker) -> dict[str, int]:
    """Where a ranker's training pairs are from -> how many, over all languages."""
    recipe = source.step(TrainingGroups(ranker.recipe))
    counts = json.loads((recipe.path / "counts.json").read_text("utf-8"))["counts"]
    totals: dict[str, int] = {}
    for key, count in counts.items():
        _, origin = key.split(" ", 1)  # language and origin
        totals[origin] = totals.get(origin, 0) + count
    return totals


def figure_rows(state: dict) -> str:
    """Rows of the card's table: nDCG@10 before and after a training."""
    if state["best"] < 0:
        return "| no dev judgments | |"
    rows = []
    if "base" in state:
        rows.append(f"| first stage | {state['first_stage']:.4f} |")
        rows.append(f"| before training | {state['base']:.4f} |")
    rows.append(f"| this model (step {state['best_step']}) | {state['best']:.4f} |")
    return "\n".join(rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to export, and to where."""
    parser.add_argument("ranker")
    parser.add_argument("folder", type=Path)


def main() -> None:
    """The command line."""
    config, options = from_arguments("a trained ranker as a folder to share", add_arguments)
    export(Task(config), options.ranker, options.folder)
    say(f"{options.folder}")


if __name__ == "__main__":
    exit_with_message(main)
