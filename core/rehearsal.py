"""A configuration in small: all its stages, settings and rounds on a miniature of its collections.

    python -m core.rehearsal CONFIG [key=value …]            makes what it takes
    python -m core.rehearsal CONFIG [key=value …] --path     where the small configuration is
    python -m core.rehearsal CONFIG [key=value …] --report   what was tried, and what could not be

``run_all.sh --rehearse`` calls it. The small configuration extends the given one by sizes alone,
under ``work/rehearsal``, where nothing of a real run lies. Models and collections that are not at
hand have others in their place (``core.standins``, ``core.sources.miniature``).
"""

import argparse
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from core import backbones, distributed, embedded, machine, standins
from core.building import Journal
from core.collection import Collection
from core.config import (
    argument_layer,
    data_config,
    last_round,
    load_config,
    merged,
    with_data,
)
from core.console import say
from core.encoders import Encoder
from core.errors import InputError, exit_with_message
from core.files import write_json
from core.judging import Judge
from core.settings import Atlas, Config, Ranker
from core.sources import atlas, irds, miniature, miracl
from core.standins import Wanted
from core.task import Task

DEPTH = 20  # of runs
CANDIDATES = 10  # that are reranked
CASCADE = 5  # of a ranker that comes after another
STEPS = 4  # of a training, measured after every second one
PAIRS = 8  # of a micro-batch: one for each of eight GPUs
GROUP = 4  # passages of a query in a group
CLUSTERS = 4  # of a bi-encoder's batches
TREES = 20
HEAP = "512m"
COUNTRIES, ATLAS_QUERIES = 6, 24  # of the embedded collection
INDEXED = 300  # passages a language where an index has to learn product quantisation
LETTERS = 200_000  # characters that tokenizers are trained on, at most
TREC = "*.trec"


# ---- What is small


def small(config: Config, collection: Mapping, data: Mapping[str, str]) -> dict:
    """The settings that make a configuration small: over its own, none of them raised.

    ``collection``: that of the miniature. ``data``: a configuration that gives training data -> the
    small one.
    """
    retrieval, ranking = config.retrieval, config.ranking
    depth = min(retrieval.depth, DEPTH)
    candidates = min(config.candidates, depth, CANDIDATES)
    rerank: dict[str, Any] = {"dev_queries": min(ranking.rerank.dev_queries, 2)}
    if ranking.rerank.depth is not None:
        rerank["depth"] = min(ranking.rerank.depth, candidates)
    layer: dict[str, Any] = {
        "collection": dict(collection),
        "candidates": candidates,
        "retrieval": {
            "depth": depth,
            "bm25": {"heap": HEAP},
            "dense": {"batch_tokens": min(retrieval.dense.batch_tokens, 4096)},
        },
        "ranking": {"rerank": rerank},
    }
    for source in ("bm25", "dense"):  # a prebuilt index is of the whole collection
        if getattr(retrieval, source).prebuilt:
            layer["retrieval"][source]["prebuilt"] = None
    if retrieval.encoders:
        small_encoders = {}
        for name, encoder in retrieval.encoders.items():
            small_encoders[name] = small_encoder(encoder, data)
        layer["retrieval"]["encoders"] = small_encoders
    for part in ("chain", "rankers"):
        known: dict[str, Ranker] = getattr(ranking, part)
        if known:
            layer["ranking"][part] = {
                name: small_ranker(ranker, candidates, data) for name, ranker in known.items()
            }
    if config.ensemble.stacking is not None:
        layer["ensemble"] = {"stacking": {"trees": min(config.ensemble.stacking.trees, TREES)}}
    return layer


def small_training(training: Ranker | Encoder) -> dict[str, Any]:
    """The sizes of a training, whatever it trains."""
    steps = min(training.steps, STEPS)
    sizes: dict[str, Any] = {
        "steps": steps,
        "evaluate_every": min(training.evaluate_every, max(1, steps // 2)),
        "accumulation": min(training.accumulation, 2),
    }
    if training.average and training.average.last:
        sizes["average"] = {"last": min(training.average.last, 2)}
    return sizes


def small_ranker(ranker: Ranker, candidates: int, data: Mapping[str, str]) -> dict[str, Any]:
    """The sizes of a ranker; of a given one the depth alone, since nothing else may be set."""
    sizes: dict[str, Any] = {}
    if ranker.depth is not None:
        sizes["depth"] = min(ranker.depth, CASCADE if ranker.after else candidates)
    if ranker.model is not None:
        return sizes
    sizes |= small_training(ranker)
    sizes |= {
        "batch_size": min(ranker.batch_size, PAIRS),
        "dev_queries": min(ranker.dev_queries, 2),
        "dev_depth": min(ranker.dev_depth, 4),
    }
    if ranker.loss != "binary_cross_entropy":
        group = min(ranker.group_size, GROUP)
        groups = min(ranker.batch_size // ranker.group_size, PAIRS)
        sizes |= {"group_size": group, "batch_size": groups * group}
    if ranker.fgm.start:
        sizes["fgm"] = {"start": min(ranker.fgm.start, 1)}
    if ranker.data:
        sizes["data"] = data[ranker.data]
    return sizes


def small_encoder(encoder: Encoder, data: Mapping[str, str]) -> dict[str, Any]:
    """The sizes of a bi-encoder that is trained; of its parts those that it uses."""
    sizes = small_training(encoder)
    sizes |= {
        "batch_size": min(encoder.batch_size, PAIRS),
        "dev": {
            "queries": min(encoder.dev.queries, 2),
            "passages": min(encoder.dev.passages, miniature.PASSAGES),
        },
    }
    sizes |= small_chain(encoder, sizes["steps"])
    if "clustered" in encoder.chosen and encoder.clustered.clusters:
        sizes["clustered"] = {"clusters": min(encoder.clustered.clusters, CLUSTERS)}
    if "topics" in encoder.chosen:
        sizes["topics"] = {"count": min(encoder.topics.count, CLUSTERS)}
    if "queue" in encoder.chosen:
        sizes["queue"] = {"size": min(encoder.queue.size, 2 * PAIRS)}
    if encoder.data:
        sizes["data"] = data[encoder.data]
    return sizes


def small_chain(encoder: Encoder, steps: int) -> dict[str, Any]:
    """The sizes of what finds a bi-encoder's negatives; ``steps``: of its training."""
    sizes: dict[str, Any] = {}
    if "from_run" in encoder.chosen:
        sizes["from_run"] = {"depth": min(encoder.from_run.depth, DEPTH)}
    if encoder.refreshes:
        sizes["refresh"] = {"depth": min(encoder.refresh.depth, DEPTH)}
        if encoder.refresh.unit == "steps":
            sizes["refresh"]["every"] = min(encoder.refresh.every, max(1, steps // 2))
    if "from_ensemble" in encoder.chosen:
        depth = min(encoder.from_ensemble.depth, DEPTH)
        sizes["from_ensemble"] = {"depth": depth, "reach": min(encoder.from_ensemble.reach, DEPTH)}
    if "generate" in encoder.chosen:
        number = min(encoder.generate.number, DEPTH)
        sizes["generate"] = {"number": number, "depth": min(encoder.generate.depth, DEPTH)}
    if "share_languages" in encoder.chosen:
        pool = encoder.share_languages.pool
        sizes["share_languages"] = {"pool": min(pool or DEPTH, DEPTH)}
    return sizes


# ---- What a configuration names


def wanted_models(*configs: Config) -> list[Wanted]:
    """The models that configurations name, each once, and the most layers that are asked of it."""
    most: dict[str, Wanted] = {}
    for config in configs:
        for one in [*models_of_retrieval(config), *models_of_ranking(config)]:
            known = most.get(one.name, one)
            layers = max(filter(None, (known.layers, one.layers)), default=None)
            most[one.name] = Wanted(one.name, layers, known.scores or one.scores)
    return list(most.values())


def models_of_retrieval(config: Config) -> Iterator[Wanted]:
    """Of the dense source, of encoders that are trained, and who judges their negatives."""
    dense, encoders = config.retrieval.dense, config.retrieval.encoders
    if "dense" in config.retrieval.sources and dense.backbone not in encoders:
        yield Wanted(dense.backbone, dense.layers)
    for encoder in encoders.values():
        if encoder.start is None:
            yield Wanted(encoder.backbone, encoder.layers)
        if encoder.teacher and encoder.teacher not in encoders:
            yield Wanted(encoder.teacher)
        if "judge" in encoder.negatives:
            yield from judging_model(encoder.judge)


def judging_model(judge: Judge) -> Iterator[Wanted]:
    """None where the judge is a language model behind an endpoint."""
    if judge.by == "cross_encoder":
        yield Wanted(judge.cross_encoder.model, scores=True)


def models_of_ranking(config: Config) -> Iterator[Wanted]:
    """Of Q2Q2D, of judges, of rankers that are trained, and those that are given."""
    for recipe in config.data_aug.values():
        if recipe.filters.judge is not None:
            yield from judging_model(recipe.filters.judge)
        if recipe.q2q2d:
            yield Wanted(recipe.q2q2d.backbone)
    for ranker in config.ranking.trainings.values():
        if ranker.model is not None:
            yield Wanted(ranker.model, scores=True)
        elif ranker.start is None:
            yield Wanted(ranker.backbone, ranker.layers)


def splits_by_language(config: Config) -> dict[str, list[str]]:
    """What a collection that is not at hand has, as far as its name or its settings tell."""
    own = config.splits
    splits = [own.train, own.dev, own.test]
    by_language: dict[str, list[str]] = {}
    name = config.collection_name
    if name == "miracl":
        for language, known in miracl.counts().items():
            queries = [what.removesuffix(" queries") for what in known if what.endswith("queries")]
            by_language[language] = queries
    elif name in irds.KNOWN:
        languages, known_splits = irds.KNOWN[name]
        by_language = {language: list(known_splits) for language in languages}
    wanted = config.languages or list(by_language) or ["en"]
    return {language: by_language.get(language, splits) for language in wanted}


# ---- The rehearsal


class Rehearsal:
    """A configuration that is rehearsed, and where.

    ``notes``: what is in place of something else, and what cannot be tried, for the report.
    """

    def __init__(self, path: str, arguments: list[str]):
        self.path, self.arguments = path, arguments
        self.config = load_config(path, arguments)
        self.real_models = self.config.models
        self.root = Path(self.config.work) / "rehearsal"
        self.models = self.root / "models"
        self.small_path = self.root / "configs" / f"{Path(path).stem}.yaml"
        self.notes: dict[str, list[str]] = {"collections": [], "models": [], "runs": [], "not": []}

    @property
    def notes_path(self) -> Path:
        """Where the notes are kept for the report."""
        return self.small_path.with_suffix(".notes.json")

    def prepare(self) -> None:
        """Writes the small configurations, the miniatures and the models that stand in."""
        data: dict[str, str] = {}
        configs = []
        for path in self.data_paths():
            data[path] = str(self.root / "configs" / f"{Path(path).stem}.yaml")
            if data[path] == str(self.small_path):
                raise InputError(f"{path}: gives data to a configuration of the same name")
            one = data_config(path, self.config)
            self.write_small(Path(path), [], one, {}, Path(data[path]))
            configs.append(one)
        self.write_small(Path(self.path), self.arguments, self.config, data, self.small_path)
        whole = [*configs, self.config]
        self.stand_in(whole, self.texts(whole))
        rehearsed = load_config(self.small_path)
        with_data(rehearsed)
        self.note_limits(rehearsed)
        write_json(self.notes_path, {**self.notes, "began": time.time(), "of": self.path})

    def data_paths(self) -> list[str]:
        """The configurations that trainings take their data from."""
        trainings: list[Ranker | Encoder] = [*self.config.ranking.trainings.values()]
        trainings += self.config.retrieval.encoders.values()
        paths = [training.data for training in trainings if training.data]
        return list(dict.fromkeys(paths))

    def write_small(
        self, path: Path, arguments: list[str], config: Config, data: dict, target: Path
    ) -> None:
        """A file that extends a configuration by its arguments and by sizes."""
        layer: dict = {}
        for argument in arguments:
            layer = merged(layer, argument_layer(argument)[1])
        layer = merged(layer, small(config, self.miniature_of(config), data))
        layer = merged(layer, self.given_members(config))
        layer = merged(layer, self.given_teachers(config))
        layer["work"] = str(self.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        extends = os.path.relpath(path, target.parent)
        text = yaml.safe_dump({"extends": extends, **layer}, allow_unicode=True, sort_keys=False)
        target.write_text(f"# {path} in small, written by core.rehearsal\n{text}", "utf-8")

    # ---- Collections

    def miniature_of(self, config: Config) -> dict:
        """The settings of the miniature of a configuration's collection, which is made."""
        own = config.collection
        settings = small_collection(config, self.root)
        if own.path is None:
            countries = settings["atlas"]["countries"]
            self.notes["collections"].append(f"the embedded collection, {countries} countries")
            return settings
        out = Path(settings["path"])
        passages = INDEXED if config.retrieval.dense.index.kind == "ivfpq" else miniature.PASSAGES
        self.forget_other(out, {"path": str(Path(own.path).resolve()), "passages": passages})
        write = self.cut if Path(own.path).is_dir() else self.make
        self.notes["collections"].append(write(config, out, passages))
        return settings

    def forget_other(self, out: Path, of: dict) -> None:
        """Removes the miniature of another collection of the same name; one made is remade."""
        note = out / "of.json"
        of = {**of, "at_hand": Path(of["path"]).is_dir()}
        known = json.loads(note.read_text("utf-8")) if note.is_file() else None
        if known != of:
            shutil.rmtree(out, ignore_errors=True)
            write_json(note, of)

    def cut(self, config: Config, out: Path, passages: int) -> str:
        """The miniature of a collection that is at hand; a line about it."""
        assert config.collection.path is not None
        source = Collection(config.collection.path, config.languages, config.collection.allow)
        moved = 0
        for language in source.languages:
            splits = [split for of, split in source.topics if of == language]
            as_split = dict(zip(splits, splits, strict=True))
            if not (out / language).exists():
                moved += miniature.cut(source, language, out, passages, as_split)
        line = f"{source.root}: {len(source.languages)} languages, cut from the files"
        if moved:
            line += (
                f"; {moved} judgments stand on other passages than theirs, which the first "
                f"{miniature.READ} of the corpus do not hold"
            )
        return line

    def make(self, config: Config, out: Path, passages: int) -> str:
        """What stands for a collection that is not at hand; a line about it."""
        settings = Atlas(countries=COUNTRIES, queries=ATLAS_QUERIES)
        embedded_one = Collection(atlas.folder(self.root / "atlas" / "collection", settings))
        synthetic = []
        splits = splits_by_language(config)
        for language, names in splits.items():
            if (out / language).exists():
                is_real = language in embedded_one.all_languages
            else:
                is_real = miniature.make(embedded_one, language, names, out, passages)
            if not is_real:
                synthetic.append(language)
        line = f"{config.collection.path}: not at hand; {len(splits)} languages were made for it"
        if synthetic:
            line += f", {', '.join(synthetic)} of invented words"
        return line

    def texts(self, configs: list[Config]) -> list[str]:
        """What tokenizers are trained on: passages and queries of all miniatures."""
        texts: list[str] = []
        for config in configs:
            collection = Task(small_of(config, self.root)).collection
            for language in collection.languages:
                texts += [f"{title} {text}" for _, title, text in collection.documents(language)]
                for of, split in collection.topics:
                    if of == language:
                        texts += [query.text for query in collection.queries(language, split)]
        share = max(1, sum(map(len, texts)) // LETTERS)
        return texts if share == 1 else texts[::share] + ["".join(sorted(set("".join(texts))))]

    # ---- Models

    def stand_in(self, configs: list[Config], texts: list[str]) -> None:
        """Models for those that are not at hand, and none for those that are by now."""
        self.link_embedded()
        for wanted in wanted_models(*configs):
            name = wanted.name
            lack = standins.lacking(name, self.real_models)
            if lack is None:
                old = backbones.stand_in_of(name, self.models)
                if old:
                    shutil.rmtree(old)
                continue
            own = standins.own_config(name, self.real_models) if lack.is_known else None
            origin = standins.make(wanted, self.models, own, texts)
            self.notes["models"].append(f"{name}: {lack.reason}; random and tiny, {origin}")

    def link_embedded(self) -> None:
        """The embedded model, where a real run has converted it: that takes a while."""
        own = self.real_models / embedded.folder_name()
        here = self.models / own.name
        if own.is_dir() and not here.exists():
            self.models.mkdir(parents=True, exist_ok=True)
            here.symlink_to(own.resolve())

    # ---- Runs and files that are given

    def given_members(self, config: Config) -> dict:
        """Settings for runs and folds from elsewhere: their queries are not those rehearsed."""
        layer: dict = {}
        if config.retrieval.run:
            layer = merged(
                layer, {"retrieval": {"run": self.runs_for(config.retrieval.run, config)}}
            )
        given = {name: self.runs_for(path, config) for name, path in config.ensemble.runs.items()}
        if given:
            layer = merged(layer, {"ensemble": {"runs": given}})
        stacking = config.ensemble.stacking
        if stacking and stacking.out_of_fold:
            layer = merged(layer, {"ensemble": {"stacking": {"out_of_fold": None}}})
            self.notes["not"].append(f"stacking on {stacking.out_of_fold}: it learns from dev here")
        if config.folds.file:
            layer = merged(layer, {"folds": {"file": None}})
            self.notes["not"].append(f"the folds of {config.folds.file}: they are drawn here")
        return layer

    def given_teachers(self, config: Config) -> dict:
        """Settings for runs from elsewhere that filters, labels and losses follow."""
        layer: dict = {}
        for name, recipe in config.data_aug.items():
            parts: dict[str, Any] = {}
            if recipe.filters.teacher:
                parts["filters"] = {"teacher": self.runs_for(recipe.filters.teacher, config)}
            if recipe.pseudo_label and Path(recipe.pseudo_label.teacher).is_dir():
                teacher = self.runs_for(recipe.pseudo_label.teacher, config)
                parts["pseudo_label"] = {"teacher": teacher}
            if parts:
                layer = merged(layer, {"data_aug": {name: parts}})
        for part in ("chain", "rankers"):
            for name, ranker in getattr(config.ranking, part).items():
                if ranker.teacher and Path(ranker.teacher).is_dir():
                    source = data_config(ranker.data, config) if ranker.data else config
                    own = {name: {"teacher": self.runs_for(ranker.teacher, source)}}
                    layer = merged(layer, {"ranking": {part: own}})
        return layer

    def runs_for(self, path: str, config: Config) -> str:
        """A folder of made-up runs of the miniature's queries, in place of one that is given.

        The languages and splits are those of the given folder, or all where it is not there.
        """
        collection = Task(small_of(config, self.root)).collection
        target = self.root / "runs" / config.collection_name / Path(path).name
        names = [file.stem for file in Path(path).glob(TREC)]
        for language, split in collection.topics:
            name = f"{language}-{split}"
            if language not in collection.languages or (names and name not in names):
                continue
            docids = [document.docid for document in collection.documents(language)]
            lines = list(made_run(collection, language, split, docids))
            target.mkdir(parents=True, exist_ok=True)
            (target / f"{name}.trec").write_text("".join(lines), "utf-8")
        state = "of other queries" if names else "not at hand"
        self.notes["runs"].append(f"{path}: {state}; invented runs stand for it")
        return str(target)

    # ---- What cannot be tried

    def note_limits(self, config: Config) -> None:
        """What a rehearsal leaves open, on any machine and on this one."""
        self.notes["not"] += [
            "time, memory and disk at the real size (--plan estimates them)",
            "what the figures are worth: those of a rehearsal mean nothing",
        ]
        processes = int(os.environ.get("PROCESSES") or max(1, machine.gpus()))
        if processes == 1:
            self.notes["not"].append("several processes (PROCESSES=2 tries them)")
        if not machine.gpus():
            self.notes["not"].append("GPUs, and number formats that only they have")
        if config.retrieval.bm25.prebuilt or config.retrieval.dense.prebuilt:
            self.notes["not"].append("prebuilt indexes: small ones were made in their place")
        for ranker in config.ranking.trained.values():
            if not Path(ranker.deepspeed).is_file():
                raise InputError(f"deepspeed: {ranker.deepspeed}: no such file")

    def report(self, status: int) -> Iterator[str]:
        """Lines on what was tried and what could not be; ``status``: of the run."""
        notes = json.loads(self.notes_path.read_text("utf-8"))
        config = load_config(self.small_path)
        made: Counter[str] = Counter()
        for one in with_data(config):
            made.update(made_since(one, notes["began"]))
        outcome = "went through" if status == 0 else "STOPPED at the error above"
        yield f"\nrehearsal of {self.path}: {outcome}; its outputs are in {self.root}"
        by_stage = ", ".join(f"{count} of {stage}" for stage, count in made.items())
        yield f"  tried      {sum(made.values())} outputs made now: {by_stage or 'none'}"
        rounds = last_round(config) + 1
        trainings = len(config.ranking.trained)
        if status == 0:
            yield f"             {machine.counted(rounds, 'round')}, {trainings} trainings in them"
        submission = config.folder / "submission.zip"
        if status == 0 and submission.is_file():
            yield f"             a submission of {config.splits.test}, checked: {submission}"
        heads = {"collections": "on", "models": "instead of", "runs": "instead of"}
        for kind, head in heads.items():
            for line in notes[kind]:
                yield f"  {head:10} {line}"
        for line in notes["not"]:
            yield f"  not tried  {line}"


def small_collection(config: Config, root: Path) -> dict:
    """The settings of the miniature of a configuration's collection, in a rehearsal's folder."""
    own = config.collection
    if own.path is not None:
        return {"path": str(root / "collections" / Path(own.path).name)}
    sizes = {
        "countries": min(own.atlas.countries, COUNTRIES),
        "cities": min(own.atlas.cities, miniature.PASSAGES),
        "queries": min(own.atlas.queries, ATLAS_QUERIES),
    }
    return {"atlas": sizes}


def small_of(config: Config, root: Path) -> Config:
    """A configuration on its miniature, which was made before."""
    part = merged(config.collection.model_dump(), small_collection(config, root))
    collection = config.collection.model_validate(part)
    return config.model_copy(update={"work": str(root), "collection": collection})


def made_run(collection: Collection, language: str, split: str, docids: list[str]) -> Iterator[str]:
    """Lines of a run that nobody made: passages by chance, in falling order."""
    for query in collection.queries(language, split):
        random = distributed.generator("rehearsal", language, split, query.qid)
        order = random.permutation(len(docids))[:DEPTH]
        for rank, place in enumerate(order, 1):
            yield f"{query.qid} Q0 {docids[place]} {rank} {1 / rank:.6f} rehearsal\n"


def made_since(config: Config, began: float) -> Iterator[str]:
    """The stages of the steps that a configuration's log has since then, in its order."""
    log = Journal(config.folder).log_file
    if not log.is_file():
        return
    for line in log.read_text("utf-8").splitlines():
        entry = json.loads(line)
        at = time.mktime(time.strptime(entry["time"], "%Y-%m-%dT%H:%M:%S"))
        if at >= int(began):
            yield entry["stage"]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="a configuration in small")
    parser.add_argument("config", help="a YAML file, for example configs/miracl.yaml")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings over the file's")
    parser.add_argument("--path", action="store_true", help="where the small configuration is")
    parser.add_argument("--report", type=int, metavar="STATUS", help="what was tried, at its end")
    options = parser.parse_intermixed_args()
    rehearsal = Rehearsal(options.config, options.settings)
    if options.path:
        print(rehearsal.small_path)
    elif options.report is not None:
        say("\n".join(rehearsal.report(options.report)))
    else:
        rehearsal.prepare()


if __name__ == "__main__":
    exit_with_message(main)
