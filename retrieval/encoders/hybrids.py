"""BM25 tuned on dev, and encoders fused with it: further systems of a comparison.

mhfn-2022, 4.2, after Zhang et al. 2021 (Mr. TyDi): k1 and b by language, and
s_sparse + alpha s_dense of normalised scores, alpha by language; both choose by MRR@100 on dev.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from core.artefacts import RankedRun, TrainedEncoder
from core.console import say
from core.errors import InputError
from core.evaluate import relevant
from core.files import write_json
from core.fusion import PRESETS, align, normalised, weighted_sum
from core.records import Qrels, Run
from core.runs import StoredRun, write_rankings
from core.steps import Files, Plan, Step
from core.task import Task
from retrieval import hybrid, retrievers, tune

TUNED = "bm25-tuned"
PRESET = "sparse-dense"
METRIC = "RR@100"
DEPTH = 100


def name_of(encoder: str) -> str:
    """The system that an encoder's hybrid is."""
    return f"{encoder}-hybrid"


def add(
    task: Task, source: Task, encoders: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> None:
    """Plans the tuned BM25 and the hybrids of some encoders of ``task``, for (language, split).

    ``source``: of the collection that is searched. Raises InputError where BM25 is no source of it,
    or an encoder has the name of one of these systems.
    """
    if "bm25" not in source.config.retrieval.sources:
        raise InputError(
            f"{source.config.name}: hybrids are fused with BM25, which is not among "
            "retrieval.sources; add it, or leave out the condition's hybrids"
        )
    taken = [TUNED, *map(name_of, encoders)]
    for name in taken:
        if name in task.config.retrieval.encoders:
            raise InputError(
                f"retrieval.encoders: {name!r} is what a condition's hybrids call a system of "
                "their own; give the encoder another name"
            )
    dev = source.config.splits.dev
    languages = list(dict.fromkeys(language for language, _ in pairs))
    asked = list(dict.fromkeys([*((language, dev) for language in languages), *pairs]))
    plan = source.new_plan("retrieval")
    for language in languages:
        if RankedRun(TUNED, language, dev) not in source.published:
            own = [pair for pair in asked if pair[0] == language]
            add_tuned(source, plan, language, own)
    for name in encoders:
        trained = task.step(TrainedEncoder(name))
        retrievers.add_encoder_runs(source, plan, name, trained, asked)
        for language in languages:
            if RankedRun(name_of(name), language, dev) not in source.published:
                add_hybrid(source, plan, name, language, [p for p in asked if p[0] == language])


# ---- BM25


def add_tuned(source: Task, plan: Plan, language: str, pairs: Sequence[tuple[str, str]]) -> None:
    """The step that tunes a language's BM25 on dev, and its runs."""
    dev = source.config.splits.dev
    index = retrievers.sources_plan(source)[f"bm25-index/{language}"]
    default = retrievers.bm25_parameters(source, language)
    tuning = plan.add(
        f"bm25-tuning/{language}",
        version=1,
        settings={"k1": list(tune.K1), "b": list(tune.B), "metric": METRIC, "default": default},
        inputs=[index, source.topics_input(language, dev), *dev_judgments(source, language)],
        build=lambda folder: write_json(folder / "point.json", tuned_point(source, language)),
        seconds=10,
    )

    def build(folder: Path, language: str, split: str) -> None:
        point = json.loads((tuning.path / "point.json").read_text("utf-8"))
        own = (point["k1"], point["b"])
        retrievers.write_bm25_run(source, index, language, split, folder, own)

    for language_of_pair, split in pairs:
        retrievers.add_run(source, plan, TUNED, language_of_pair, split, {}, [tuning, index], build)


def dev_judgments(source: Task, language: str) -> list[Step | Files]:
    """Of a language that has some."""
    dev = source.config.splits.dev
    has_some = (language, dev) in source.collection.qrels
    return [source.qrels_input(language, dev)] if has_some else []


def tuned_point(source: Task, language: str) -> dict[str, float]:
    """The best k1 and b on dev; the configuration's without judgments of dev, which is said."""
    k1, b = retrievers.bm25_parameters(source, language)
    if dev_judgments(source, language):
        values = tune.grid_values(source, language, source.config.splits.dev, METRIC)
        k1, b = tune.best(values, list(values[k1, b]), (k1, b))
    else:
        say(f"  note: {language} has no judged dev queries, so its BM25 stays as it is")
    return {"k1": k1, "b": b}


# ---- Fusion


def add_hybrid(
    source: Task, plan: Plan, encoder: str, language: str, pairs: Sequence[tuple[str, str]]
) -> None:
    """The step that chooses a language's alpha on dev, and the fused runs."""
    dev = source.config.splits.dev
    preset = PRESETS[PRESET]
    fusing = {"normalise": preset.normalise, "missing": preset.missing}
    systems = (TUNED, encoder)
    weighing = plan.add(
        f"{name_of(encoder)}-alpha/{language}",
        version=1,
        settings={**fusing, "alphas": list(hybrid.ALPHAS), "metric": METRIC},
        inputs=[
            *(source.step(RankedRun(system, language, dev)) for system in systems),
            *dev_judgments(source, language),
        ],
        build=lambda folder: write_json(
            folder / "alpha.json", {"alpha": chosen_alpha(source, encoder, language)}
        ),
        seconds=5,
    )

    def build(folder: Path, language: str, split: str) -> None:
        runs: dict[str, StoredRun] = {}
        for system in systems:
            runs[system] = source.stored_run(system, language, split)
        alpha = json.loads((weighing.path / "alpha.json").read_text("utf-8"))["alpha"]
        weights = {TUNED: 1.0, encoder: alpha}
        depth = source.config.retrieval.depth
        write_rankings(
            folder / "run.trec", hybrid.fused(runs, weights, preset, depth), name_of(encoder)
        )

    for language_of_pair, split in pairs:
        inputs: list[Step | Files] = [weighing]
        for system in systems:
            inputs.append(source.step(RankedRun(system, language_of_pair, split)))
        retrievers.add_run(
            source, plan, name_of(encoder), language_of_pair, split, fusing, inputs, build
        )


def chosen_alpha(source: Task, encoder: str, language: str) -> float:
    """A language's alpha by its dev queries; 1 without judgments of dev, which is said."""
    dev = source.config.splits.dev
    if not dev_judgments(source, language):
        say(f"  note: {language} has no judged dev queries, so alpha is 1")
        return 1.0
    qrels = source.judgments(language, dev)
    runs: dict[str, Run] = {}
    for system in (TUNED, encoder):
        runs[system] = source.run(system, language, dev)
    return best_alpha(runs, qrels)


def best_alpha(runs: Mapping[str, Run], qrels: Qrels) -> float:
    """The weight of the second run beside 1 of the first with the best MRR@100; first of equals."""
    preset = PRESETS[PRESET]
    aligned = align(runs, list(qrels))
    scores = normalised(aligned.scores, preset.normalise)
    judged = relevant(aligned, qrels)
    is_relevant = np.zeros(aligned.present.shape, bool)
    is_relevant[judged.query, judged.place] = True
    best, best_mean = hybrid.ALPHAS[0], -1.0
    for alpha in hybrid.ALPHAS:
        fused = weighted_sum(scores, [1.0, alpha], preset.missing)
        values = reciprocal_ranks(np.where(aligned.present, fused, -np.inf), is_relevant)
        if values.mean() > best_mean + 1e-12:
            best, best_mean = alpha, float(values.mean())
    return best


def reciprocal_ranks(scores: np.ndarray, is_relevant: np.ndarray) -> np.ndarray:
    """1 / the rank of the first relevant passage, 0 below DEPTH: of [query, passage] each.

    Equal scores keep the order of the passages.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    in_order = np.take_along_axis(is_relevant, order, axis=1)
    first = in_order.argmax(axis=1)
    return np.where(in_order.any(axis=1), 1 / (first + 1), 0.0)
