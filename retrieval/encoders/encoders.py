"""Encoders as steps of the retrieval stage: what each starts from, its data, and its training."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import backbones, distributed
from core.artefacts import ENSEMBLES, PassageStore, RankedRun, TrainedEncoder
from core.building import run_steps
from core.config import nearest
from core.encoders import Encoder
from core.errors import InputError
from core.machine import model_seconds
from core.steps import Files, Plan, Step, needed
from core.task import Task, data_task
from retrieval import judges, retrievers, searching
from retrieval.encoders.negatives import NEGATIVES, SOURCES
from retrieval.encoders.negatives.mining import Mining, mine
from retrieval.encoders.negatives.translation import add_translations
from retrieval.endpoint import model_of
from training import engine
from training.order import per_process

if TYPE_CHECKING:
    from retrieval.encoder import Layout, Pretrained
    from retrieval.encoders.encoding import Encode
    from retrieval.encoders.learner import EncoderLearner
    from retrieval.encoders.material import Material
    from retrieval.encoders.negatives import Negatives
    from retrieval.encoders.pairs import Pairs

TEXT_SECONDS = 0.04  # that two cores take to encode a text of 60 tokens with the embedded model
JUDGED_SECONDS = 0.1  # that two cores take to score a pair of 160 tokens with the embedded ranker
ANSWER_SECONDS = 1.0  # that an endpoint takes for one request
BACKWARD = 3  # times as long a pass of training takes; with gradient caching one forward pass more


# ---- The plan


def add_encoders(task: Task, steps: Plan) -> None:
    """All encoders of the configuration, each behind those that it starts or mines from."""
    for name in task.config.retrieval.encoders:
        add_encoder(task, steps, name)


def add_encoder(task: Task, steps: Plan, name: str, seen: tuple[str, ...] = ()) -> Step:
    """The step of an encoder's training, with its negatives' before it.

    ``seen``: the encoders that led here. Raises InputError for a ring of them.
    """
    handle = TrainedEncoder(name)
    if handle.step_name in steps:
        return steps[handle.step_name]
    if name in seen:
        ring = [*seen[seen.index(name) :], name]
        raise InputError(
            f"retrieval.encoders: {' needs '.join(ring)}; by start, from_run.system, "
            "from_ensemble.systems, select.scores or a teacher; a chain has a beginning"
        )
    check(task, name)
    known = task.config.retrieval.encoders
    encoder = known[name]
    source = task_of(task, encoder)
    seen = (*seen, name)
    inputs: list[Step | Files] = [
        task.file_input("deepspeed", Path(encoder.deepspeed)),
        *data_inputs(source, encoder),
    ]
    body = {}  # the weights that it starts from, unless those of another encoder
    if encoder.start in known:
        inputs.append(add_encoder(task, steps, encoder.start, seen))
    else:
        weights = encoder.start or encoder.backbone
        body = {"weights": backbones.fingerprint(weights, task.config.models)}
    if encoder.teacher in known:
        inputs.append(add_encoder(task, steps, encoder.teacher, seen))
    elif encoder.teacher is not None:
        body["teacher"] = backbones.fingerprint(encoder.teacher, task.config.models)
    if encoder.batches == "topics" and encoder.topics.models:
        models = [Path(path) for path in encoder.topics.models]
        inputs.append(task.file_input("topics.models", *models))
    mining = None
    if encoder.negatives:
        mining = mining_of(task, steps, name, seen)
        if encoder.refreshes:  # the chain is a part of the training
            inputs += mining.inputs
            body |= judging_models(task, encoder)
        else:
            inputs.append(add_negatives(task, steps, mining))
    return steps.add(
        handle,
        version=1,
        settings={**recipe(encoder), **body},
        inputs=inputs,
        build=lambda folder: train(task, name, folder, mining),
        resumes=True,
        whole_machine=True,
        seconds=training_seconds(task, name),
        disk=2e9,
        memory=3e9,
    )


def recipe(encoder: Encoder) -> dict:
    """What decides an encoder's weights, with the number format that it is trained in here."""
    settings = encoder.recipe_settings
    if encoder.precision in ("auto", "half"):
        resolved = engine.precision(encoder.precision)
        if resolved != "fp32":
            settings["precision"] = resolved
    return settings


def data_inputs(source: Task, encoder: Encoder) -> list[Step | Files]:
    """Passages, queries and judgments that a training reads, also those of its dev."""
    train, dev = source.config.splits.train, source.config.splits.dev
    languages = training_languages(source, encoder)
    inputs: list[Step | Files] = []
    pairs = []
    if encoder.unlabelled:
        inputs += [source.step(PassageStore(language)) for language in languages]
    else:
        pairs += [(language, train) for language in languages]
    pairs += [(language, dev) for language in dev_languages(source, encoder)]
    for language, split in pairs:
        inputs.append(source.step(PassageStore(language)))
        inputs.append(source.topics_input(language, split))
        inputs.append(source.qrels_input(language, split))
    return list({source.name: source for source in inputs}.values())


def mining_of(task: Task, steps: Plan, name: str, seen: tuple[str, ...]) -> Mining:
    """What an encoder's chain of negatives asks, with the runs that it reads in the plan."""
    encoder = task.config.retrieval.encoders[name]
    source = task_of(task, encoder)
    runs: dict[tuple[str, str], Step] = {}
    for system in systems_read(encoder):
        runs |= add_runs_of(task, steps, name, system, seen)
    if "from_ensemble" in encoder.negatives:
        check_ensemble(name, encoder, runs)
    mining = Mining(name, encoder, source, training_languages(source, encoder), runs)
    if "share_languages" not in encoder.negatives:
        return mining
    plan = steps if source is task else source.new_plan("retrieval")
    return replace(mining, **parallel_inputs(mining, plan))


def parallel_inputs(mining: Mining, steps: Plan) -> dict[str, Any]:
    """What tells which queries and passages are parallel: fields of the mining.

    Raises InputError where it cannot be had.
    """
    source, languages = mining.task, mining.languages
    where = f"retrieval.encoders.{mining.name}.share_languages"
    if len(languages) < 2:
        raise InputError(
            f"{where}: found one language, {', '.join(languages)}, so nothing is shared; take "
            "share_languages out of negatives, or name more languages"
        )
    settings = mining.settings.share_languages
    if settings.parallel == "alignment":
        assert settings.queries and settings.passages, "check has seen to it"
        files = Path(settings.queries), Path(settings.passages)
        return {"alignment": source.file_input("alignment", *files)}
    if settings.parallel == "translation":
        found = add_translations(source, steps, mining.settings, languages, mining.runs)
        return {"translations": found}
    if settings.parallel == "neighbours":
        if "dense" not in source.config.retrieval.sources or retrievers.trained_encoder(source):
            raise InputError(
                f"{where}.parallel: neighbours are found by the vectors of retrieval.dense, which "
                "has to be among retrieval.sources, with a backbone that is not trained here; "
                "set them so, or parallel to alignment, same_ids or translation"
            )
        plan = retrievers.sources_plan(source)
        return {"encoded": {language: plan[f"vectors/{language}"] for language in languages}}
    return {}


def check_ensemble(name: str, encoder: Encoder, runs: dict[tuple[str, str], Step]) -> None:
    """Raises InputError for systems of an ensemble that lack what is asked of them."""
    with_features = encoder.from_ensemble.combine == "features"
    for (system, language), run in runs.items():
        if system not in encoder.from_ensemble.systems:
            continue
        made_from = searching.behind(run, language)
        if with_features and made_from.vectors is None:
            raise InputError(
                f"retrieval.encoders.{name}.from_ensemble: combine=features joins vectors, but "
                f"{system} has none; leave it out of systems, or set combine=minmax"
            )
        if "generate" in encoder.negatives and not (made_from.vectors or made_from.lucene):
            raise InputError(
                f"retrieval.encoders.{name}.from_ensemble: {system} was given as runs, so the new "
                "queries of generate can't be searched in it; leave one of the two out"
            )


def judging_models(task: Task, encoder: Encoder) -> dict[str, str]:
    """The models that a chain's links ask, by what decides their answers."""
    models = {}
    if "judge" in encoder.negatives:
        models["judged by"] = judges.fingerprint(encoder.judge, task.config.models)
    if "generate" in encoder.negatives and encoder.generate.by == "endpoint":
        models["generated by"] = model_of(encoder.generate.endpoint)
    return models


def add_negatives(task: Task, steps: Plan, mining: Mining) -> Step:
    """The step of an encoder's chain of negatives, behind the runs that it reads."""
    encoder, source = mining.settings, mining.task
    train = source.config.splits.train
    inputs: list[Step | Files] = mining.inputs
    for language in mining.languages:
        inputs.append(source.step(PassageStore(language)))
        inputs.append(source.topics_input(language, train))
        inputs.append(source.qrels_input(language, train))
    links: list[str] = [*encoder.negatives]
    chosen = {link: encoder.link_settings(link) for link in links}
    if encoder.hidden:
        chosen["hidden"] = {"share": encoder.hidden, "seed": encoder.seed}
    chain = {link: NEGATIVES[link] for link in links}
    return steps.add(
        f"negatives/{mining.name}",
        version=1,
        settings={"chain": links, **chosen, **judging_models(task, encoder)},
        inputs=list({source.name: source for source in inputs}.values()),
        build=lambda folder: mine(replace(mining, folders=[]), chain, folder),
        resumes=True,
        seconds=mining_seconds(mining),
    )


def mining_seconds(mining: Mining) -> float:
    """What this machine takes for a chain: nearly all of it is reading candidates."""
    encoder = mining.settings
    seconds = 5.0
    if "judge" not in encoder.negatives:
        return seconds
    train = mining.task.config.splits.train
    queries = sum(len(mining.task.queries(language, train)) for language in mining.languages)
    source = encoder.from_run if "from_run" in encoder.negatives else encoder.from_ensemble
    pairs = queries * source.depth
    if encoder.judge.by == "endpoint":
        return seconds + pairs * ANSWER_SECONDS / encoder.judge.endpoint.concurrency
    return seconds + model_seconds(pairs * JUDGED_SECONDS)


def systems_read(encoder: Encoder) -> list[str]:
    """The systems whose runs a chain reads."""
    systems = []
    if "from_run" in encoder.negatives:
        systems.append(encoder.from_run.system)
    if "from_ensemble" in encoder.negatives:
        systems += encoder.from_ensemble.systems
    if "select" in encoder.negatives and encoder.select.scores:
        systems.append(encoder.select.scores)
    return list(dict.fromkeys(systems))


def add_runs_of(
    task: Task, steps: Plan, name: str, system: str, seen: tuple[str, ...]
) -> dict[tuple[str, str], Step]:
    """A system's runs of the training queries: of a source, or of another encoder.

    Raises InputError for a system that an encoder cannot mine from.
    """
    encoder = task.config.retrieval.encoders[name]
    source = task_of(task, encoder)
    pairs = []
    for language in training_languages(source, encoder):
        pairs.append((language, source.config.splits.train))
    kept_as = system  # the name that the runs have
    if system in task.config.retrieval.encoders:
        trained = add_encoder(task, steps, system, seen)
        is_dense = retrievers.trained_encoder(task) == system
        if source is task and is_dense and "dense" in task.config.retrieval.sources:
            steps.update(retrievers.trained_plan(task))
            kept_as = "dense"
        else:
            plan = steps if source is task else source.new_plan("retrieval")
            retrievers.add_encoder_runs(source, plan, system, trained, pairs)
    else:
        check_source(task, source, name, system)
    runs = {}
    for language, split in pairs:
        runs[system, language] = source.step(RankedRun(kept_as, language, split))
    return runs


def check_source(task: Task, source: Task, name: str, system: str) -> None:
    """Raises InputError for a system that is no source with runs of its own."""
    trained = retrievers.trained_encoder(source)
    sources: list[str] = [*source.config.retrieval.sources]
    known = [other for other in sources if other != "dense" or not trained]
    known += [other for other in task.config.retrieval.encoders if other != name]
    if system in known:
        return
    why = ""
    if system == "dense" and trained:
        why = f" (dense is the encoder {trained}: name that, or another one)"
    raise InputError(
        f"retrieval.encoders.{name}: mines from the runs of {system!r}, expected one of "
        f"{', '.join(known)}{why}"
    )


# ---- What is known of an encoder


def task_of(task: Task, encoder: Encoder) -> Task:
    """Whose collection an encoder is trained on, with the sources planned there."""
    source = data_task(task, encoder.data) if encoder.data else task
    retrievers.sources_plan(source)
    return source


def origin(task: Task, name: str) -> Encoder:
    """The first encoder of a chain."""
    known = task.config.retrieval.encoders
    encoder = known[name]
    while encoder.start in known:
        encoder = known[encoder.start]
    return encoder


def note_chain(task: Task, name: str) -> str:
    """``pre → name`` as far as there is a chain."""
    known = task.config.retrieval.encoders
    names = [name]
    while (start := known[names[0]].start) in known:
        names.insert(0, start)
    return " → ".join(names)


def training_languages(source: Task, encoder: Encoder) -> list[str]:
    """Of an encoder's examples: those with training topics, or those of them that it names.

    All languages where examples are made of passages alone. Raises InputError for others, and
    where there are none.
    """
    if encoder.unlabelled:
        source.collection.check_languages(encoder.languages, "an encoder's languages: ")
        return encoder.languages or source.languages
    train = source.config.splits.train
    with_train = [language for language, _ in source.pairs(train)]
    wrong = [language for language in encoder.languages if language not in with_train]
    if wrong or not with_train:
        missing = ", ".join(wrong) or "all languages"
        raise InputError(
            f"{source.collection.root}: an encoder is to learn from {missing}, which have no "
            f"{train} topics; those with are {', '.join(with_train) or 'none'}"
        )
    return encoder.languages or with_train


def dev_languages(source: Task, encoder: Encoder) -> list[str]:
    """Of the dev queries that choose the best weights: the training's own."""
    dev = source.config.splits.dev
    with_dev = [language for language, _ in source.pairs(dev)]
    judged = [language for language in with_dev if (language, dev) in source.collection.qrels]
    return [language for language in training_languages(source, encoder) if language in judged]


def training_seconds(task: Task, name: str) -> float:
    """What this machine takes for an encoder's training."""
    encoder = task.config.retrieval.encoders[name]
    negatives = encoder.draw.number if encoder.draws else 0
    texts = encoder.steps * encoder.batch_size * encoder.accumulation * (2 + negatives)
    passes = BACKWARD + encoder.gradient_caching
    work = retrievers.encoder_size(task, name).work
    searched = searched_passages(task_of(task, encoder), encoder) if encoder.refreshes else 0
    return model_seconds((passes * texts + searched) * TEXT_SECONDS * work)


def searched_passages(source: Task, encoder: Encoder) -> float:
    """How many passages go through the model for its own negatives, all refreshes together."""
    languages = training_languages(source, encoder)
    every = encoder.refresh.every
    if encoder.refresh.unit == "epochs":
        train = source.config.splits.train
        examples = sum(len(source.queries(language, train)) for language in languages)
        every *= max(1, examples // (encoder.batch_size * encoder.accumulation))
    passages = sum(retrievers.expected(source, language) for language in languages)
    return passages * math.ceil(encoder.steps / every)


# ---- Settings


def check_names(task: Task) -> None:
    """Raises InputError for an encoder with another thing's name, and an unknown dense backbone."""
    config = task.config
    systems = {*retrievers.RETRIEVERS, "hybrid", *ENSEMBLES, *config.ranking.trainings}
    for name in config.retrieval.encoders:
        what = None
        if name in backbones.BACKBONES:
            what = "a backbone's name, and retrieval.dense.backbone could mean either"
        elif name in systems:
            what = "another system's name, whose runs would lie where its own do"
        if what:
            raise InputError(
                f"retrieval.encoders: an encoder cannot be named {name!r}: that is {what}; "
                "give it another name"
            )
    dense = config.retrieval.dense
    if dense.backbone in config.retrieval.encoders:
        if dense.layers is not None:
            raise InputError(
                f"retrieval.dense.layers: found {dense.layers}, but its backbone "
                f"{dense.backbone} is an encoder that is trained with layers of its own; "
                f"set retrieval.encoders.{dense.backbone}.layers, or leave it out"
            )
        return
    known = [*config.retrieval.encoders, *backbones.BACKBONES]
    near = nearest(dense.backbone, known)
    try:
        backbones.backbone(dense.backbone)
    except InputError as error:
        trained = ", ".join(config.retrieval.encoders)
        also = f"; encoders of retrieval.encoders: {trained}" if trained else ""
        hint = f"; did you mean {near}?" if near else ""
        raise InputError(f"retrieval.dense.backbone: {error}{also}{hint}") from None


def check(task: Task, name: str) -> None:
    """Raises InputError for settings of an encoder that contradict each other or name nothing."""
    known = task.config.retrieval.encoders
    encoder = known[name]
    where = f"retrieval.encoders.{name}"
    for part in encoder.void:
        raise InputError(
            f"{where}.{part}: is set, but {part} is not among what this encoder uses "
            f"({', '.join(encoder.chosen)}); choose it, or leave its settings out"
        )
    check_start(where, encoder, {other: known[other] for other in known if other != name})
    check_batches(where, encoder)
    check_in_batch(where, encoder)
    check_parallel(where, encoder)
    chain = encoder.negatives
    if chain and encoder.unlabelled:
        raise InputError(
            f"{where}: pairs={encoder.pairs} has no queries that negatives could be mined for, so "
            f"negatives={', '.join(chain)} has no say in it; leave negatives out, or set "
            "pairs=labelled"
        )
    if chain and chain[0] not in SOURCES:
        raise InputError(
            f"{where}.negatives: begins with {chain[0]}, which chooses among candidates, "
            f"expected one that brings some first: {', '.join(SOURCES)}"
        )
    check_reading(where, encoder)
    for link in chain[1:]:
        if link in SOURCES:
            raise InputError(
                f"{where}.negatives: {link} begins a chain, so what {chain[0]} found before it "
                "would be lost; leave one of the two out"
            )


def check_reading(where: str, encoder: Encoder) -> None:
    """Raises InputError for new candidates that nobody finds, or that nobody judges."""
    chain = encoder.negatives
    if "generate" not in chain:
        return
    if chain[0] != "from_ensemble":
        raise InputError(
            f"{where}.negatives: generate searches with the systems of from_ensemble, but the "
            f"chain begins with {chain[0]}; begin it with from_ensemble"
        )
    if encoder.generate.judged and "judge" not in chain:
        raise InputError(
            f"{where}.generate.judged: new candidates are to be read, but judge is not among "
            "negatives; add it, or leave judged out"
        )


def check_batches(where: str, encoder: Encoder) -> None:
    """Raises InputError for clusters that cannot be had as they are asked for."""
    if encoder.batches != "clustered":
        return
    if encoder.balance == "uniform":
        raise InputError(
            f"{where}: batches=clustered takes examples as they lie together, so balance=uniform "
            "has no say in it; leave balance out, or set batches=by_language"
        )
    if encoder.teacher is not None and encoder.clustered.every is not None:
        raise InputError(
            f"{where}.clustered has teacher={encoder.teacher} and every={encoder.clustered.every}; "
            "a teacher's vectors do not change, take one of the two away"
        )


def check_in_batch(where: str, encoder: Encoder) -> None:
    """Raises InputError for links that have nothing to work on, or too little."""
    links = encoder.in_batch
    if "interpolate" in links and (not encoder.draws or encoder.draw.number < 2):
        found = f"draw.number={encoder.draw.number}" if encoder.draws else "no negatives"
        raise InputError(
            f"{where}.in_batch: interpolate mixes two negatives of a query, found {found}; set "
            "negatives and draw.number to 2 or more, or take interpolate out of in_batch"
        )
    if "queue" in links and "false_negatives" in links:
        if links.index("false_negatives") < links.index("queue"):
            raise InputError(
                f"{where}.in_batch: false_negatives stands before queue, whose passages it would "
                "not see; put it behind"
            )


def check_parallel(where: str, encoder: Encoder) -> None:
    """Raises InputError for an alignment without its file, and a translation without a run."""
    if "share_languages" not in encoder.negatives:
        return
    settings = encoder.share_languages
    files = [settings.queries, settings.passages]
    if files.count(None) != (0 if settings.parallel == "alignment" else 2):
        raise InputError(
            f"{where}.share_languages: parallel={settings.parallel}, queries={settings.queries} "
            f"and passages={settings.passages}; two files are what parallel=alignment reads, and "
            "nothing else"
        )
    for file in files:
        if file is not None and not Path(file).is_file():
            raise InputError(
                f"{where}.share_languages: {file} is not there; python -m retrieval.encoders.align "
                "finds queries that ask the same"
            )
    if settings.parallel == "translation" and "from_run" not in encoder.negatives:
        raise InputError(
            f"{where}.share_languages: parallel=translation translates the passages of a run, so "
            "the chain has to begin with from_run; set it, or another kind of parallel"
        )


def check_start(where: str, encoder: Encoder, others: dict[str, Encoder]) -> None:
    """What an encoder starts from is another encoder, a folder, or a backbone; one of them."""
    if encoder.start is None:
        return
    if encoder.start not in others and not Path(encoder.start).is_dir():
        raise InputError(
            f"{where}.start: found {encoder.start!r}, expected another encoder "
            f"({', '.join(others) or 'there is none'}), or a folder with a "
            "sentence-transformers model"
        )
    for name in ("backbone", "layers"):
        if name in encoder.model_fields_set:
            raise InputError(
                f"{where} has start={encoder.start} and {name}={getattr(encoder, name)}; "
                f"a start brings its own {name}, take one of the two away"
            )
    if encoder.random_weights:
        raise InputError(
            f"{where} has start={encoder.start} and random_weights=true; a start is had for its "
            "weights, take one of the two away"
        )


def check_division(task: Task) -> None:
    """Raises InputError for an encoder whose batches the processes can't share evenly.

    Only one that is still to be trained.
    """
    for name, encoder in task.config.retrieval.encoders.items():
        if not task.step(TrainedEncoder(name)).done:
            per_process(name, encoder.batch_size, 1, distributed.world_size())


# ---- Training


def train(task: Task, name: str, folder: Path, mining: Mining | None = None) -> None:
    """Trains an encoder in ``folder``, or goes on where it was stopped there.

    ``mining``: of its chain of negatives, where that is run again and again.
    """
    from training.loop import Loop

    engine.start()
    encoder = task.config.retrieval.encoders[name]
    loop = Loop(
        learner=learner(task, name, folder, mining),
        settings=encoder,
        folder=folder,
        number_format=engine.precision(encoder.precision),
        other_world=task.config.retrieval.other_world,
        other_world_setting="retrieval.other_world",
    )
    loop.run()


def learner(task: Task, name: str, folder: Path, mining: Mining | None = None) -> "EncoderLearner":
    """The model with an entry of each table, and what measures it."""
    import torch

    from retrieval.encoder import BiEncoder, parted
    from retrieval.encoders.batches import BATCHES
    from retrieval.encoders.dev import Dev
    from retrieval.encoders.in_batch import IN_BATCH
    from retrieval.encoders.learner import EncoderLearner
    from retrieval.encoders.material import Material
    from retrieval.encoders.pairs import PAIRS
    from retrieval.encoders.texts import Corpus, Tokens

    encoder = task.config.retrieval.encoders[name]
    source = task_of(task, encoder)
    torch.manual_seed(distributed.seed_of(encoder.seed, 0, "body"))
    begun = pretrained(task, name)
    layout = layout_of(encoder, begun.layout)
    bodies = parted(begun.bodies, encoder.towers, name)
    for body in bodies.values():
        prepare(body, encoder, engine.precision(encoder.precision))
    lengths: Any = {"query": encoder.query_length, "passage": encoder.passage_length}
    check_lengths(name, lengths, begun.tokenizer)
    tokens = Tokens(begun.tokenizer, layout.prefixes, lengths)
    languages = training_languages(source, encoder)
    material = Material(
        name=name,
        settings=encoder,
        task=source,
        languages=languages,
        corpus=Corpus(languages, source.passages),
        tokens=tokens,
        folder=folder,
        mined=mined(task, name),
        teacher=partial(teacher, task, name) if encoder.teacher is not None else None,
    )
    pairs = PAIRS[encoder.pairs](material)
    measured = dev_languages(source, encoder)
    dev = Dev(source, measured, encoder.dev, encoder.seed, tokens) if measured else None
    return EncoderLearner(
        material=material,
        model=BiEncoder(bodies, layout.pooling, layout.normalise),
        layout=layout,
        pairs=pairs,
        batches=BATCHES[encoder.batches](material, pairs),
        negatives=negatives_of(material, pairs, mining),
        links=[IN_BATCH[link](material) for link in encoder.in_batch],
        dev=dev,
    )


def pretrained(task: Task, name: str) -> "Pretrained":
    """What an encoder starts from."""
    from retrieval.encoder import load, with_random_weights

    encoder = task.config.retrieval.encoders[name]
    if encoder.start in task.config.retrieval.encoders:
        before = task.step(TrainedEncoder(encoder.start))
        return load(str(before.path / "model"), task.config.models)
    begun = load(encoder.start or encoder.backbone, task.config.models, encoder.layers)
    return with_random_weights(begun) if encoder.random_weights else begun


def teacher(task: Task, name: str) -> "Encode":
    """What turns texts into the vectors of another model that an encoder's batches ask for."""
    from retrieval.encoder import BiEncoder, load
    from retrieval.encoders.encoding import Encode
    from retrieval.encoders.texts import Tokens

    encoder = task.config.retrieval.encoders[name]
    assert encoder.teacher is not None
    where = encoder.teacher
    if where in task.config.retrieval.encoders:
        where = str(task.step(TrainedEncoder(where)).path / "model")
    bodies, tokenizer, layout = load(where, task.config.models)
    most = tokenizer.model_max_length
    lengths: Any = {
        "query": min(encoder.query_length, most),
        "passage": min(encoder.passage_length, most),
    }
    model = BiEncoder(bodies, layout.pooling, layout.normalise).to(distributed.device())
    return Encode(model, Tokens(tokenizer, layout.prefixes, lengths), encoder.batch_tokens)


def negatives_of(material: "Material", pairs: "Pairs", mining: Mining | None) -> "Negatives | None":
    """What gives queries negatives of their own; None where they have none."""
    from retrieval.encoders.negatives.drawn import Drawn
    from retrieval.encoders.negatives.refresh import Refreshed

    encoder = material.settings
    if not encoder.draws:
        return None
    if not encoder.refreshes:
        return Drawn(material, pairs)
    assert mining is not None
    links: list[str] = [*encoder.negatives]
    chain = {link: NEGATIVES[link] for link in links}
    return Refreshed(material, pairs, mining, chain)


def layout_of(encoder: Encoder, begun: "Layout") -> "Layout":
    """How texts become vectors: as it starts, but for what is set."""
    prefixes = dict(begun.prefixes)
    if encoder.query_prefix is not None:
        prefixes["query"] = encoder.query_prefix
    if encoder.passage_prefix is not None:
        prefixes["passage"] = encoder.passage_prefix
    normalise = begun.normalise
    if encoder.similarity is not None:
        normalise = encoder.similarity == "cosine"
    return begun._replace(
        pooling=encoder.pooling or begun.pooling, normalise=normalise, prefixes=prefixes
    )


def prepare(body: Any, encoder: Encoder, number_format: str) -> None:
    """What a body does otherwise while it is trained."""
    from retrieval.encoder import set_dropout

    attention: str = encoder.attention
    if attention == "auto":
        attention = backbones.attention_of(number_format).get("attn_implementation", "auto")
    if attention != "auto":
        body.set_attn_implementation(attention)
    if encoder.body_dropout is not None:
        set_dropout(body, encoder.body_dropout)
    if encoder.gradient_checkpointing:
        body.activation_checkpointing_enable(
            activation_checkpointing_kwargs={"use_reentrant": False}
        )
        body.disable_input_require_grads()  # only the older way needs them; they cost frozen layers
    if encoder.freeze_embeddings:
        body.get_input_embeddings().requires_grad_(False)


def check_lengths(name: str, lengths: dict[str, int], tokenizer: Any) -> None:
    """Raises InputError for texts that are longer than the body takes."""
    for side, length in lengths.items():
        if length > tokenizer.model_max_length:
            raise InputError(
                f"retrieval.encoders.{name}.{side}_length: found {length}, expected at most "
                f"{tokenizer.model_max_length}, the most that the body takes"
            )


def mined(task: Task, name: str) -> Path | None:
    """The last link's files of an encoder's negatives; None without a chain that has a step."""
    encoder = task.config.retrieval.encoders[name]
    chain = encoder.negatives
    if not chain or encoder.refreshes:
        return None
    return chain_step(task, name).path / f"{len(chain)}-{chain[-1]}"


def chain_step(task: Task, name: str) -> Step:
    """The step of an encoder's negatives, where they are made before its training."""
    for source in task.step(TrainedEncoder(name)).inputs:
        if isinstance(source, Step) and source.name == f"negatives/{name}":
            return source
    raise LookupError(f"negatives/{name} is no input of its encoder")


# ---- Building


def make_data(task: Task) -> None:
    """Builds the encoders that are trained on another collection, with what they need of it.

    Those of this collection alone are part of the stage like any step.
    """
    with_data = []
    for name in task.config.retrieval.encoders:
        step = task.step(TrainedEncoder(name))
        if any(source.root != task.config.home for source in needed([step])):
            with_data.append(step)
    make(task, with_data)


def make(task: Task, targets: Sequence[Step], others: Sequence[Task] = ()) -> None:
    """Builds steps with all that they need, each noted in the configuration whose collection it is.

    ``others``: those of further collections than the encoders' own.
    All processes of the launcher take part in the trainings; the rest is the first one's work.
    """
    folders = {task.config.home: task.config.folder}
    for encoder in task.config.retrieval.encoders.values():
        source = task_of(task, encoder)
        folders.setdefault(source.config.home, source.config.folder)
    for source in others:
        folders.setdefault(source.config.home, source.config.folder)
    in_order = [as_built(step) for step in needed(targets)]
    for root, steps in groupby(in_order, key=lambda step: step.root):
        run_steps(list(steps), folders[root], some=True)


def as_built(step: Step) -> Step:
    """A training as it is; any other step so that the first process alone builds it."""

    def build(folder: Path) -> None:
        if distributed.rank() == 0:
            step.build(folder)

    is_training = step.name.startswith("encoder/")
    return step if is_training else replace(step, build=build)
