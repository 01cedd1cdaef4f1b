"""A trained ranker as a folder to share: sentence-transformers and plain transformers load it and score as we do.

python -m ranking.export CONFIG [key=value …] RANKER FOLDER
"""

import json
import shutil
from pathlib import Path

import yaml

from core import backbones
from core.config import from_arguments
from core.console import say
from core.errors import InputError, exit_with_message
from core.files import finished_folder, write_json
from core.task import Task
from data_aug import build as groups
from ranking import rank, rankers
from ranking.reranker import LENGTHS

IDENTITY = (
    "torch.nn.modules.linear.Identity"  # logits, where sentence-transformers would put a sigmoid
)


def export(task: Task, name: str, folder: Path) -> None:
    """Raises InputError for an unknown ranker, one that is not trained, and a folder that is there already."""
    known = task.config.ranking.trainings
    if name not in known:
        raise InputError(f"ranking: found the ranker {name!r}, expected one of {', '.join(known)}")
    step, r = rank.plan(task)[f"ranker/{name}"], known[name]
    if not step.done:
        raise InputError(
            f"{name} is not trained with these settings; run ranking/run.sh with the same configuration first"
        )
    if folder.exists():
        raise InputError(f"{folder}: is there already; name a new folder")
    with finished_folder(folder) as part:
        for file in (step.path / "model").iterdir():
            shutil.copy(file, part / file.name)
        edit(
            part / "config.json",
            sentence_transformers={"activation_fn": IDENTITY},
            **{LENGTHS: {"query_length": r.query_length, "max_length": r.max_length}},
        )
        edit(part / "tokenizer_config.json", model_max_length=r.max_length)
        write_json(
            part / "provenance.json",
            {
                "ranker": name,
                "recipe": step.recipe,
                "fingerprint": step.fingerprint,
                "training": training(step.path),
            },
        )
        (part / "README.md").write_text(card(task, name), "utf-8")


def edit(path: Path, **values) -> None:
    write_json(path, {**json.loads(path.read_text("utf-8")), **values})


def training(path: Path) -> dict:
    return json.loads((path / "training.json").read_text("utf-8"))


def card(task: Task, name: str) -> str:
    """The model card: what it is, its figures, its data, how to load it, and where it came from."""
    r, steps = task.config.ranking.trainings[name], rank.plan(task)
    source, body = rankers.task_of(task, r), rankers.origin(task, name)
    base = backbones.backbone(body.backbone).hub_id or "intfloat/multilingual-e5-small"
    state, recipe = (
        training(steps[f"ranker/{name}"].path),
        groups.plan(source)[f"groups/{r.recipe}"],
    )
    counts = json.loads((recipe.path / "counts.json").read_text("utf-8"))["counts"]
    languages = rankers.training_languages(source, r)
    head = yaml.safe_dump(
        {
            "language": languages,
            "library_name": "sentence-transformers",
            "pipeline_tag": "text-ranking",
            "tags": ["cross-encoder", "reranker", "continuum"],
            "base_model": base,
        },
        sort_keys=False,
        allow_unicode=True,
    )
    totals = {
        what: sum(n for key, n in counts.items() if key.split(" ", 1)[1] == what)
        for what in dict.fromkeys(key.split(" ", 1)[1] for key in counts)
    }
    dev = f"on {source.config.splits.dev} queries of {source.config.collection_name} (up to {r.dev_queries} a language, {r.dev_depth} candidates)"
    figures = (
        [("first stage", state["first_stage"]), ("before training", state["base"])]
        if "base" in state
        else []
    ) + [(f"this model (step {state['best_step']})", state["best"])]
    rows = (
        "\n".join(f"| {what} | {value:.4f} |" for what, value in figures)
        if state["best"] >= 0
        else "| no dev judgments | |"
    )
    return f"""---
{head}---
# {name}

A cross-encoder for passage reranking, trained with Continuum: {body.layers or "all"} layers of {base}, {rankers.note_chain(task, name)}.

| nDCG@10 {dev} | |
| --- | --- |
{rows}

## Data

Collection {source.config.collection_name}, recipe `{r.recipe}`, languages {", ".join(languages)}: {", ".join(f"{n} {what}" for what, n in totals.items())}.
Training: {r.steps} steps of {r.batch_size * r.accumulation} pairs a process, loss {r.loss}, FGM epsilon {r.fgm.epsilon}, dropout samples {r.dropouts}, learning rate {r.learning_rate}.

## Use

    from sentence_transformers import CrossEncoder
    CrossEncoder(FOLDER).predict([(query, title + "\\n" + text)])      # logits

or `ranking.Reranker(FOLDER).rank(query, passages)`, or AutoModelForSequenceClassification. Continuum cuts a query at {r.query_length} pieces and a pair at
{r.max_length} by shortening the passage; other libraries shorten the longer text first, which differs for longer queries alone.

## Provenance

`provenance.json` holds the whole recipe; its fingerprint is {steps[f"ranker/{name}"].fingerprint}.
"""


def main() -> None:
    def add(parser):
        parser.add_argument("ranker")
        parser.add_argument("folder", type=Path)

    config, options = from_arguments("a trained ranker as a folder to share", add)
    export(Task(config), options.ranker, options.folder)
    say(f"{options.folder}")


if __name__ == "__main__":
    exit_with_message(main)
