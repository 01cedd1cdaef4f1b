"""Finished cross-encoders: one label, all weights there, and no code of their own."""

from pathlib import Path
from typing import Any

from core import backbones, hub
from core.errors import InputError
from core.text import json_value, whole_text


def load(where: str) -> Any:
    """The model with its weights as they are stored.

    Raises InputError for what is no cross-encoder with one label, and for weights that the
    checkpoint lacks: transformers would draw them at random, and the scores would mean nothing.
    """
    from transformers import AutoModelForSequenceClassification

    refuse_other_models(where, read(where, "config.json") or {})
    config = backbones.load_config(where, layers=None)
    weights = backbones.weights_of(where)
    place, revision = hub.pretrained(where)
    model, report = backbones.loading(
        where,
        lambda: AutoModelForSequenceClassification.from_pretrained(
            place,
            config=config,
            trust_remote_code=False,
            output_loading_info=True,
            dtype="auto",
            **weights,
            **revision,
        ),
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(
            f"{where}: its weights lack {', '.join(missing[:3])}, so it is no finished "
            "cross-encoder; name one, or train a ranker from it (backbone=…)"
        )
    backbones.refuse_more_layers(model, report["unexpected_keys"], where)
    return model.eval()


def read(where: str, name: str) -> Any:
    """A JSON file of the model; None if it has none."""
    path = backbones.loading(where, lambda: backbones.model_file(where, name))
    if path is None:
        return None
    return json_value(path, 1, whole_text(path), "JSON; fetch the model again")


def refuse_other_models(where: str | Path, config: dict) -> None:
    """Raises InputError for a model with code of its own, without a head, or with several labels.

    ``config``: its config.json. Where transformers has a class of the same name it would run that
    in place of the model's own code, and the scores would be others.
    """
    if not isinstance(config, dict):
        raise InputError(f"{where}: its config.json is no object; fetch the model again")
    if config.get("auto_map"):
        named = config["auto_map"]
        code = ", ".join(sorted(map(str, named.values() if isinstance(named, dict) else [named])))
        raise InputError(
            f"{where}: its config.json names code of its own (auto_map: {code}), which is never "
            "run; name a model of an architecture that transformers has"
        )
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list):
        architectures = [architectures]
    architectures = [str(name) for name in architectures]
    with_head = [name for name in architectures if name.endswith("ForSequenceClassification")]
    if architectures and not with_head:
        raise InputError(
            f"{where}: is a {', '.join(architectures)}, which has no label, expected a "
            "cross-encoder with one; name one, or train a ranker from it (backbone=…)"
        )
    labels = number_of_labels(config)
    if labels != 1:
        raise InputError(f"{where}: has {labels} labels, expected a cross-encoder with one")


def number_of_labels(config: dict) -> int:
    """Of a config.json; transformers does not write down its default, which is two."""
    if "id2label" in config:
        labels = config["id2label"]
        return len(labels) if isinstance(labels, dict | list) else 0
    number = config.get("num_labels", 2)
    return number if isinstance(number, int) else 0
