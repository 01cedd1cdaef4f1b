"""YAML layers and ``key=value`` arguments to one validated configuration.

    python -m core.config CONFIG [key=value …]       every setting as it is, defaults and all

A file may name another with ``extends:``; later layers win. In a dictionary of names (rankers,
recipes, given runs, weights, …) a later layer's ``NAME: null`` takes away what an earlier one put
there. An unknown key, a wrong type, a value out of range or a setting that would do nothing is an
InputError that names the layer, the key, what was found, what is allowed and, for an unknown key,
the nearest known one.
"""

import argparse
import difflib
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import ValidationError

from core.errors import InputError, exit_with_message
from core.fusion import PRESETS
from core.parts import Part
from core.settings import Config, Ranker, Splits
from core.text import whole_text

P = TypeVar("P", bound=Part)

Layer = tuple[str, dict]
"""Where settings come from, as it is named in errors, and the settings."""

UNION_BRANCH = re.compile(r"[\[\]{}(]|^(int|float|str|dict|literal|constrained-.*)$")
"""What pydantic puts between the keys of an error's place to say which type of a union it means."""

MOST_NODES = 100_000
"""Of a YAML text, each alias written out: real configurations have hundreds."""

SECRET = re.compile(r"(key|token|password|secret)$", re.IGNORECASE)
"""Ends of names under which a person would give a secret."""

SETTING = re.compile(r"\w[\w.-]*=")
"""How ``key=value`` begins on a command line; an option begins with a dash, and is none."""


class Loader(yaml.SafeLoader):
    """Safe YAML where ``no`` is a language, 1e-5 a number, and a key given twice an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """As PyYAML's, which would take the last of two equal keys."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "found a list or mapping as a key, expected a name", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"found key {key.value!r} a second time", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def resolvers_without(*kinds: str) -> dict[str, list[tuple[str, re.Pattern]]]:
    """PyYAML's rules for what a bare word is, by its first letter, less those of some kinds."""
    kept: dict[str, list[tuple[str, re.Pattern]]] = {}
    for first_letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items():
        kept[first_letter] = []
        for tag, pattern in rules:
            kind = tag.rsplit(":", 1)[1]
            if kind not in kinds:
                kept[first_letter].append((tag, pattern))
    return kept


Loader.yaml_implicit_resolvers = resolvers_without("bool", "float", "timestamp")
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|false)$"), list("tf"))
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text. Raises InputError, with ``where``, if it is none.

    Also for text whose aliases unfold to more than MOST_NODES values, or to themselves: it would
    be read without end.
    """
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if unfolded(node, {}) > MOST_NODES:
            raise InputError(f"{where}: more than {MOST_NODES} values, expected a configuration")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise InputError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise InputError(f"{where}: not valid YAML: nested too deeply") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # of a tag as !!int
        what = " ".join(str(error).split())[:100]
        raise InputError(
            f"{where}: not valid YAML: a value does not fit its tag (!!…): {what}"
        ) from None


def unfolded(node: yaml.Node, sizes: dict[int, float]) -> float:
    """How many values a node has with each alias written out; infinitely many within itself.

    ``sizes``: of nodes that were met before, by identity.
    """
    if id(node) not in sizes:
        sizes[id(node)] = math.inf  # until it is known: so it is for what lies within itself
        total = 1.0
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                total += unfolded(key, sizes) + unfolded(value, sizes)
        elif isinstance(node, yaml.SequenceNode):
            total += sum(unfolded(value, sizes) for value in node.value)
        sizes[id(node)] = total
    return sizes[id(node)]


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that a mistyped one is closest to, if any is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return close[0] if close else None


def did_you_mean(path: Sequence[str], known: Iterable[str]) -> str:
    """The end of a sentence on an unknown key: the place of the nearest known one, if any."""
    near = nearest(path[-1], known, cutoff=0.4)
    return f"; did you mean {'.'.join([*path[:-1], near])}?" if near else "."


# ---- Layers: what files and arguments say


def layers_of(path: Path, seen: tuple[Path, ...] = ()) -> list[Layer]:
    """The layers of a file and of those that it extends, the most general first.

    ``seen``: the files that led here by ``extends``. Raises InputError for a file that is not
    there, is no mapping, or extends itself.
    """
    if not path.exists():
        beside = [file.name for file in path.parent.glob("*.yaml")]
        near = nearest(path.name, beside)
        hint = f"; did you mean {path.parent / near}?" if near else ""
        raise InputError(f"{path}: no such configuration{hint}")
    if path.resolve() in seen:
        raise InputError(f"{path}: extends itself")
    values = parse_yaml(whole_text(path), str(path)) or {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: found {type(values).__name__}, expected keys and values")
    layers: list[Layer] = []
    parent = values.pop("extends", None)
    if parent is not None:
        if not isinstance(parent, str) or not parent:
            raise InputError(f"{path}: extends: found {parent!r}, expected a file's name")
        layers += layers_of(path.parent / parent, (*seen, path.resolve()))
    return [*layers, (str(path), values)]


def argument_layer(argument: str) -> Layer:
    """The layer of ``a.b.c=value``, whose value is YAML.

    No setting is a secret, but someone may try to give one: the value is not shown then.
    """
    key, equals, text = argument.partition("=")
    if not equals or not key:
        raise InputError(f"argument {argument!r}: expected key=value, for example seed=1")
    if SECRET.search(key):
        where = f"argument '{key}=…'"
        value: Any = "…"
    else:
        where = f"argument {argument!r}"
        value = parse_yaml(text, where)
    for name in reversed(key.split(".")):
        value = {name: value}
    return where, value


def merged(below: Any, above: Any) -> Any:
    """``above`` over ``below``, dictionaries key by key. Null is a value like any other here."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    whole = dict(below)
    for key, value in above.items():
        whole[key] = merged(below.get(key), value)
    return whole


def merged_layers(part: type[Part], layers: Sequence[Layer]) -> dict:
    """One mapping of layers for ``part``, later ones over earlier ones.

    ``NAME: null`` in a dictionary of names takes the name away. Raises InputError where there is
    no such name.
    """
    if part is Config:
        layers = limit_by_split(layers)
    whole: dict = {}
    for where, layer in layers:
        whole = put_over(whole, layer, annotation=part, where=where, path=())
    return whole


def put_over(below: Any, above: Any, annotation: Any, where: str, path: tuple[str, ...]) -> Any:
    """``above`` over ``below`` at a place of the settings, ``path``, that has a type.

    As ``merged``, but for null in a dictionary of names.
    """
    if not isinstance(above, dict):
        return above
    whole = dict(below) if isinstance(below, dict) else {}
    named = entry_type(annotation) is not None
    for key, value in above.items():
        place = (*path, str(key))
        if named and value is None:
            take_away(whole, key, where, place)
            continue
        earlier = whole.get(key)
        if earlier is None and isinstance(value, dict) and None in value.values():
            earlier = default_of(annotation, key)
        whole[key] = put_over(earlier, value, type_within(annotation, key), where, place)
    return whole


def limit_by_split(layers: Sequence[Layer]) -> list[Layer]:
    """The layers, with a ``limit`` of every split spread over them where a later layer names some.

    So ``limit.dev=3`` over ``limit: 10`` leaves the other splits at 10, not without a limit.
    """
    names = Splits().model_dump()
    for _, layer in layers:
        if isinstance(layer.get("splits"), dict):
            names |= layer["splits"]
    splits = [str(name) for name in names.values()]
    spread: list[Layer] = []
    is_named_above = False
    for where, layer in reversed(layers):
        limit = layer.get("limit")
        if isinstance(limit, dict):
            is_named_above = True
        elif limit is not None and is_named_above:
            layer = {**layer, "limit": dict.fromkeys(splits, limit)}
        spread.insert(0, (where, layer))
    return spread


def take_away(whole: dict, key: Any, where: str, path: tuple[str, ...]) -> None:
    """Removes a name from a dictionary of names. Raises InputError if it isn't there."""
    if key in whole:
        del whole[key]
        return
    known = [str(name) for name in whole]
    hint = did_you_mean(path, known)
    raise InputError(
        f"{where}: {'.'.join(path)}: found null, which takes away what an earlier layer put there, "
        f"but there is none{hint} Known here: {', '.join(known) or 'nothing'}"
    )


def default_of(annotation: Any, key: str) -> Any:
    """The default of a part's field: what a layer is over where no earlier one says anything."""
    part = part_in(annotation)
    field = part.model_fields.get(key) if part else None
    return field.get_default() if field else None


# ---- The types of the settings: which keys a place knows


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types of a union; of any other type, itself alone."""
    is_union = get_origin(annotation) in (Union, UnionType)
    return get_args(annotation) if is_union else (annotation,)


def part_in(annotation: Any) -> type[Part] | None:
    """The part that a type is, or holds in a union (``Stacking | None``)."""
    for one in alternatives(annotation):
        if isinstance(one, type) and issubclass(one, Part):
            return one
    return None


def entry_type(annotation: Any) -> Any:
    """The type of the entries of a dictionary of names; None for any other type.

    A bare ``dict`` holds settings as data, which are merged elsewhere: it is none.
    """
    for one in alternatives(annotation):
        if get_origin(one) is dict:
            return get_args(one)[1]
    return None


def type_within(annotation: Any, key: str) -> Any:
    """The type of the setting ``key`` at a place of the type ``annotation``; None if unknown."""
    part = part_in(annotation)
    if part is None:
        return entry_type(annotation)
    field = part.model_fields.get(key)
    return field.annotation if field else None


def known_keys(part: type[Part], path: Sequence[str]) -> list[str]:
    """The keys allowed at a place of ``part``, where it has a fixed set of them; sorted."""
    annotation: Any = part
    for key in path:
        annotation = type_within(annotation, key)
    here = part_in(annotation)
    return sorted(here.model_fields) if here else []


# ---- Checking


def checked(part: type[P], layers: Sequence[Layer]) -> P:
    """``part`` of layers, later ones over earlier ones. Raises InputError with all faults."""
    values = merged_layers(part, layers)
    try:
        return part.model_validate(values)
    except ValidationError as error:
        faults = [explain(part, dict(fault), layers) for fault in error.errors()]
        raise InputError("\n".join(dict.fromkeys(faults))) from None


def explain(part: type[Part], fault: Mapping[str, Any], layers: Sequence[Layer]) -> str:
    """What pydantic found wrong, as a line for the user: layer, key, found, expected."""
    path = [str(key) for key in fault["loc"] if not UNION_BRANCH.search(str(key))]
    where = where_set(path, layers)
    key = ".".join(path)
    if fault["type"] == "extra_forbidden":
        known = known_keys(part, path[:-1])
        hint = did_you_mean(path, known)
        return f"{where}: unknown key {key}{hint} Known here: {', '.join(known)}"
    expected = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if fault["type"] == "too_short":
        expected = f"at least {fault['ctx']['min_length']} in it"
    return f"{where}: {key}: found {fault['input']!r}, expected {expected}"


def where_set(path: Sequence[str], layers: Sequence[Layer]) -> str:
    """The name of the last layer that sets a key, or as much of its path as any layer has."""
    for length in range(len(path), 0, -1):
        for where, layer in reversed(layers):
            if holds(layer, path[:length]):
                return where
    return layers[-1][0]


def holds(layer: Any, path: Sequence[str]) -> bool:
    """Whether a layer says something at a path."""
    for name in path:
        if not isinstance(layer, dict) or name not in layer:
            return False
        layer = layer[name]
    return True


def check_collection(config: Config, path: str | Path, layers: Sequence[Layer]) -> None:
    """A collection on disk has a path, the embedded one none."""
    if config.collection.source == "disk" and not config.collection.path:
        raise InputError(
            f"{path}: collection.path is not set; name a folder in MIRACL's format "
            "(collection.path=DIR), or set collection.source=atlas"
        )
    if config.collection.source == "atlas" and config.collection.path:
        raise InputError(
            f"{where_set(['collection', 'path'], layers)}: collection.path: found "
            f"{config.collection.path!r}, but collection.source is atlas, the embedded collection; "
            "set collection.source=disk, or collection.path=null"
        )


def check_engine(config: Config, layers: Sequence[Layer]) -> None:
    """The address of a cluster that nothing would be sent to is an error."""
    if config.engine == "local" and config.ray.address:
        raise InputError(
            f"{where_set(['ray', 'address'], layers)}: ray.address: found {config.ray.address!r}, "
            "but engine is local; set engine=ray, or ray.address=null"
        )


def check_splits(config: Config, layers: Sequence[Layer]) -> None:
    """Train, dev and test are three splits, and ``limit`` speaks of them alone."""
    splits = config.splits
    named = [splits.train, splits.dev, splits.test]
    if len(set(named)) < len(named):
        raise InputError(
            f"{where_set(['splits'], layers)}: splits: found train={splits.train}, "
            f"dev={splits.dev}, test={splits.test}, expected three different splits"
        )
    if not isinstance(config.limit, dict):
        return
    for split in config.limit:
        if split in named:
            continue
        hint = did_you_mean(["limit", split], named)
        raise InputError(
            f"{where_set(['limit', split], layers)}: limit.{split}: no configured split{hint} "
            f"Known here: {', '.join(named)} (splits.train, splits.dev, splits.test); "
            f"an entry of an earlier layer is taken away by limit.{split}=null"
        )


def check_retrieval(config: Config, layers: Sequence[Layer]) -> None:
    """Settings of the first stage that another one makes void."""
    retrieval = config.retrieval
    if retrieval.run and "run" not in retrieval.sources:
        raise InputError(
            f"{where_set(['retrieval', 'run'], layers)}: retrieval.run: found {retrieval.run!r}, "
            f"but retrieval.sources is [{', '.join(retrieval.sources)}]; add 'run' to it, "
            "or set retrieval.run=null"
        )
    if "candidates" in config.model_fields_set and config.candidates > retrieval.depth:
        raise InputError(
            f"{where_set(['candidates'], layers)}: candidates: found {config.candidates}, expected "
            f"at most retrieval.depth, {retrieval.depth}, the passages of a query that are stored"
        )
    hybrid = retrieval.hybrid
    if "weights" in hybrid.model_fields_set and PRESETS[hybrid.preset].weights:
        raise InputError(
            f"{where_set(['retrieval', 'hybrid', 'weights'], layers)}: retrieval.hybrid.weights: "
            f"found {hybrid.weights!r}, but the preset {hybrid.preset} brings its own weights; "
            "choose another retrieval.hybrid.preset, or leave the weights out"
        )


def check_weights(config: Config, layers: Sequence[Layer]) -> None:
    """Given weights name those that there are, and one of them is above 0."""
    hybrid, ensemble = config.retrieval.hybrid.weights, config.ensemble.weights
    members = [*config.ranking.rankers, *config.ensemble.runs, "hybrid"]
    given: list[tuple[list[str], Any, list[str]]] = [
        (["retrieval", "hybrid", "weights"], hybrid, list(config.retrieval.sources)),
        (["ensemble", "weights"], ensemble, members),
    ]
    for path, weights, known in given:
        if not isinstance(weights, dict):
            continue
        key = ".".join(path)
        for name in weights:
            if name not in known:
                hint = did_you_mean([*path, name], known)
                raise InputError(
                    f"{where_set([*path, name], layers)}: {key}.{name}: there is none of this "
                    f"name{hint} Known here: {', '.join(known)}"
                )
        if not any(weights.values()):
            raise InputError(
                f"{where_set(path, layers)}: {key}: found no weight above 0, "
                "expected at least one: all scores would be equal"
            )


def check_recipes(config: Config, path: str | Path) -> None:
    """Each training's recipe is there, unless it is that of another configuration's data."""
    for name, ranker in config.ranking.trained.items():
        if ranker.data is None and ranker.recipe not in config.data_aug:
            part = "chain" if name in config.ranking.chain else "rankers"
            raise InputError(
                f"{path}: ranking.{part}.{name}.recipe: found {ranker.recipe!r}, "
                f"expected one of {sorted(config.data_aug)}"
            )


# ---- Whole configurations


def load_config(path: str | Path, arguments: Sequence[str] = ()) -> Config:
    """The configuration of a file, with ``key=value`` arguments over it; named by the file."""
    layers = layers_of(Path(path))
    layers += [argument_layer(argument) for argument in arguments]
    return from_layers(layers, path, Path(path).stem)


def from_layers(layers: Sequence[Layer], path: str | Path, name: str) -> Config:
    """The configuration of layers, later ones over earlier ones, checked.

    ``path`` is what errors name; ``name`` is the configuration's unless a layer sets it.
    """
    layers = [("the name", {"name": name}), *layers]
    config = checked(Config, layers)
    check_engine(config, layers)
    check_collection(config, path, layers)
    check_splits(config, layers)
    check_retrieval(config, layers)
    check_recipes(config, path)
    check_weights(config, layers)
    _ = config.block  # a depth below the candidates is an error
    return until_round(config, config.round, path)


def last_round(config: Config) -> int:
    """The last round of pseudo-labels that any training is of."""
    return max(training.round for training in config.ranking.trainings.values())


def until_round(config: Config, round_: int | None, path: str | Path) -> Config:
    """Without the trainings of later rounds; as it is for the last one, or None.

    Raises InputError where no ranker is left.
    """
    if round_ is None or round_ >= last_round(config):
        return config
    ranking = config.ranking
    chain = of_rounds(ranking.chain, round_)
    rankers = of_rounds(ranking.rankers, round_)
    if not rankers:
        first = min(ranker.round for ranker in ranking.rankers.values())
        raise InputError(
            f"{path}: round={round_}: no ranker is of this round or one before; "
            f"the first is of {first}"
        )
    left = ranking.model_copy(update={"chain": chain, "rankers": rankers})
    return config.model_copy(update={"round": round_, "ranking": left})


def of_rounds(trainings: Mapping[str, Ranker], last: int) -> dict[str, Ranker]:
    """Those that are of no later round."""
    return {name: training for name, training in trainings.items() if training.round <= last}


def data_config(path: str, config: Config) -> Config:
    """A configuration that a training of ``config`` takes its data from.

    In one work folder, and on the same machines.
    """
    arguments = [f"work={json.dumps(config.work)}"]
    if config.engine != "local":
        ray = config.ray.model_dump_json(exclude_unset=True)
        arguments += [f"engine={config.engine}", f"ray={ray}"]
    return load_config(path, arguments)


def with_data(config: Config) -> list[Config]:
    """Those that the trainings take their data from, and ``config`` itself, last.

    Each needs its retrieval and its groups.
    """
    configs: dict[str, Config] = {}
    for training in config.ranking.trainings.values():
        if training.data and training.data not in configs:
            configs[training.data] = data_config(training.data, config)
    return [*configs.values(), config]


# ---- Command lines


def count_argument(text: str) -> int:
    """The type of an option that counts something: argparse says what is wrong with others."""
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of at least 1")
    return int(text)


def from_arguments(
    description: str, add: Callable[[argparse.ArgumentParser], Any] = lambda parser: None
) -> tuple[Config, argparse.Namespace]:
    """The configuration of a stage's command line, ``CONFIG [key=value …]``, and its options.

    ``add`` gives the parser the stage's own options. Settings may also stand behind its arguments.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("config", help="a YAML file, for example configs/demo.yaml")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings over the file's")
    add(parser)
    # Argparse would hand the stage's own arguments the last words, whatever they are. A word
    # behind an option is left to it: it may be the option's value (``--score ID=0.7``)
    settings: list[str] = []
    others: list[str] = []
    behind_option = False
    for word in sys.argv[1:]:
        if SETTING.match(word) and not behind_option:
            settings.append(word)
        else:
            others.append(word)
        behind_option = word.startswith("--")
    options = parser.parse_intermixed_args(others)
    return load_config(options.config, [*options.settings, *settings]), options


def main() -> None:
    """The command line."""
    config, options = from_arguments("every setting as it is", add_options)
    if options.last_round:
        print(last_round(config))
        return
    if options.engine:
        print(config.engine)
        return
    values = config.model_dump(mode="json")
    print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip())


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m core.config``."""
    parser.add_argument(
        "--last-round", action="store_true", help="only the last round of pseudo-labels"
    )
    parser.add_argument("--engine", action="store_true", help="only who encodes and scores")


if __name__ == "__main__":
    exit_with_message(main)
