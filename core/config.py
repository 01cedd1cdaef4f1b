"""YAML layers and ``key=value`` arguments to one validated configuration.

    python -m core.config CONFIG [key=value …]       every setting as it is, defaults and all

A file may name another with ``extends:``; later layers win. An unknown key, a wrong type or a value out of range is an
InputError that names the layer, the key, what was found, what is allowed and, for an unknown key, the nearest known one.
"""

import argparse
import difflib
import json
import re
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from core.errors import InputError, exit_with_message
from core.parts import Part
from core.settings import Config

P = TypeVar("P", bound=Part)


class Loader(yaml.SafeLoader):
    """Safe YAML where ``no`` is a language, 1e-5 a number, and a key given twice an error."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"found key {key.value!r} a second time", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in found
        if tag.rsplit(":", 1)[1] not in ("bool", "float", "timestamp")
    ]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|false)$"), list("tf"))
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str, where: str) -> Any:
    try:
        return Loader(text).get_single_data()
    except yaml.YAMLError as error:
        raise InputError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None


def layers_of(path: Path, seen: tuple = ()) -> list[tuple[str, dict]]:
    """(where, mapping) of a file and of those it extends, the most general first."""
    if not path.is_file():
        near = difflib.get_close_matches(
            path.name, [p.name for p in path.parent.glob("*.yaml")], n=1
        )
        raise InputError(
            f"{path}: no such configuration"
            + (f"; did you mean {path.parent / near[0]}?" if near else "")
        )
    if path.resolve() in seen:
        raise InputError(f"{path}: extends itself")
    values = parse_yaml(path.read_text("utf-8"), str(path)) or {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: found {type(values).__name__}, expected keys and values")
    parent = values.pop("extends", None)
    below = layers_of(path.parent / parent, (*seen, path.resolve())) if parent else []
    return [*below, (str(path), values)]


def argument_layer(argument: str) -> tuple[str, dict]:
    key, equals, text = argument.partition("=")
    if not equals or not key:
        raise InputError(f"argument {argument!r}: expected key=value, for example seed=1")
    value = parse_yaml(text, f"argument {argument!r}")
    for name in reversed(key.split(".")):
        value = {name: value}
    return f"argument {argument!r}", value


def merged(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return {**below, **{k: merged(below.get(k), v) for k, v in above.items()}}
    return above


def load_config(path: str | Path, arguments: Sequence[str] = ()) -> Config:
    return from_layers(
        [*layers_of(Path(path)), *map(argument_layer, arguments)], path, Path(path).stem
    )


def from_layers(layers: list[tuple[str, dict]], path: str | Path, name: str) -> Config:
    """The configuration of (where, mapping) layers, later ones over earlier ones, checked."""
    config = checked(Config, [("the name", {"name": name}), *layers])
    if config.collection.source == "disk" and not config.collection.path:
        raise InputError(
            f"{path}: collection.path is not set; name a folder in MIRACL's format (collection.path=DIR), or set collection.source=atlas"
        )
    for name, ranker in config.ranking.trainings.items():
        if ranker.data is None and ranker.recipe not in config.data_aug:
            part = "chain" if name in config.ranking.chain else "rankers"
            raise InputError(
                f"{path}: ranking.{part}.{name}.recipe: found {ranker.recipe!r}, expected one of {sorted(config.data_aug)}"
            )
    return until_round(config, config.round, path)


def checked(part: type[P], layers: list[tuple[str, dict]]) -> P:
    """``part`` of (where, mapping) layers, later ones over earlier ones."""
    try:
        return part.model_validate(reduce(merged, (values for _, values in layers)))
    except ValidationError as error:
        raise InputError(
            "\n".join(dict.fromkeys(explain(part, e, layers) for e in error.errors()))
        ) from None


def last_round(config: Config) -> int:
    return max(r.round for r in config.ranking.trainings.values())


def until_round(config: Config, round_: int | None, path: str | Path) -> Config:
    """Without the trainings of later rounds; as it is for the last one."""
    if round_ is None or round_ >= last_round(config):
        return config
    r = config.ranking
    left = {
        part: {n: t for n, t in getattr(r, part).items() if t.round <= round_}
        for part in ("chain", "rankers")
    }
    if not left["rankers"]:
        raise InputError(
            f"{path}: round={round_}: no ranker is of this round or one before; the first is of {min(t.round for t in r.rankers.values())}"
        )
    return config.model_copy(update={"round": round_, "ranking": r.model_copy(update=left)})


def data_config(path: str, config: Config) -> Config:
    """A configuration that a training of ``config`` takes its data from, in the same work folder."""
    return load_config(path, [f"work={json.dumps(config.work)}"])


def with_data(config: Config) -> list[Config]:
    """Those that the trainings take their data from, and ``config`` itself: each needs its retrieval and its groups."""
    return [
        *(
            data_config(path, config)
            for path in dict.fromkeys(r.data for r in config.ranking.trainings.values() if r.data)
        ),
        config,
    ]


def explain(part: type[Part], error: dict, layers: list[tuple[str, dict]]) -> str:
    path = [
        str(p)
        for p in error["loc"]
        if not re.search(r"[\[\]{}(]|^(int|float|str|dict|literal|constrained-.*)$", str(p))
    ]
    where = next((name for name, layer in reversed(layers) if holds(layer, path)), layers[-1][0])
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        known = known_keys(part, path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.4)
        return (
            f"{where}: unknown key {key}"
            + (f"; did you mean {'.'.join([*path[:-1], near[0]])}?" if near else "")
            + f" Known here: {', '.join(known)}"
        )
    expected = error["msg"].removeprefix("Input should be ")
    return f"{where}: {key}: found {error['input']!r}, expected {expected}"


def holds(layer: Any, path: list[str]) -> bool:
    for name in path:
        if not isinstance(layer, dict) or name not in layer:
            return False
        layer = layer[name]
    return True


def part_within(annotation: Any) -> Any:
    """The part that a dictionary's or a union's type holds; the type itself if it holds none."""
    return next(
        (
            a
            for a in getattr(annotation, "__args__", ())
            if isinstance(a, type) and issubclass(a, Part)
        ),
        annotation,
    )


def known_keys(part: Any, path: Sequence[str]) -> list[str]:
    """The keys allowed at a place of the configuration, or of another ``part``."""
    for name in path:
        field = (
            part.model_fields.get(name)
            if isinstance(part, type) and issubclass(part, Part)
            else None
        )
        part = field.annotation if field else part_within(part)
        if isinstance(part, UnionType):  # a part, or null
            part = part_within(part)
    return sorted(part.model_fields) if isinstance(part, type) and issubclass(part, Part) else []


def from_arguments(description: str, add=lambda parser: None) -> tuple[Config, argparse.Namespace]:
    """The configuration of a stage's command line: ``CONFIG [key=value …]``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("config", help="a YAML file, for example configs/demo.yaml")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings over the file's")
    add(parser)
    options = parser.parse_intermixed_args()
    return load_config(options.config, options.settings), options


def main() -> None:
    config, options = from_arguments(
        "every setting as it is",
        lambda p: p.add_argument(
            "--last-round", action="store_true", help="only the last round of pseudo-labels"
        ),
    )
    print(
        last_round(config)
        if options.last_round
        else yaml.safe_dump(
            config.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        ).rstrip()
    )


if __name__ == "__main__":
    exit_with_message(main)
