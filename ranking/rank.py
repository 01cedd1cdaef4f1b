"""The ranking stage: vocabularies, cross-encoders, reranked runs.

python -m ranking.rank CONFIG [key=value …]          one process
torchrun --nproc-per-node N -m ranking.rank CONFIG   N processes (or DeepSpeed's launcher)
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from core import backbones, distributed
from core.artefacts import RankedRun, TrainedRanker
from core.building import run_steps
from core.config import from_arguments
from core.console import say
from core.errors import InputError, exit_with_message
from core.passages import document_text
from core.records import Run
from core.runs import top_k, write_run
from core.settings import Config, Ranker
from core.steps import Plan, Step
from core.task import Task, once
from data_aug import build as groups
from ranking import gates, rankers, trainings
from ranking.rankers import at_home, depth, dev_languages, origin, own_depth, task_of, texts_of
from ranking.rerank import candidate_pairs, reranked, score_pairs
from retrieval import search

TOKEN_LAYERS = (
    24000  # tokens x layers a second that two cores score; training takes three times as long
)


@once
def plan(task: Task) -> Plan:
    steps, r = task.new_plan("ranking"), task.config.ranking
    for name in r.trainings:
        if name in (*task.config.retrieval.systems, "ensemble", "ensemble-rankers", "stacking") or (
            name in r.chain and name in r.rankers
        ):
            raise InputError(
                f"ranking: a ranker cannot be named {name!r}, that is another system's name"
            )
        add_training(task, steps, name)
    for name in in_order(r.rankers):
        add_runs(task, steps, name)
    return steps


def in_order(known: dict[str, Ranker]) -> list[str]:
    """Rankers, those of a cascade behind the one that they come after."""
    found: list[str] = []
    while left := [n for n in known if n not in found]:
        ready = [n for n in left if known[n].after in (None, *found)]
        if not ready:
            raise InputError(
                f"ranking: {', '.join(left)} come after each other in a ring; the first ranker of a cascade has no 'after'"
            )
        found += ready
    return found


def add_training(task: Task, steps: Plan, name: str) -> Step:
    """After those that it starts from and learns from."""
    if f"ranker/{name}" in steps:
        return steps[f"ranker/{name}"]
    rankers.check(task, name)
    r, known = task.config.ranking.trainings[name], task.config.ranking.trainings
    source = task_of(task, r)
    if r.start is None:
        body = {"weights": backbones.fingerprint(r.backbone, task.config.models)}
    else:
        body = (
            {}
            if r.start in known
            else {"weights": backbones.fingerprint(r.start, task.config.models)}
        )
    inputs = [
        groups.plan(source)[f"groups/{r.recipe}"],
        task.file_input("deepspeed", Path(r.deepspeed)),
        *(
            x
            for la in dev_languages(source, r)
            for x in (
                search.plan(source)[f"hybrid/{la}-{source.config.splits.dev}"],
                source.qrels_input(la, source.config.splits.dev),
            )
        ),
    ]
    if r.start is None and r.prune_vocabulary:
        inputs.append(add_vocabulary(task, steps, r.backbone, body))
    inputs += [add_training(task, steps, other) for other in (r.start, r.teacher) if other in known]
    seconds = (
        r.steps
        * r.batch_size
        * r.accumulation
        * pair_seconds(task, name)
        * 3
        * (2 if r.fgm.epsilon else 1)
    )
    return steps.add(
        TrainedRanker(name),
        1,
        {**r.recipe_settings, **body},
        inputs,
        lambda folder: trainings.train(task, name, steps, folder),
        resumes=True,
        seconds=seconds,
        disk=5e8,
        memory=3e9,
    )


def pair_seconds(task: Task, name: str) -> float:
    return (
        (origin(task, name).layers or 12)
        * task.config.ranking.trainings[name].max_length
        * 0.8
        / TOKEN_LAYERS
    )


def add_runs(task: Task, steps: Plan, name: str) -> None:
    """A ranker's run of every language, dev and test; with int8 the quantised model before them, and what a cascade loses after them."""
    c, r, trained = task.config, task.config.ranking.rankers[name], steps[f"ranker/{name}"]
    backend, made = c.ranking.rerank.backend, [trained]
    judged = {"queries": c.ranking.rerank.dev_queries, "depth": depth(task)}
    if backend == "int8":
        made.append(
            steps.add(
                f"int8/{name}",
                1,
                {"tolerance": c.ranking.rerank.tolerance, **judged},
                [trained, *judged_dev(task, r)],
                lambda folder: gates.int8(task, name, trained, folder),
                seconds=60
                + 10 * c.ranking.rerank.dev_queries * depth(task) * pair_seconds(task, name),
            )
        )
    scorer = cache(
        lambda: rankers.load(task, name, trained, backend, made[-1].path if len(made) > 1 else None)
    )  # once for all its runs
    below = {"after": r.after} if r.after else {}
    settings = {
        "depth": own_depth(task, r),
        **below,
        **({"backend": backend} if backend != "torch" else {}),
    }
    version = (
        2 if (backend, r.precision) == ("openvino", "bf16") else 1
    )  # in bf16 with OpenVINO, too, since 2
    for la, split in task.pairs(c.splits.dev, c.splits.test):
        pairs = len(task.queries(la, split)) * own_depth(task, r)
        inputs = [
            *made,
            search.plan(task)[f"hybrid/{la}-{split}"],
            *([steps[f"{r.after}/{la}-{split}"]] if r.after else []),
        ]
        steps.add(
            RankedRun(name, la, split),
            version,
            settings,
            inputs,
            lambda folder, la=la, split=split: build_run(
                task, steps, scorer(), name, la, split, folder
            ),
            seconds=pairs * pair_seconds(task, name),
        )
    if own_depth(task, r) < depth(task) or r.after:
        runs = {la: steps[f"{name}/{la}-{c.splits.dev}"] for la in dev_languages(task, at_home(r))}
        steps.add(
            f"cascade/{name}",
            1,
            judged,
            [*runs.values(), *judged_dev(task, r)],
            lambda folder: gates.cascade(task, name, scorer(), trained, runs, folder),
            seconds=len(runs)
            * c.ranking.rerank.dev_queries
            * depth(task)
            * pair_seconds(task, name),
        )


def judged_dev(task: Task, ranker: Ranker) -> list:
    dev = task.config.splits.dev
    return [
        x
        for la in dev_languages(task, at_home(ranker))
        for x in (search.plan(task)[f"hybrid/{la}-{dev}"], task.qrels_input(la, dev))
    ]


def tasks(task: Task) -> list[Task]:
    """This configuration's and those that its trainings take data from."""
    return list(
        dict.fromkeys([task, *(task_of(task, r) for r in task.config.ranking.trainings.values())])
    )


def add_vocabulary(task: Task, steps: Plan, backbone: str, body: dict):
    """The pieces that all passages and queries in use need, also those of collections that a chain learns from; once for all rankers of
    a backbone."""
    inputs = [
        x
        for t in tasks(task)
        for x in (
            *(search.plan(t)[f"passages/{la}"] for la in t.languages),
            *(t.topics_input(la, s) for la, s in t.pairs()),
        )
    ]
    return steps.get(f"vocabulary/{backbone}") or steps.add(
        f"vocabulary/{backbone}",
        1,
        body,
        inputs,
        lambda folder: build_vocabulary(task, backbone, folder),
        seconds=20,
    )


def build_vocabulary(task: Task, backbone: str, folder: Path) -> None:
    where = backbones.source(backbone, task.config.models)
    tokenizer = backbones.load_tokenizer(where)

    def stream():
        for t in tasks(task):
            yield from (q.text for la, s in t.pairs() for q in t.queries(la, s))
            for la in t.languages:
                yield from map(document_text, t.passages(la).documents())

    keep = backbones.used_pieces(tokenizer, stream())
    if distributed.rank() == 0:
        backbones.prune_tokenizer(Path(where), keep, folder)
        (folder / "keep.json").write_text(json.dumps(keep))
    say(f"  vocabulary: {len(keep)} of {len(tokenizer)} pieces are in use")


def candidates(task: Task, steps: Plan, ranker: Ranker, language: str, split: str) -> Run:
    """The hybrid's best, or in a cascade those of the ranker before."""
    before = (
        steps[f"{ranker.after}/{language}-{split}"]
        if ranker.after
        else search.plan(task)[f"hybrid/{language}-{split}"]
    )
    return {
        qid: top_k(scores, task.config.candidates) for qid, scores in search.run_of(before).items()
    }


def build_run(
    task: Task, steps: Plan, scorer, name: str, language: str, split: str, folder: Path
) -> None:
    r = task.config.ranking.rankers[name]
    run = candidates(task, steps, r, language, split)
    pairs = candidate_pairs(run, own_depth(task, r))
    scores = score_pairs(
        scorer,
        rankers.scores_of(task, steps[f"ranker/{name}"], scorer),
        pairs,
        texts_of(task, language, split),
        f"{name} {language}-{split}",
    )
    if distributed.rank() == 0:
        write_run(folder / "run.trec", reranked(run, pairs, scores), name)


def report(task: Task) -> None:
    steps = plan(task)
    for name in task.config.ranking.trainings:
        state = json.loads((steps[f"ranker/{name}"].path / "training.json").read_text())
        say(
            f"{rankers.note_chain(task, name)}: dev nDCG@10 "
            + ", ".join(
                f"{found:.4f} at {step}" for step, found in state["history"] if found is not None
            )
            + (
                f" (first stage {state['first_stage']:.4f}, before training {state['base']:.4f})"
                if "base" in state
                else ""
            )
        )
    for name, way, note in costs(task):
        say(
            f"  {name}, {way}: nDCG@10 {note['own']:.4f} on {note['queries']} dev queries, {note['own'] - note['whole']:+.4f}"
        )


def costs(task: Task) -> Iterator[tuple[str, str, dict]]:
    """(ranker, cheaper way of scoring, what ``ranking.gates`` noted of it)."""
    steps = plan(task)
    for name in task.config.ranking.rankers:
        for gate in (g for g in ("cascade", "int8") if f"{g}/{name}" in steps):
            note = json.loads((steps[f"{gate}/{name}"].path / f"{gate}.json").read_text())
            yield (
                name,
                f"{note['depth']} best of {note['after']} instead of {note['block']}"
                if gate == "cascade"
                else "int8 instead of fp32",
                note,
            )


def run(config: Config) -> None:
    task = Task(config)
    if distributed.world_size() > 1:
        from ranking import engine

        engine.start()
    run_steps(plan(task).values(), config.folder)
    if distributed.rank() == 0:
        report(task)


def main() -> None:
    run(from_arguments("groups and candidates to reranked runs")[0])


if __name__ == "__main__":
    exit_with_message(main)
