"""The retrieval stage: passages, indexes and vectors, runs of each source, the hybrid, a report.

python -m retrieval.search CONFIG [key=value …] [--shard I/N]
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core import distributed
from core.artefacts import PassageStore, RankedRun
from core.building import Journal, build, shared_work
from core.config import from_arguments, with_data
from core.console import say
from core.errors import InputError, exit_with_message
from core.files import finished_file, write_json
from core.fusion import PRESETS
from core.jobs import run_plan
from core.judgments import split_judgments
from core.records import Run
from core.runs import StoredRun, write_rankings
from core.settings import Config
from core.steps import Files, Plan, Step
from core.task import Task, once
from retrieval import dense, hybrid, jvm, retrievers
from retrieval.ceiling import METRICS, Ceiling, ceiling
from retrieval.encoders import encoders


@once
def plan(task: Task) -> Plan:
    """All steps of the stage.

    Each retriever of RETRIEVERS adds its own, the encoders that are trained may mine from them, and
    the dense source may stand on one of those; the hybrid stands on all sources. Raises InputError
    for settings of the stage that contradict each other.
    """
    check(task)
    steps = task.new_plan("retrieval")
    steps.update(retrievers.sources_plan(task))
    encoders.add_encoders(task, steps)
    if retrievers.trained_encoder(task) and "dense" in task.config.retrieval.sources:
        steps.update(retrievers.trained_plan(task))
    add_hybrid(task, steps)
    return steps


def check(task: Task) -> None:
    """Settings that would be void, or fail after everything else is made."""
    encoders.check_names(task)
    settings = task.config.retrieval
    given = given_weights(task)
    if given is None:
        hybrid.choices(settings.sources, PRESETS[settings.hybrid.preset])
    elif set(given) != set(settings.sources):
        raise InputError(
            f"retrieval.hybrid: weights are given for {sorted(given)}, "
            f"the sources are {sorted(settings.sources)}"
        )
    elif settings.hybrid.shrink:
        raise InputError(
            "retrieval.hybrid.shrink: weights by language are fitted on dev, expected "
            "retrieval.hybrid.weights=tuned and a preset without weights of its own"
        )


def add_hybrid(task: Task, steps: Plan) -> None:
    """The weights, from dev of the weighing languages, and the fused runs."""
    settings = task.config.retrieval
    preset = PRESETS[settings.hybrid.preset]
    fusing = {
        "normalise": preset.normalise,
        "missing": preset.missing,
        "sources": settings.sources,
    }
    weights = add_hybrid_weights(task, steps, fusing)

    def build(folder: Path, language: str, split: str) -> None:
        runs: dict[str, StoredRun] = {}
        for source in settings.sources:
            runs[source] = task.stored_run(source, language, split)
        chosen = hybrid_weights(task, language)
        rankings = hybrid.fused(runs, chosen, preset, settings.depth)
        write_rankings(folder / "run.trec", rankings, "hybrid")

    version = 2 if preset.normalise == "zscore" else 1  # each query for itself since 2
    for language, split in task.pairs():
        inputs = [weights]
        for source in settings.sources:
            inputs.append(task.step(RankedRun(source, language, split)))
        retrievers.add_run(
            task, steps, "hybrid", language, split, fusing, inputs, build, version=version
        )


def add_hybrid_weights(task: Task, steps: Plan, fusing: dict) -> Step:
    """The step that chooses the weights, on the sources' dev runs and their judgments."""
    settings = task.config.retrieval
    dev = task.config.splits.dev
    preset = PRESETS[settings.hybrid.preset]
    chosen_by: dict[str, Any] = {"weights": preset.weights or settings.hybrid.weights}
    if settings.hybrid.shrink:
        chosen_by["shrink"] = settings.hybrid.shrink
    if preset.alpha:
        chosen_by["alpha"] = True

    inputs: list[Step | Files] = []
    for language in task.weighing_languages():
        for source in settings.sources:
            inputs.append(task.step(RankedRun(source, language, dev)))
        inputs.append(task.qrels_input(language, dev))
    return steps.add(
        "hybrid-weights",
        version=1,
        settings={**fusing, **chosen_by},
        inputs=inputs,
        build=lambda folder: write_json(folder / "weights.json", choose_weights(task)),
        seconds=20,
    )


def given_weights(task: Task) -> dict[str, float] | None:
    """The preset's weights or those of the configuration; None where dev chooses them."""
    settings = task.config.retrieval
    weights = PRESETS[settings.hybrid.preset].weights or settings.hybrid.weights
    if weights == "tuned":
        return None
    if weights == "equal":
        return {source: 1 / len(settings.sources) for source in settings.sources}
    assert isinstance(weights, dict)
    return weights


def choose_weights(task: Task) -> dict:
    """``weights`` by source, how they were ``chosen``, and with shrinking those ``by_language``.

    Raises InputError where dev is to choose and there is none.
    """
    given = given_weights(task)
    if given is not None:
        return {"weights": given, "chosen": "fixed"}
    settings = task.config.retrieval
    dev = task.config.splits.dev
    languages = task.weighing_languages()
    if not languages:
        raise InputError(
            f"retrieval.hybrid.weights=tuned needs a {dev} split with judgments; "
            "set weights, for example retrieval.hybrid.weights=equal"
        )

    runs: dict[str, dict[str, Run]] = {}
    for source in settings.sources:
        runs[source] = {language: task.run(source, language, dev) for language in languages}
    qrels = {language: task.checked_judgments(language, dev) for language in languages}
    preset = PRESETS[settings.hybrid.preset]
    weights, mean = hybrid.tune(runs, qrels, preset)
    say(f"hybrid weights on {dev}: {weights}, mean nDCG@10 {mean:.4f}")
    chosen: dict[str, Any] = {
        "weights": weights,
        "chosen": f"nDCG@10 {mean:.4f} on {dev} of {', '.join(languages)}",
    }
    shrink = settings.hybrid.shrink
    if shrink:
        chosen["by_language"] = hybrid.tune_languages(runs, qrels, preset, weights, shrink)
    return chosen


def hybrid_weights(task: Task, language: str) -> dict[str, float]:
    """The language's own weights if there are any, otherwise the global ones."""
    file = plan(task)["hybrid-weights"].path / "weights.json"
    chosen = json.loads(file.read_text())
    return chosen.get("by_language", {}).get(language, chosen["weights"])


def encode_shards(configs: Sequence[Config], shard: tuple[int, int]) -> None:
    """One shard of all vectors that are not made yet, of every configuration with a dense source.

    An ordinary run makes what is missing. Raises InputError where no configuration has a dense
    source.
    """
    with_vectors = [config for config in configs if "dense" in config.retrieval.sources]
    if not with_vectors:
        raise InputError("--shard: retrieval.sources holds no dense source")
    distributed.take_gpu(shard[0])
    for config in with_vectors:
        encode_shard(config, shard)


def encode_shard(config: Config, shard: tuple[int, int]) -> None:
    """One shard of every language's vectors that are not made yet, and the passages before it.

    Several processes may do this at once: the first at a language's passages makes them, the
    others wait for it.
    """
    task = Task(config)
    steps = plan(task)
    journal = Journal(config.folder)
    for language in task.languages:
        store = task.step(PassageStore(language))
        vectors = steps[f"vectors/{language}"]
        why = journal.why(store)
        journal.record([store], some=True)
        if not store.done:
            build(store, why, journal)
        if vectors.work is None:  # a prebuilt index's
            continue
        with shared_work(vectors, config.folder) as part:
            if part is not None:
                encoder = retrievers.encoder_of(task)
                dense.encode_corpus(encoder, task.passages(language), part, language, shard)


def parse_shard(text: str) -> tuple[int, int]:
    """(2, 8) of ``3/8``, the third of eight; raises InputError for anything else."""
    number, _, count = text.partition("/")
    is_shard = re.fullmatch("[0-9]{1,9}/[0-9]{1,9}", text)
    if not is_shard or not 1 <= int(number) <= int(count) or int(count) == 1:
        raise InputError(
            f"--shard: found {text!r}, expected NUMBER/COUNT, for example 3/8, "
            "with a count of at least 2"
        )
    return int(number) - 1, int(count)


def report(task: Task) -> None:
    """What the stage lets through, by judged language and split.

    Figures go into retrieval.tsv, what is lost into ceiling.json, and a summary by split is said.
    """
    ceilings: dict[str, dict[str, Ceiling]] = {}  # split -> language -> what is let through
    rows: list[Sequence] = [("language", "split", "system", "queries", *METRICS)]
    systems = task.config.retrieval.systems
    for language, split in task.pairs():
        if (language, split) not in task.collection.qrels:
            continue
        qrels = split_judgments(task, language, split)
        task.collection.check_judged(language, split, qrels, task.passages(language))
        runs = {system: task.stored_run(system, language, split) for system in systems}
        own = ceiling(runs, qrels, task.config.candidates)
        ceilings.setdefault(split, {})[language] = own
        for system, figures in own.figures.items():
            values = [f"{figures[metric]:.4f}" for metric in METRICS]
            rows.append((language, split, system, len(qrels), *values))

    with finished_file(task.config.folder / "retrieval.tsv") as file:
        for row in rows:
            file.write("\t".join(map(str, row)) + "\n")
    notes: dict[str, dict] = {}
    for split, by_language in ceilings.items():
        notes[split] = {language: own.note for language, own in by_language.items()}
    write_json(task.config.folder / "ceiling.json", notes)

    say("\nR@200 of the hybrid")
    for split, by_language in ceilings.items():
        say_ceilings(task, split, by_language)


def say_ceilings(task: Task, split: str, ceilings: dict[str, Ceiling]) -> None:
    """Two lines on a split: recall by language, and what is lost over all of them."""
    recalls = []
    for language, own in ceilings.items():
        recall = own.figures["hybrid"]["R@200"]
        recalls.append(f"{language} {recall:.4f}")
    say(f"  {split}: " + "  ".join(recalls))
    losses = []
    for source in task.config.retrieval.sources:
        count = sum(own.lost[source] for own in ceilings.values())
        losses.append(f"{count} that {source} had")
    relevant = sum(own.relevant for own in ceilings.values())
    unanswered = sum(len(own.unanswered) for own in ceilings.values())
    say(
        f"    of {relevant} relevant passages the hybrid loses {', '.join(losses)} "
        f"among {task.config.candidates}; "
        f"{unanswered} queries have no relevant passage in any source"
    )


def say_shallow(task: Task) -> None:
    """Tells if the runs are not as deep as the candidates that later stages ask for."""
    depth, candidates = task.config.retrieval.depth, task.config.candidates
    if depth < candidates:
        say(
            f"  note: candidates={candidates}, but runs hold retrieval.depth={depth} passages "
            "a query; there will be no more candidates"
        )


def run(config: Config) -> None:
    """Builds what is not done, and reports."""
    task = Task(config)
    plan(task)  # wrong settings are told before anything else
    say_shallow(task)
    encoders.make_data(task)
    run_plan(plan, task)
    report(task)


def main() -> None:
    """The command line."""

    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--shard", metavar="I/N", help="only encode this part of the passages")

    config, options = from_arguments("collection to runs of depth 1000", add_options)
    configs = with_data(config)
    if options.shard is not None:
        encode_shards(configs, parse_shard(options.shard))
        return
    reserve_heaps(configs)
    for part in configs:
        run(part)


def reserve_heaps(configs: Sequence[Config]) -> None:
    """Lets Java start with the largest heap that one of the configurations will ask for."""
    for config in configs:
        if "bm25" in config.retrieval.sources:
            jvm.reserve(config.retrieval.bm25.heap)


if __name__ == "__main__":
    exit_with_message(main)
