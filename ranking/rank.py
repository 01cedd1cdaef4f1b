"""The ranking stage: vocabularies, cross-encoders, reranked runs.

python -m ranking.rank CONFIG [key=value …]    one process
PROCESSES=N ranking/run.sh CONFIG              N processes, by accelerate; any launcher will do
"""

import json
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from core import backbones, cluster, distributed, embedded_ranker, machine
from core.artefacts import ENSEMBLES, PassageStore, RankedRun, TrainedRanker, TrainingGroups
from core.building import run_steps
from core.config import from_arguments
from core.console import say
from core.errors import InputError, exit_with_message
from core.machine import core_seconds, format_factor, model_seconds
from core.passages import document_text
from core.runs import write_run
from core.settings import Config, Ranker
from core.steps import Files, Plan, Step, needed
from core.task import Task, once
from data_aug import build as data_aug
from ranking import first_stage, gates, given, pace, rankers, segments, teachers, trainings
from ranking.rankers import depth, dev_languages, own_depth, task_of
from ranking.rerank import (
    Scorer,
    candidate_pairs,
    reranked,
    score_pairs,
    with_first_stage,
)
from retrieval import search
from training import engine

TOKENS = 2000  # that two cores score a second with the embedded model, in fp32
BACKWARD = 3  # times as long a pass of training takes

# Runs of (back end, precision) that changed: logits are in fp32 since 2, with OpenVINO since 3
# (2: in bf16 at all)
RUN_VERSIONS = {("torch", "bf16"): 2, ("torch", "fp16"): 2, ("openvino", "bf16"): 3}
# Of trainings: the head's last product is in fp32 since 2
TRAINING_VERSIONS = {"bf16": 2, "fp16": 2}


# ---- The plan


@once
def plan(task: Task) -> Plan:
    """Vocabularies, rankers in the order of their chain, runs in the order of their cascades.

    Raises InputError for settings of rankers that contradict each other or name nothing.
    """
    for source in tasks(task):
        search.plan(source)
        data_aug.plan(source)
    ranking = task.config.ranking
    steps = task.new_plan("ranking")
    depth(task)  # a wrong one is an error
    for name in ranking.trainings:
        check_name_is_free(task, name)
        add_ranker(task, steps, name)
    for name in in_order(ranking.rankers):
        add_runs(task, steps, name)
    return steps


def tasks(task: Task) -> list[Task]:
    """This configuration's and those that its trainings take data from."""
    sources = [task_of(task, ranker) for ranker in task.config.ranking.trained.values()]
    return list(dict.fromkeys([task, *sources]))


def check_name_is_free(task: Task, name: str) -> None:
    """Raises InputError for a ranker with the name of another system or step of the chain.

    The embedded ranker's name is its own: start and model know it by that.
    """
    ranking = task.config.ranking
    if name == embedded_ranker.NAME:
        raise InputError(
            f"ranking: a ranker cannot be named {name!r}, that is the ranker that comes with "
            f"Continuum; give it another name (its model or start may be {name})"
        )
    is_system = name in (*task.config.retrieval.systems, *ENSEMBLES)
    if is_system or (name in ranking.chain and name in ranking.rankers):
        raise InputError(
            f"ranking: a ranker cannot be named {name!r}, that is another system's name"
        )


def in_order(known: dict[str, Ranker]) -> list[str]:
    """The names of rankers, those of a cascade behind the one that they come after.

    Raises InputError for a cascade in a ring.
    """
    order: list[str] = []
    while len(order) < len(known):
        left = [name for name in known if name not in order]
        ready = [name for name in left if known[name].after in (None, *order)]
        if not ready:
            raise InputError(
                f"ranking: {', '.join(left)} come after each other in a ring; "
                "the first ranker of a cascade has no 'after'"
            )
        order += ready
    return order


def add_ranker(task: Task, steps: Plan, name: str) -> Step:
    """The step of a ranker's model, behind those of the rankers that it is made of."""
    handle = TrainedRanker(name)
    if handle.step_name in steps:
        return steps[handle.step_name]
    rankers.check(task, name)
    if task.config.ranking.trainings[name].model is not None:
        return given.add_given(task, steps, name)
    teachers.check(task, name)
    return add_training(task, steps, name)


def add_training(task: Task, steps: Plan, name: str) -> Step:
    """A ranker's training; its inputs are its pairs, its dev queries and what it starts from."""
    known = task.config.ranking.trainings
    ranker = known[name]
    source = task_of(task, ranker)
    body = {}  # the weights that it starts from, unless those of another ranker
    if ranker.start not in known:
        weights = ranker.start or ranker.backbone
        body = {"weights": backbones.fingerprint(weights, task.config.models)}
    inputs: list[Step | Files] = [
        source.step(TrainingGroups(ranker.recipe)),
        task.file_input("deepspeed", Path(ranker.deepspeed)),
        *judged_dev(source, dev_languages(source, ranker)),
    ]
    if ranker.start is None and ranker.prune_vocabulary:
        inputs.append(add_vocabulary(task, steps, ranker.backbone, body))
    for other in (ranker.start, ranker.teacher):
        if other in known:
            inputs.append(add_ranker(task, steps, other))
    inputs += teachers.run_inputs(task, name)
    inputs += first_stage.run_inputs(task, ranker)
    settings = trainings.recipe(task, name)
    measured = pace.training(task, name)
    return steps.add(
        TrainedRanker(name),
        version=TRAINING_VERSIONS.get(settings["precision"], 1),
        settings={**settings, **body},
        inputs=inputs,
        build=lambda folder: trainings.train(task, name, steps, folder),
        resumes=True,
        seconds=training_seconds(task, name),
        disk=5e8,
        memory=measured.memory if measured else 3e9,
        gpu_memory=measured.gpu_memory if measured else 0.0,
    )


def judged_dev(task: Task, languages: Iterable[str]) -> list[Step | Files]:
    """The hybrid's runs of dev queries, and their judgments."""
    dev = task.config.splits.dev
    inputs: list[Step | Files] = []
    for language in languages:
        inputs.append(task.step(RankedRun("hybrid", language, dev)))
        inputs.append(task.qrels_input(language, dev))
    return inputs


def home_languages(task: Task, ranker: Ranker) -> list[str]:
    """Of the dev queries of this collection that judge a ranker, wherever it was trained."""
    return dev_languages(task, rankers.at_home(ranker))


def pair_seconds(task: Task, name: str) -> float:
    """What two cores take to score a pair."""
    first = rankers.origin(task, name)
    body = backbones.sized(first.start or first.model or first.backbone, first.layers)
    tokens = pace.FILLED * task.config.ranking.trainings[name].max_length
    return body.work * tokens / (TOKENS * format_factor(trainings.number_format(task, name)))


def training_seconds(task: Task, name: str) -> float:
    """What this machine takes for a ranker's training; an adversarial pass is a second one."""
    ranker = task.config.ranking.trainings[name]
    passes = 2 if ranker.fgm.epsilon else 1
    pairs = ranker.steps * ranker.batch_size * ranker.accumulation
    measured = pace.training(task, name)
    if measured:
        of_passes = passes * pairs * measured.seconds / max(1, machine.gpus())
        return of_passes + ranker.steps * measured.step_seconds
    return model_seconds(BACKWARD * passes * pairs * pair_seconds(task, name))


def scoring_seconds(task: Task, name: str, pairs: float) -> float:
    """What this machine takes to score ``pairs``; OpenVINO has no use for its GPUs."""
    measured = pace.scoring(task, name)
    if measured:
        return pairs * measured.seconds / max(1, machine.gpus())
    on_two_cores = pairs * pair_seconds(task, name)
    on_cpu = task.config.ranking.rerank.backend != "torch"
    return core_seconds(on_two_cores) if on_cpu else model_seconds(on_two_cores)


def add_vocabulary(task: Task, steps: Plan, backbone: str, body: dict) -> Step:
    """The pieces that all passages and queries in use need; once for all rankers of a backbone.

    Also those of collections that a chain learns from. ``body``: the backbone's weights.
    """
    name = f"vocabulary/{backbone}"
    if name in steps:
        return steps[name]
    inputs: list[Step | Files] = []
    for source in tasks(task):
        inputs += [source.step(PassageStore(la)) for la in source.languages]
        inputs += [source.topics_input(la, split) for la, split in source.pairs()]
    return steps.add(
        name,
        version=1,
        settings=body,
        inputs=inputs,
        build=lambda folder: build_vocabulary(task, backbone, folder),
        seconds=20,
    )


def add_runs(task: Task, steps: Plan, name: str) -> None:
    """A ranker's runs of all dev and test queries, and what stands around them.

    With int8 the quantised model comes first; what a cascade or a smaller depth loses is measured
    behind the runs.
    """
    ranker = task.config.ranking.rankers[name]
    backend = task.config.ranking.rerank.backend
    trained = steps[TrainedRanker(name).step_name]
    model_steps = [trained]
    compiled = None  # where a back end keeps what it made of the model
    if backend == "int8":
        quantised = add_int8(task, steps, name)
        model_steps.append(quantised)
        compiled = quantised.path

    @cache  # loaded once for all its runs
    def scorer() -> Scorer:
        return rankers.load(task, name, trained, backend, compiled)

    splits = task.config.splits
    for la, split in task.pairs(splits.dev, splits.test):
        add_run(task, steps, name, la, split, model_steps, scorer)
    if own_depth(task, ranker) < depth(task) or ranker.after:
        add_cascade(task, steps, name, scorer)


def add_run(
    task: Task,
    steps: Plan,
    name: str,
    language: str,
    split: str,
    model_steps: list[Step],
    scorer: Callable[[], Scorer],
) -> None:
    """One run.

    ``model_steps``: the ranker, and what a back end made of it; ``scorer`` loads them when the run
    is built.
    """
    ranker = task.config.ranking.rankers[name]
    backend = task.config.ranking.rerank.backend
    settings: dict = {"depth": own_depth(task, ranker)}
    inputs: list[Step | Files] = [
        *model_steps,
        task.step(RankedRun("hybrid", language, split)),
    ]
    if ranker.after:
        settings["after"] = ranker.after
        inputs.append(task.step(RankedRun(ranker.after, language, split)))
    if backend != "torch":  # younger than the first runs
        settings["backend"] = backend
    precision = model_steps[0].settings["precision"]
    pairs = len(task.queries(language, split)) * own_depth(task, ranker)
    measured = pace.scoring(task, name)
    steps.add(
        RankedRun(name, language, split),
        version=RUN_VERSIONS.get((backend, precision), 1),
        settings=settings,
        inputs=inputs,
        build=lambda folder: build_run(task, scorer, name, language, split, folder),
        work=lambda _part, number: segments.score(task, scorer(), name, language, split, number),
        seconds=scoring_seconds(task, name, pairs),
        memory=measured.memory if measured else 0.0,
        gpu_memory=measured.gpu_memory if measured else 0.0,
    )


def judging_settings(task: Task) -> dict:
    """What a cheaper way of scoring is judged by: queries a language, and the whole block."""
    return {"queries": task.config.ranking.rerank.dev_queries, "depth": depth(task)}


def add_int8(task: Task, steps: Plan, name: str) -> Step:
    """A ranker's quantised model, judged by dev queries."""
    ranker = task.config.ranking.rankers[name]
    rerank = task.config.ranking.rerank
    trained = steps[TrainedRanker(name).step_name]
    judged = judged_dev(task, home_languages(task, ranker))
    pairs = 10 * rerank.dev_queries * depth(task)
    quantising = core_seconds(60)
    return steps.add(
        f"int8/{name}",
        version=1,
        settings={"tolerance": rerank.tolerance, **judging_settings(task)},
        inputs=[trained, *judged],
        build=lambda folder: gates.int8(task, name, trained, folder),
        seconds=quantising + scoring_seconds(task, name, pairs),
    )


def add_cascade(task: Task, steps: Plan, name: str, scorer: Callable[[], Scorer]) -> None:
    """What a ranker's smaller depth, or the ranker before it, costs on dev queries."""
    ranker = task.config.ranking.rankers[name]
    dev = task.config.splits.dev
    trained = steps[TrainedRanker(name).step_name]
    languages = home_languages(task, ranker)
    runs = [task.step(RankedRun(name, language, dev)) for language in languages]
    pairs = len(languages) * task.config.ranking.rerank.dev_queries * depth(task)
    steps.add(
        f"cascade/{name}",
        version=1,
        settings=judging_settings(task),
        inputs=[*runs, *judged_dev(task, languages)],
        build=lambda folder: gates.cascade(task, name, scorer(), trained, folder),
        seconds=scoring_seconds(task, name, pairs),
    )


# ---- Building


def build_vocabulary(task: Task, backbone: str, folder: Path) -> None:
    """A tokenizer of the pieces in use alone, and ``keep.json``: their old numbers, ascending."""
    where = backbones.source(backbone, task.config.models)
    tokenizer = backbones.load_tokenizer(where)
    keep = backbones.used_pieces(tokenizer, texts_in_use(task))
    if distributed.rank() == 0:
        backbones.prune_tokenizer(Path(where), keep, folder)
        (folder / "keep.json").write_text(json.dumps(keep))
    say(f"  vocabulary: {len(keep)} of {len(tokenizer)} pieces are in use")


def texts_in_use(task: Task) -> Iterator[str]:
    """All queries and passages of this configuration and of those that it takes data from."""
    for source in tasks(task):
        for la, split in source.pairs():
            for query in source.queries(la, split):
                yield query.text
        for la in source.languages:
            for document in source.passages(la).documents():
                yield document_text(document)


def build_run(
    task: Task,
    scorer: Callable[[], Scorer],
    name: str,
    language: str,
    split: str,
    folder: Path,
) -> None:
    """Writes ``run.trec``: the scored block of each query, the other candidates under it.

    ``scorer`` loads the ranker, where this process scores.
    """
    ranker = task.config.ranking.rankers[name]
    run = rankers.candidates(task, ranker, language, split)
    pairs = candidate_pairs(run, own_depth(task, ranker))
    texts = rankers.texts_of(task, language, split)
    what = f"{name} {language}-{split}"
    trained = task.step(TrainedRanker(name))
    if cluster.leads(task.config):
        logits = segments.scores(task, name, pairs, texts, what)
    else:
        loaded = scorer()
        store = rankers.scores_of(task, trained, loaded)
        logits = score_pairs(loaded, store, pairs, texts, what)
    weight = rankers.first_stage_weight(trained)
    hybrid = run
    if weight and ranker.after:  # the candidates' scores are those of the ranker before
        hybrid = task.run("hybrid", language, split)
    scores = with_first_stage(weight, hybrid, pairs, logits)
    if distributed.rank() == 0:
        write_run(folder / "run.trec", reranked(run, pairs, scores), name)


# ---- What the user is told


def report(task: Task) -> None:
    """A line a ranker, and one for what each cheaper way of scoring costs."""
    steps = plan(task)
    for name, ranker in task.config.ranking.trainings.items():
        if ranker.model is not None:
            say(f"{name}: given, {ranker.model}")
            continue
        trained = steps[TrainedRanker(name).step_name]
        state = json.loads((trained.path / "training.json").read_text())
        say(f"{rankers.note_chain(task, name)}: dev nDCG@10 {measured(state)}")
    for name, way, note in costs(task):
        difference = note["own"] - note["whole"]
        say(
            f"  {name}, {way}: nDCG@10 {note['own']:.4f} on {note['queries']} dev queries, "
            f"{difference:+.4f}"
        )


def measured(state: dict) -> str:
    """The values of a training in the order of its steps, and those that it began from."""
    values = []
    for step, value in state["history"]:
        if value is not None:
            values.append(f"{value:.4f} at {step}")
    text = ", ".join(values)
    if "base" in state:
        first_stage, base = state["first_stage"], state["base"]
        text += f" (first stage {first_stage:.4f}, before training {base:.4f})"
    return text


def costs(task: Task) -> Iterator[tuple[str, str, dict]]:
    """(ranker, cheaper way of scoring, what ``ranking.gates`` noted of it)."""
    steps = plan(task)
    for name in task.config.ranking.rankers:
        for gate in ("cascade", "int8"):
            step = steps.get(f"{gate}/{name}")
            if step is None:
                continue
            note = json.loads((step.path / f"{gate}.json").read_text())
            way = "int8 instead of fp32"
            if gate == "cascade":
                way = f"{note['depth']} best of {note['after']} instead of {note['block']}"
            yield name, way, note


def run(config: Config) -> None:
    """Builds what is not done yet, with all processes of the launcher.

    With ``engine: ray`` several processes only train: a run in one process then lets the cluster
    score, which has the GPUs to itself.
    """
    task = Task(config)
    steps = plan(task)
    trainings.check_division(task)
    several = distributed.world_size() > 1
    only_train = several and config.engine == "ray"
    if several:
        engine.start()
    if only_train:
        trained = [task.step(TrainedRanker(name)) for name in config.ranking.trainings]
        own = [step for step in needed(trained) if step in steps.values()]
        run_steps(own, config.folder, some=True)
    else:
        run_steps(steps.values(), config.folder)
    if distributed.rank() == 0 and not only_train:
        report(task)
    if several:
        engine.stop()


def main() -> None:
    """The command line."""
    config, _ = from_arguments("groups and candidates to reranked runs")
    run(config)


if __name__ == "__main__":
    exit_with_message(main)
