"""The retrievers: the steps of each source's index, vectors and runs.

RETRIEVERS is the table; ``retrieval.search`` puts them together.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from core import backbones, cluster, machine
from core.artefacts import PassageStore, RankedRun, TrainedEncoder
from core.console import say
from core.distributed import seed_of
from core.errors import InputError
from core.machine import core_seconds, format_factor, model_seconds
from core.pace import Pace, known
from core.passages import Passages, build_passages
from core.records import Ranking, Run
from core.runs import read_run, run_file, top_k, write_rankings
from core.settings import Dense
from core.steps import Files, Plan, Step
from core.task import Task, once
from retrieval import bm25, dense, indexes, prebuilt, sharing
from retrieval.jvm import heap_bytes
from retrieval.vectors import Vectors, open_vectors
from training import engine

# For estimates before anything is counted
PASSAGE_BYTES = 170  # of a compressed corpus, a passage, where its beginning can't be read
SAMPLED = 2000  # passages by which the others are judged
PASSAGES_PER_SECOND = 25  # that two cores encode with the embedded model, in fp32

LOADED = "the encoder that is loaded"
HELPERS = "the processes that encode"
EXACT_SEARCH = 2  # version of runs: since 2 torch multiplies, whose last bits are others

RunBuild = Callable[[Path, str, str], None]  # writes the run of a language and split into a folder


@once
def expected(task: Task, language: str) -> float:
    """Passages of a language: counted once they are stored, before that guessed."""
    counted = task.step(PassageStore(language)).path / "count.json"
    if counted.exists():
        return json.loads(counted.read_text())["passages"]
    return guessed(task, language)


@once
def guessed(task: Task, language: str) -> float:
    """Passages, by the size of the files and what the first passages take of the first file."""
    files = task.collection.corpus_files(language)
    size = sum(path.stat().st_size for path in files)
    return size / passage_bytes(files[0])


def passage_bytes(path: Path) -> float:
    """What a passage takes of a corpus file, compressed or not, by its first SAMPLED ones."""
    try:
        with path.open("rb") as raw:
            lines = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
            count = sum(1 for _ in islice(lines, SAMPLED))
            return raw.tell() / count if count else PASSAGE_BYTES
    except (OSError, EOFError, zlib.error):  # the step that reads it says what is wrong
        return PASSAGE_BYTES


def encoder_size(task: Task, backbone: str | None = None) -> backbones.Backbone:
    """Layers and dimensions of an encoder, the dense source's without a name, for estimates.

    One that is trained here is as large as what it starts from.
    """
    return backbones.sized(*untrained(task, backbone))


def untrained(task: Task, backbone: str | None = None) -> tuple[str, int | None]:
    """(name, layers) of an encoder, or of what it starts from where it is trained here."""
    settings = task.config.retrieval
    name = backbone or settings.dense.backbone
    layers = settings.dense.layers
    while name in settings.encoders:
        trained = settings.encoders[name]
        name = trained.start or trained.backbone
        layers = trained.layers
    return name, layers


@once
def sources_plan(task: Task) -> Plan:
    """The steps that no trained encoder is part of: passages, and the sources.

    All that is made of a collection that an encoder's data is taken from.
    """
    steps = task.new_plan("retrieval")
    for language in task.languages:
        add_passages(task, steps, language)
    for source in task.config.retrieval.sources:
        if source != "dense" or trained_encoder(task) is None:
            RETRIEVERS[source](task, steps)
    return steps


@once
def trained_plan(task: Task) -> Plan:
    """The steps of a dense source whose encoder is trained here, behind that encoder's."""
    steps = task.new_plan("retrieval")
    add_dense(task, steps)
    return steps


def trained_encoder(task: Task) -> str | None:
    """The dense source's encoder, where it is one that the configuration trains."""
    backbone = task.config.retrieval.dense.backbone
    return backbone if backbone in task.config.retrieval.encoders else None


def add_passages(task: Task, steps: Plan, language: str) -> None:
    """The passages of a language by docid."""
    passages = guessed(task, language)
    steps.add(
        PassageStore(language),
        version=1,
        settings={"allow": sorted(task.config.collection.allow)},
        inputs=[task.corpus_input(language)],
        build=lambda folder: store_passages(task, language, folder),
        seconds=passages / 50000,
        disk=passages * 700,
        memory=1e8 + passages * 60,
    )


def store_passages(task: Task, language: str, folder: Path) -> None:
    """Streams a language's corpus into the store."""
    build_passages(task.collection.documents(language), folder)


def add_run(
    task: Task,
    steps: Plan,
    system: str,
    language: str,
    split: str,
    settings: dict,
    inputs: Iterable[Step | Files],
    build: RunBuild,
    version: int = 1,
    **more: Any,
) -> Step:
    """The step of a run, which stands on ``inputs``, the passages and the queries.

    ``more``: what a step takes beside time, as ``memory``.
    """
    passages = task.step(PassageStore(language))
    topics = task.topics_input(language, split)
    queries = len(task.queries(language, split))
    return steps.add(
        RankedRun(system, language, split),
        version=version,
        settings={**settings, "depth": task.config.retrieval.depth},
        inputs=[*inputs, passages, topics],
        build=lambda folder: build(folder, language, split),
        seconds=1 + core_seconds(queries / 100),
        **more,
    )


def bm25_parameters(task: Task, language: str) -> tuple[float, float]:
    """(k1, b) of a language: its own or the general ones."""
    settings = task.config.retrieval.bm25
    own = settings.per_language.get(language)
    k1, b = settings.k1, settings.b
    if own is not None and own.k1 is not None:
        k1 = own.k1
    if own is not None and own.b is not None:
        b = own.b
    return k1, b


def add_bm25(task: Task, steps: Plan) -> None:
    """A Lucene index a language, and its runs."""
    for language in task.languages:
        index = add_bm25_index(task, steps, language)
        for split in task.splits(language):
            add_bm25_run(task, steps, language, split, index)


def add_bm25_run(task: Task, steps: Plan, language: str, split: str, index: Step) -> None:
    """A search of a language's index."""
    k1, b = bm25_parameters(task, language)

    def build(folder: Path, language: str, split: str) -> None:
        write_bm25_run(task, index, language, split, folder)

    heap = heap_bytes(task.config.retrieval.bm25.heap)
    parameters = {"k1": k1, "b": b}
    add_run(task, steps, "bm25", language, split, parameters, [index], build, memory=heap)


def add_bm25_index(task: Task, steps: Plan, language: str) -> Step:
    """Its settings are the analyser alone: k1 and b count at search time."""
    own = task.config.retrieval.bm25
    store = task.step(PassageStore(language))
    passages = expected(task, language)
    taken = prebuilt_name(task, "bm25", language)
    if taken:
        return add_prebuilt_bm25(task, steps, language, taken)

    def build(folder: Path) -> None:
        bm25.build_index(language, Passages(store.path), folder, own.heap, own.threads)

    return steps.add(
        f"bm25-index/{language}",
        version=1,
        settings={"analyser": bm25.analyser(language)},
        inputs=[store],
        build=build,
        seconds=3 + core_seconds(passages / 8000),
        disk=passages * 600,
        memory=heap_bytes(own.heap),
    )


def prebuilt_name(task: Task, source: str, language: str) -> str | None:
    """Pyserini's index that a source takes for a language; None: it is made here.

    Raises InputError for one name for several languages.
    """
    setting = getattr(task.config.retrieval, source).prebuilt
    if isinstance(setting, str) and prebuilt.LANGUAGE not in setting and len(task.languages) > 1:
        raise InputError(
            f"retrieval.{source}.prebuilt: found {setting!r} for {', '.join(task.languages)}, "
            f"expected a name with {prebuilt.LANGUAGE} in it, as miracl-v1.0-{prebuilt.LANGUAGE}, "
            "or a name by language"
        )
    return prebuilt.name_of(setting, language)


def add_prebuilt_bm25(task: Task, steps: Plan, language: str, name: str) -> Step:
    """Pyserini's Lucene index in place of an own one.

    Raises InputError for a language that is segmented here: such an index knows other terms.
    """
    if bm25.analyser(language) in ("thai", "bigrams"):
        raise InputError(
            f"{prebuilt.SPARSE}: {name}: this Java runtime has no analyser of {language}, and what "
            "segments it here makes other terms than that index has; name the indexes by language "
            f"(retrieval.bm25.prebuilt={{…}}) and leave {language} out: it is indexed here"
        )
    store = task.step(PassageStore(language))
    heap = task.config.retrieval.bm25.heap

    def build(folder: Path) -> None:
        bm25.take_prebuilt(name, language, Passages(store.path), folder, heap)

    return steps.add(
        f"bm25-index/{language}",
        version=1,
        settings=prebuilt.known_by("TF", prebuilt.SPARSE, name, heap),
        inputs=[store],
        build=build,
        seconds=5,
        memory=heap_bytes(heap),
    )


def write_bm25_run(
    task: Task,
    index: Step,
    language: str,
    split: str,
    folder: Path,
    parameters: tuple[float, float] | None = None,
) -> None:
    """Searches the index and writes each ranking as it comes.

    ``parameters``: other (k1, b) than the configuration's.
    """
    settings = task.config.retrieval.bm25
    k1, b = parameters or bm25_parameters(task, language)
    queries = task.queries(language, split)
    searcher = bm25.open_searcher(language, index.path, k1, b, settings.heap)
    empty: list[str] = []

    def rankings() -> Iterator[Ranking]:
        depth = task.config.retrieval.depth
        for qid, scores in bm25.search_each(
            searcher, language, queries, depth, settings.heap, settings.threads
        ):
            if not scores:
                empty.append(qid)
            yield qid, scores

    write_rankings(folder / "run.trec", rankings(), "bm25")
    bm25.check_matches(empty, len(queries), language, split)


def add_dense(task: Task, steps: Plan) -> None:
    """Vectors of a language's passages, an index of them where one is set, and the runs."""
    settings = task.config.retrieval.dense
    name = trained_encoder(task)
    trained = task.step(TrainedEncoder(name)) if name else None
    for language in task.languages:
        taken = prebuilt_name(task, "dense", language)
        if taken:
            vectors = add_prebuilt_vectors(task, steps, language, taken)
        else:
            vectors = add_vectors(task, steps, f"vectors/{language}", language, trained)
        searched = [vectors]
        if settings.index.kind != "exact":
            searched.append(add_dense_index(task, steps, language, vectors))
        for split in task.splits(language):
            add_dense_run(task, steps, language, split, searched)


def add_dense_run(task: Task, steps: Plan, language: str, split: str, searched: list[Step]) -> None:
    """A search of a language's vectors, through their index where ``searched`` has one."""
    index = task.config.retrieval.dense.index
    exact = len(searched) == 1
    settings = {} if exact else index.model_dump(include={"probes", "ef"})

    def build(folder: Path, language: str, split: str) -> None:
        write_dense_run(task, searched, language, split, folder)

    add_run(
        task,
        steps,
        "dense",
        language,
        split,
        settings,
        searched,
        build,
        version=EXACT_SEARCH if exact else 1,
        whole_machine=True,
    )


def add_source_runs(task: Task, steps: Plan, source: str, pairs: Iterable[tuple[str, str]]) -> None:
    """Runs of BM25 or the dense source beside those of the stage, of some (language, split).

    The dense source is not one whose encoder is trained here: that has ``add_encoder_runs``.
    """
    planned = sources_plan(task)
    for language, split in pairs:
        if RankedRun(source, language, split) in task.published:
            continue
        if source == "bm25":
            add_bm25_run(task, steps, language, split, planned[f"bm25-index/{language}"])
        else:
            names = (f"vectors/{language}", f"dense-index/{language}")
            searched = [planned[name] for name in names if name in planned]
            add_dense_run(task, steps, language, split, searched)


def add_encoder_runs(
    task: Task, steps: Plan, name: str, trained: Step, pairs: Iterable[tuple[str, str]]
) -> None:
    """Runs of a trained encoder beside the dense source, of some (language, split).

    The search is exact. ``task`` may be that of another collection than the encoder's own.
    """
    vectors: dict[str, Step] = {}
    for language, split in pairs:
        if RankedRun(name, language, split) in task.published:
            continue
        if language not in vectors:
            step_name = f"vectors/{name}/{language}"
            vectors[language] = add_vectors(task, steps, step_name, language, trained)
        searched = [vectors[language]]

        def build(folder: Path, language: str, split: str, searched: list[Step] = searched) -> None:
            write_dense_run(task, searched, language, split, folder, trained)

        add_run(
            task,
            steps,
            name,
            language,
            split,
            {},
            searched,
            build,
            version=EXACT_SEARCH,
            whole_machine=True,
        )


def number_format(settings: Dense) -> str:
    """What ``precision`` comes to on this machine; OpenVINO computes in fp32."""
    if settings.precision == "half":
        return engine.precision("half") if settings.backend == "torch" else "fp32"
    return settings.precision


@once
def vector_settings(task: Task, trained: Step | None = None) -> dict:
    """What decides the vectors of a passage; a ``trained`` encoder does so as the step's input."""
    settings = task.config.retrieval.dense
    own = {
        **settings.model_dump(include={"backbone", "layers", "max_length"}),
        "precision": number_format(settings),
        **settings.model_dump(include={"backend"}, exclude_defaults=True),
        **settings.overrides,
    }
    if trained is None:
        own["weights"] = backbones.fingerprint(settings.backbone, task.config.models)
    else:
        own["backbone"] = trained.name
    return own


def add_vectors(
    task: Task, steps: Plan, name: str, language: str, trained: Step | None = None
) -> Step:
    """The vectors of a language's passages; a stopped step goes on."""
    store = task.step(PassageStore(language))
    settings = vector_settings(task, trained)
    passages = expected(task, language)
    pace = encoding_pace(task)

    def build(folder: Path) -> None:
        if cluster.leads(task.config) and name == f"vectors/{language}":
            sharing.encode(task, steps, language, encoder_of(task).dimension)
        dense.encode_corpus(
            encoder_of(task, trained),
            Passages(store.path),
            folder,
            language,
            helpers=helpers_of(task, trained),
        )

    def work(part: Path, start: int) -> int:
        return dense.encode_chunk(encoder_of(task, trained), Passages(store.path), part, start)

    return steps.add(
        name,
        version=1,
        settings=settings,
        inputs=[store, trained] if trained else [store],
        build=build,
        resumes=True,
        whole_machine=True,
        work=work,
        seconds=passages * pace.seconds / max(1, machine.gpus()),
        disk=passages * encoder_size(task).hidden * 2,  # fp16
        memory=pace.memory * max(1, machine.gpus()),
        gpu_memory=pace.gpu_memory,
    )


def add_prebuilt_vectors(task: Task, steps: Plan, language: str, name: str) -> Step:
    """The vectors of Pyserini's FAISS index in place of own ones.

    Raises InputError where queries would be encoded by an encoder that is trained here, and where
    another index of the vectors is asked for.
    """
    kind = task.config.retrieval.dense.index.kind
    if trained_encoder(task):
        raise InputError(
            f"{prebuilt.DENSE}: found {name}, but retrieval.dense.backbone is an encoder that is "
            "trained here, and not what made that index's vectors; leave one of them out"
        )
    if kind != "exact":
        raise InputError(
            f"{prebuilt.DENSE}: found {name}, which is searched exactly, but "
            f"retrieval.dense.index.kind is {kind}; leave one of them out"
        )
    store = task.step(PassageStore(language))
    heap = task.config.retrieval.bm25.heap  # of Java, which knows the indexes' names

    def build(folder: Path) -> None:
        prebuilt.take_vectors(name, Passages(store.path), language, folder, heap)

    return steps.add(
        f"vectors/{language}",
        version=1,
        settings=prebuilt.known_by("FAISS", prebuilt.DENSE, name, heap),
        inputs=[store],
        build=build,
        seconds=1 + expected(task, language) / 100000,
        memory=1e8 + expected(task, language) * 16,
    )


@once
def encoding_pace(task: Task) -> Pace:
    """Of a passage in one process: as it was measured here, or guessed from the encoder's size."""
    measured = known(task.config.work, encoding_known_by(task))
    if measured:
        return measured
    rate = PASSAGES_PER_SECOND * format_factor(number_format(task.config.retrieval.dense))
    return Pace(model_seconds(encoder_size(task).work / rate, 1), memory=2e9)


def add_dense_index(task: Task, steps: Plan, language: str, vectors: Step) -> Step:
    """A FAISS index of the vectors. Its note of what it loses is on the language's queries."""
    store = task.step(PassageStore(language))
    topics = [task.topics_input(language, split) for split in task.splits(language)]

    def build(folder: Path) -> None:
        build_dense_index(task, encoder_of(task), language, Passages(store.path), vectors, folder)

    return steps.add(
        f"dense-index/{language}",
        version=1,
        settings={**task.config.retrieval.dense.index.model_dump(), "seed": task.config.seed},
        inputs=[vectors, *topics],
        build=build,
        whole_machine=True,
        seconds=core_seconds(expected(task, language) / 5000),
    )


def write_dense_run(
    task: Task,
    searched: list[Step],
    language: str,
    split: str,
    folder: Path,
    trained: Step | None = None,
) -> None:
    """Searches the vectors, or their index where there is one; ``searched``: their steps."""
    settings = task.config.retrieval
    passages = task.passages(language)
    queries = task.queries(language, split)
    encoded = encoder_of(task, trained).encode_queries([query.text for query in queries])
    vectors, *index = searched
    if index:
        loaded = indexes.load(index[0].path, settings.dense.index)
        rankings = dense.search_index_each(loaded, passages, queries, encoded, settings.depth)
    else:
        stored, named = searchable(vectors, passages)
        rankings = dense.search_each(stored, named, queries, encoded, settings.depth)
    write_rankings(folder / "run.trec", rankings, "dense")


def encoder_of(task: Task, trained: Step | None = None) -> dense.Encoder:
    """The dense source's, or another one that was ``trained`` here, used as it was trained.

    The last one that was asked for stays loaded: a comparison of many has one in memory.
    """
    wanted = encoder_spec(task, trained)
    loaded, encoder = task.kept.pop(LOADED, (None, None))
    if loaded != wanted:
        del encoder  # before the other one comes
        encoder = wanted.load()
    task.kept[LOADED] = (wanted, encoder)
    return encoder


def encoder_spec(task: Task, trained: Step | None = None) -> dense.EncoderSpec:
    """What the dense source's encoder is made of, or that of a ``trained`` one."""
    settings = task.config.retrieval.dense
    name, layers, overrides = settings.backbone, settings.layers, settings.overrides
    own = trained_encoder(task)
    if trained is not None:
        name, layers, overrides = str(trained.path / "model"), None, {}
    elif own is not None:
        name = str(task.step(TrainedEncoder(own)).path / "model")
    return spec(task, name, layers, tuple(overrides.items()))


def spec(task: Task, name: str, layers: int | None, overrides: tuple) -> dense.EncoderSpec:
    """An encoder by its name, in all else as the dense source's settings say."""
    settings = task.config.retrieval.dense
    return dense.EncoderSpec(
        name=name,
        models=task.config.models,
        layers=layers,
        max_length=settings.max_length,
        batch_tokens=settings.batch_tokens,
        precision=number_format(settings),
        overrides=overrides,
        backend=settings.backend,
    )


def untrained_spec(task: Task) -> dense.EncoderSpec:
    """The dense source's encoder, or what it starts from where it is trained here."""
    name, layers = untrained(task)
    return spec(task, name, layers, tuple(task.config.retrieval.dense.overrides.items()))


def encoding_known_by(task: Task) -> dict:
    """What decides how fast passages are encoded: the encoder, and whose texts they are."""
    parts = untrained_spec(task)._replace(models=Path())._asdict()
    return {"of": "encoding", "collection": task.config.collection_name, **parts, "models": ""}


def helpers_of(task: Task, trained: Step | None = None) -> dense.Helpers | None:
    """Processes that encode, one a GPU or as many as the setting says; None for one.

    They keep their encoder for the next language, until another one is asked for.
    """
    settings = task.config.retrieval.dense
    on_gpus = len(dense.search_devices()) if settings.backend == "torch" else 1
    count = settings.processes or on_gpus
    if count == 1:
        return None
    wanted = encoder_spec(task, trained)
    helpers = task.kept.pop(HELPERS, None)
    if helpers is not None and helpers.spec != wanted:
        helpers.team.close()
        helpers = None
    task.kept[HELPERS] = helpers or dense.Helpers(count, wanted)
    return task.kept[HELPERS]


def searchable(vectors: Step, passages: Passages) -> tuple[dense.Stored, dense.Named]:
    """The vectors of a finished step, and what tells the docids of their rows."""
    if prebuilt.is_taken(vectors.path):
        taken = prebuilt.Taken(vectors.path, passages)
        return taken.vectors, taken
    return vectors_of(vectors), passages


def vectors_of(step: Step) -> Vectors:
    """Those of a finished step, fp16 [passages, dimension]."""
    return open_vectors(step.path)


def build_dense_index(
    task: Task,
    encoder: dense.Encoder,
    language: str,
    passages: Passages,
    vectors: Step,
    folder: Path,
) -> None:
    """The index, and its recall@100 against exact search on up to a hundred queries."""
    settings = task.config.retrieval.dense.index
    stored = vectors_of(vectors)
    seed = seed_of(task.config.seed, 0, "index", language) % 2**31
    indexes.build(stored, settings, folder, language, seed)

    queries = task.queries(language, task.splits(language)[0])[:100]
    encoded = encoder.encode_queries([query.text for query in queries])
    depth = min(100, len(stored))
    exact = dense.search(stored, passages, queries, encoded, depth)
    index = indexes.load(folder, settings)
    through_index = dense.search_index(index, passages, queries, encoded, depth)
    share = indexes.recall(exact, through_index)
    say(indexes.report(folder, settings, language, share, depth, len(queries)))


def add_given(task: Task, steps: Plan) -> None:
    """The source ``run``: TREC files LANG-SPLIT.trec of a folder.

    The paper started from supplied runs in this way.
    """
    given_folder = task.config.retrieval.run
    if not given_folder:
        raise InputError(
            "retrieval.run is not set; the source 'run' reads DIR/LANG-SPLIT.trec "
            "(retrieval.run=DIR)"
        )

    def given(language: str, split: str) -> Path:
        otherwise = "the source 'run' needs a run for every language and split"
        return run_file(given_folder, language, split, otherwise)

    def build(folder: Path, language: str, split: str) -> None:
        passages = task.passages(language)
        run = given_run(task, passages, given(language, split), language, split)

        def rankings() -> Iterator[Ranking]:
            for query in task.queries(language, split):
                scores = run.get(query.qid, {})
                yield query.qid, top_k(scores, task.config.retrieval.depth)

        write_rankings(folder / "run.trec", rankings(), "run")

    for language, split in task.pairs():
        file = task.file_input(f"given/{language}-{split}", given(language, split))
        add_run(task, steps, "run", language, split, {}, [file], build)


def given_run(task: Task, passages: Passages, path: Path, language: str, split: str) -> Run:
    """A run from outside, its queries and passages checked against the collection's."""
    run = read_run(path)
    topics = {query.qid for query in task.collection.queries(language, split)}
    strangers = [qid for qid in run if qid not in topics]
    if strangers:
        raise InputError(
            f"{path}: queries without a topic in {language}-{split}: {len(strangers)}, "
            f"first {', '.join(strangers[:5])}; is it a run of this collection, language and split?"
        )
    docids: set[str] = set()
    for scores in run.values():
        docids |= scores.keys()
    passages.rows(sorted(docids))
    return run


RETRIEVERS: dict[str, Callable[[Task, Plan], None]] = {
    "bm25": add_bm25,
    "dense": add_dense,
    "run": add_given,
}
