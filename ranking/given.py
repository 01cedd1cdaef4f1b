"""Given rankers: finished cross-encoders, from a folder or the hub, that score as they are.

``ranking.rankers.NAME: {model: …}`` takes any transformers model for sequence classification with
one label, also as sentence-transformers saves its ``CrossEncoder``. Nothing is trained; the step
``ranker/NAME`` copies the model to where a trained one would lie, so that all later steps are the
same. What would make scores others than the model's own is refused by name.
"""

import json
from pathlib import Path
from typing import Any

from core import backbones, distributed, embedded_ranker
from core.artefacts import TrainedRanker
from core.cross_encoders import load, read
from core.errors import InputError
from core.files import write_json
from core.settings import Ranker
from core.steps import Plan, Step
from core.task import Task
from ranking.backends import number_format_of
from ranking.pairs import PairTokenizer
from ranking.reranker import LENGTHS, model_config

SCORING = ("model", "query_length", "max_length", "precision", "depth", "after", "round")
"""The settings that a given ranker may have: all others are of training."""

# Model types whose first position is behind the padding piece's number


def check(task: Task, name: str) -> None:
    """Raises InputError for a setting of training, and for a folder that holds no such model."""
    ranker = task.config.ranking.trainings[name]
    assert ranker.model is not None
    of_training = sorted(ranker.model_fields_set - set(SCORING))
    if of_training:
        raise InputError(
            f"ranking: {name} has model={ranker.model} and {', '.join(of_training)}; a given model "
            "is not trained, take the setting away (to train it further, start another ranker "
            f"from it: start={name})"
        )
    if ranker.model == embedded_ranker.NAME:
        return
    backbones.backbone(ranker.model)
    if Path(ranker.model).is_dir():
        model_config(Path(ranker.model))


def add_given(task: Task, steps: Plan, name: str) -> Step:
    """The step of a given ranker: its recipe is the model, and how it is used."""
    ranker = task.config.ranking.trainings[name]
    assert ranker.model is not None
    own_max_length = "max_length" not in ranker.model_fields_set
    settings = {
        "model": backbones.fingerprint(ranker.model, task.config.models),
        "query_length": None if has_own_query_length(ranker) else ranker.query_length,
        "max_length": None if own_max_length else ranker.max_length,
        "precision": resolved_precision(task, ranker),
    }
    return steps.add(
        TrainedRanker(name),
        version=1,
        settings=settings,
        inputs=[],
        build=lambda folder: build(task, name, folder),
        seconds=30,
        disk=5e8,
        memory=3e9,
    )


def has_own_query_length(ranker: Ranker) -> bool:
    """Whether queries are cut as the model's config.json says: known without asking a hub."""
    assert ranker.model is not None
    if "query_length" in ranker.model_fields_set:
        return False
    if Path(ranker.model).is_dir():
        return LENGTHS in model_config(Path(ranker.model))
    return ranker.model == embedded_ranker.NAME


def resolved_precision(task: Task, ranker: Ranker) -> str:
    """The setting, or what ``auto`` comes to on this machine where that is not fp32.

    Scores in bf16 and in fp32 are two. Raises InputError for fp16 on a CPU, and for a model that
    overflows in it.
    """
    assert ranker.model is not None
    number_format = number_format_of(ranker.precision, ranker.model, task.config.models)
    return ranker.precision if number_format == "fp32" else number_format


def build(task: Task, name: str, folder: Path) -> None:
    """Writes ``model``, with the lengths that it is used with, and a ``training.json`` without one.

    Raises InputError for a model that is no cross-encoder with one label, that lacks weights, that
    puts prompts or other modules around its scores, or that reads less than ``max_length``.
    """
    ranker = task.config.ranking.trainings[name]
    assert ranker.model is not None
    where = backbones.source(ranker.model, task.config.models)
    refuse_modules(where)
    refuse_prompts(where)
    model = load(where)
    tokenizer = backbones.load_tokenizer(where)
    if tokenizer.pad_token_id is None:
        raise InputError(f"{where}: its tokenizer has no padding piece, which batches need")
    longest = max_length(ranker, where, model.config, tokenizer)
    longest_query = query_length(ranker, model.config)
    tokenize = PairTokenizer(tokenizer, longest_query, longest)  # refuses a slow one
    if tokenize.room < 0:
        raise InputError(
            f"ranking: {name}: query_length {longest_query} does not fit into the "
            f"{longest} pieces that the model reads; lower it"
        )
    if distributed.rank() > 0:
        return
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    config_file = folder / "model" / "config.json"
    lengths = {"query_length": longest_query, "max_length": longest}
    write_json(config_file, {**json.loads(config_file.read_text("utf-8")), LENGTHS: lengths})
    note = {"given": ranker.model, "history": [], "best": -1.0, "best_step": 0}
    write_json(folder / "training.json", {**note, "settings": ranker.model_dump()})


def query_length(ranker: Ranker, config: Any) -> int:
    """Pieces of a query: the setting, or without it what the model was trained with."""
    own = getattr(config, LENGTHS, {}).get("query_length")
    is_set = "query_length" in ranker.model_fields_set
    return ranker.query_length if is_set or own is None else own


def max_length(ranker: Ranker, where: str, config: Any, tokenizer: Any) -> int:
    """Pieces of a pair: the setting, or without it what sentence-transformers cuts at."""
    positions = backbones.positions(config, tokenizer) or tokenizer.model_max_length
    if "max_length" not in ranker.model_fields_set:
        return min(positions, tokenizer.model_max_length)
    if ranker.max_length > positions:
        raise InputError(
            f"{where}: max_length: found {ranker.max_length}, expected at most {positions}, "
            "the positions that the model has"
        )
    return ranker.max_length


def refuse_modules(where: str) -> None:
    """Raises InputError for what sentence-transformers would do beside running the transformer."""
    modules = read(where, "modules.json") or []
    if not isinstance(modules, list) or not all(is_module(module) for module in modules):
        raise InputError(
            f"{where}: its modules.json is no list of modules, each with a type and a path; "
            "fetch the model again"
        )
    for module in modules:
        kind = module["type"].rsplit(".", 1)[1]
        place = module["path"] or "its root"
        if kind != "Transformer" or module["path"]:
            raise InputError(
                f"{where}: its modules.json has the module {kind} in {place}, "
                "expected a transformer for sequence classification in its root alone"
            )
    settings = read(where, "sentence_bert_config.json") or {}
    task_kind = settings.get("transformer_task", "sequence-classification")
    if task_kind != "sequence-classification":
        raise InputError(
            f"{where}: its sentence_bert_config.json has transformer_task={task_kind}, "
            "expected sequence-classification"
        )
    for key in ("do_lower_case", "processing_kwargs"):
        if settings.get(key):
            raise InputError(
                f"{where}: its sentence_bert_config.json sets {key}={settings[key]}, which changes "
                "its input and is not supported; name a model without it"
            )


def is_module(value: object) -> bool:
    """Whether it names a class of a module and where it lies, as ``modules.json`` does."""
    if not isinstance(value, dict):
        return False
    kind, path = value.get("type"), value.get("path")
    return isinstance(kind, str) and "." in kind and isinstance(path, str)


def refuse_prompts(where: str) -> None:
    """Raises InputError for a prompt that sentence-transformers would put before every text."""
    settings = read(where, "config_sentence_transformers.json") or {}
    default = settings.get("default_prompt_name")
    prompt = (settings.get("prompts") or {}).get(default)
    if prompt:
        raise InputError(
            f"{where}: its config_sentence_transformers.json has the prompt {default}={prompt!r} "
            "for all texts, which is not supported; name a model without default_prompt_name"
        )
