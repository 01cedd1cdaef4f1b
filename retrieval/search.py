"""The retrieval stage: passages, indexes and vectors, runs of each source, the hybrid, and a report of its ceiling.

    python -m retrieval.search CONFIG [key=value …]
"""
import json
from functools import cache
from pathlib import Path

import numpy as np

from core import backbones
from core.config import from_arguments
from core.distributed import seed_of
from core.errors import InputError, exit_with_message
from core.evaluate import split_judgments
from core.files import finished_file, write_json
from core.fusion import PRESETS, fuse
from core.passages import Passages, build_passages
from core.records import Run
from core.runs import read_run, top_k, write_run
from core.settings import Config
from core.store import Plan, Step, run_steps, say
from core.task import Task
from retrieval import bm25, dense, hybrid, indexes
from retrieval.ceiling import METRICS, ceiling

PASSAGE_BYTES = 170     # of a compressed corpus, a passage: for estimates before anything is counted


@cache
def plan(task: Task) -> Plan:
    """All steps of the stage; each retriever of RETRIEVERS adds its own, the hybrid stands on them."""
    steps = Plan("retrieval", task.config.home)
    for language in task.languages:
        steps.add(f"passages/{language}", 1, {"allow": sorted(task.config.collection.allow)}, [task.corpus_input(language)],
                  lambda folder, la=language: build_passages(task.collection.documents(la), folder),
                  seconds=expected(task, language) / 50000, disk=expected(task, language) * 700)
    for source in task.config.retrieval.sources:
        RETRIEVERS[source](task, steps)
    add_hybrid(task, steps)
    return steps


def expected(task: Task, language: str) -> float:
    """Passages of a language, guessed from the size of its files."""
    return sum(p.stat().st_size for p in task.collection.corpus_files(language)) / PASSAGE_BYTES


def passages(task: Task, language: str) -> Passages:
    return Passages(plan(task)[f"passages/{language}"].path)


def bm25_parameters(task: Task, language: str) -> tuple[float, float]:
    """(k1, b) of a language: its own or the general ones."""
    s = task.config.retrieval.bm25
    own = s.per_language.get(language)
    return (s.k1, s.b) if own is None else (s.k1 if own.k1 is None else own.k1, s.b if own.b is None else own.b)


def add_bm25(task: Task, steps: Plan) -> None:
    s = task.config.retrieval.bm25
    for language in task.languages:
        k1, b = bm25_parameters(task, language)
        store = steps[f"passages/{language}"]
        index = steps.add(f"bm25-index/{language}", 1, {"analyser": bm25.analyser(language)}, [store],
                          lambda folder, la=language: bm25.build_index(la, passages(task, la), folder, s.heap),
                          seconds=3 + expected(task, language) / 4000, disk=expected(task, language) * 600, memory=heap_bytes(s.heap))

        def build(folder, la, split, index=index, k1=k1, b=b):
            searcher = bm25.open_searcher(la, index.path, k1, b, s.heap)
            run = bm25.search(searcher, la, task.queries(la, split), task.config.retrieval.depth, s.heap, s.threads)
            bm25.check_matches(run, la, split)
            write_run(folder / "run.trec", run, "bm25")

        for split in task.splits(language):
            add_run(task, steps, "bm25", language, split, 1, {"k1": k1, "b": b}, [index], build)


def add_dense(task: Task, steps: Plan) -> None:
    s = task.config.retrieval.dense
    settings = {**s.model_dump(include={"backbone", "layers", "max_length", "precision"}), **s.overrides, "weights": backbones.fingerprint(s.backbone, task.config.models)}

    encoder = cache(lambda: encoder_of(task))
    for language in task.languages:
        vectors = steps.add(f"vectors/{language}", 1, settings, [steps[f"passages/{language}"]],
                            lambda folder, la=language: dense.encode_corpus(encoder(), passages(task, la), folder, la), resumes=True,
                            seconds=expected(task, language) / 25, disk=expected(task, language) * 768, memory=2e9)

        made = [vectors]
        if s.index.kind != "exact":
            topics = [task.topics_input(language, split) for split in task.splits(language)]
            made.append(steps.add(f"dense-index/{language}", 1, {**s.index.model_dump(), "seed": task.config.seed}, [vectors, *topics],
                                  lambda folder, la=language, v=vectors: build_dense_index(task, encoder(), la, v, folder), seconds=expected(task, language) / 5000))

        def build(folder, la, split, made=made):
            queries = task.queries(la, split)
            encoded = encoder().encode_queries([q.text for q in queries])
            if len(made) > 1:
                found = dense.search_index(indexes.load(made[-1].path, s.index), passages(task, la), queries, encoded, task.config.retrieval.depth)
            else:
                found = dense.search(vectors_of(made[0]), passages(task, la), queries, encoded, task.config.retrieval.depth)
            write_run(folder / "run.trec", found, "dense")

        for split in task.splits(language):
            searched = s.index.model_dump(include={"probes", "ef"}) if len(made) > 1 else {}
            add_run(task, steps, "dense", language, split, 1, searched, made, build)


def encoder_of(task: Task) -> dense.Encoder:
    s = task.config.retrieval.dense
    return dense.Encoder(s.backbone, task.config.models, s.layers, s.max_length, s.batch_tokens, s.precision, s.overrides)


def encode_shard(config: Config, shard: tuple[int, int]) -> None:
    """One shard of every language's vectors that are not made yet; an ordinary run joins them, and makes what is missing."""
    task, encoder = Task(config), None
    steps = plan(task)
    for language in task.languages:
        step, store = steps.get(f"vectors/{language}"), steps[f"passages/{language}"]
        if step is None:
            raise InputError("--shard: retrieval.sources holds no dense source")
        if not store.done:
            raise InputError(f"--shard: {store.name} is not made; run retrieval/run.sh with retrieval.sources=[bm25] and the same configuration first")
        if not step.done:
            encoder = encoder or encoder_of(task)
            part = step.path.with_name(step.path.name + ".part")
            part.mkdir(parents=True, exist_ok=True)
            dense.encode_corpus(encoder, passages(task, language), part, language, shard)


def parse_shard(text: str) -> tuple[int, int]:
    """``3/8``: the third of eight."""
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)) or count == "1":
        raise InputError(f"--shard: found {text!r}, expected NUMBER/COUNT, for example 3/8, with a count of at least 2")
    return int(number) - 1, int(count)


def vectors_of(step: Step) -> np.ndarray:
    return np.load(step.path / "vectors.npy", mmap_mode="r")


def build_dense_index(task: Task, encoder: dense.Encoder, language: str, vectors: Step, folder: Path) -> None:
    """The index, and its recall@100 against exact search on up to a hundred queries."""
    s, stored = task.config.retrieval.dense.index, vectors_of(vectors)
    indexes.build(stored, s, folder, language, seed_of(task.config.seed, 0, "index", language) % 2 ** 31)
    queries = task.queries(language, task.splits(language)[0])[:100]
    encoded, depth = encoder.encode_queries([q.text for q in queries]), min(100, len(stored))
    exact = dense.search(stored, passages(task, language), queries, encoded, depth)
    found = dense.search_index(indexes.load(folder, s), passages(task, language), queries, encoded, depth)
    say(indexes.report(folder, s, language, indexes.recall([set(exact[q.qid]) for q in queries], [set(found[q.qid]) for q in queries]), depth, len(queries)))


def add_given(task: Task, steps: Plan) -> None:
    """The source ``run``: TREC files LANG-SPLIT.trec of a folder, as the paper started from supplied runs."""
    if not task.config.retrieval.run:
        raise InputError("retrieval.run is not set; the source 'run' reads DIR/LANG-SPLIT.trec (retrieval.run=DIR)")

    def build(folder, la, split):
        run = given_run(task, given(la, split), la, split)
        write_run(folder / "run.trec", {q.qid: top_k(run.get(q.qid, {}), task.config.retrieval.depth) for q in task.queries(la, split)}, "run")

    def given(la, split):
        path = Path(task.config.retrieval.run) / f"{la}-{split}.trec"
        if not path.is_file():
            raise InputError(f"{path}: no such file; the source 'run' needs a run for every language and split")
        return path

    for la, split in task.pairs():
        add_run(task, steps, "run", la, split, 1, {}, [task.file_input(f"given/{la}-{split}", given(la, split))], build)


def given_run(task: Task, path: Path, language: str, split: str) -> Run:
    """A run from outside, its queries and passages checked against the collection's."""
    run, wanted = read_run(path), {q.qid for q in task.collection.queries(language, split)}
    strangers = [qid for qid in run if qid not in wanted]
    if strangers:
        raise InputError(f"{path}: queries without a topic in {language}-{split}: {len(strangers)}, first {', '.join(strangers[:5])}; is it a run of this collection, language and split?")
    passages(task, language).rows(sorted({d for scores in run.values() for d in scores}))
    return run


RETRIEVERS = {"bm25": add_bm25, "dense": add_dense, "run": add_given}


def add_run(task: Task, steps: Plan, system: str, language: str, split: str, version: int, settings: dict, inputs: list, build) -> Step:
    return steps.add(f"{system}/{language}-{split}", version, {**settings, "depth": task.config.retrieval.depth},
                     [*inputs, steps[f"passages/{language}"], task.topics_input(language, split)],
                     lambda folder: build(folder, language, split), seconds=1 + len(task.queries(language, split)) / 100)


def add_hybrid(task: Task, steps: Plan) -> None:
    s, dev = task.config.retrieval, task.config.splits.dev
    preset = PRESETS[s.hybrid.preset]
    settings = {"normalise": preset.normalise, "missing": preset.missing, "sources": s.sources}
    shrink = {"shrink": s.hybrid.shrink} if s.hybrid.shrink else {}
    tuned = steps.add("hybrid-weights", 1, {**settings, "weights": preset.weights or s.hybrid.weights, **shrink, **({"alpha": True} if preset.alpha else {})},
                      [x for la in weighing_languages(task) for x in (*(steps[f"{source}/{la}-{dev}"] for source in s.sources), task.qrels_input(la, dev))],
                      lambda folder: write_json(folder / "weights.json", choose_weights(task, steps)), seconds=20)
    for la, split in task.pairs():
        def build(folder, language, split):
            runs = {source: run_of(steps[f"{source}/{language}-{split}"]) for source in s.sources}
            fused = fuse(runs, hybrid_weights(task, language), preset.normalise, preset.missing)
            write_run(folder / "run.trec", {qid: top_k(scores, s.depth) for qid, scores in fused.items()}, "hybrid")

        add_run(task, steps, "hybrid", la, split, 1, settings, [tuned, *(steps[f"{source}/{la}-{split}"] for source in s.sources)], build)


def weighing_languages(task: Task) -> list[str]:
    """Languages whose dev judgments choose weights: the known ones, so that surprise languages stay unseen; all if none is known."""
    with_dev = [la for la, _ in task.pairs(task.config.splits.dev)]
    return [la for la in with_dev if not task.surprise(la)] or with_dev


def choose_weights(task: Task, steps: Plan) -> dict:
    s, dev = task.config.retrieval, task.config.splits.dev
    preset = PRESETS[s.hybrid.preset]
    fixed = preset.weights or s.hybrid.weights
    if fixed == "equal":
        fixed = {source: 1 / len(s.sources) for source in s.sources}
    if fixed != "tuned":
        if set(fixed) != set(s.sources):
            raise InputError(f"retrieval.hybrid: weights are given for {sorted(fixed)}, the sources are {sorted(s.sources)}")
        return {"weights": fixed, "chosen": "fixed"}
    languages = weighing_languages(task)
    if not languages:
        raise InputError(f"retrieval.hybrid.weights=tuned needs a {dev} split with judgments; set weights, for example retrieval.hybrid.weights=equal")
    runs = {source: {la: run_of(steps[f"{source}/{la}-{dev}"]) for la in languages} for source in s.sources}
    qrels = {la: checked_judgments(task, la, dev) for la in languages}
    weights, found = hybrid.tune(runs, qrels, preset)
    say(f"hybrid weights on {dev}: {weights}, mean nDCG@10 {found:.4f}")
    own = {"by_language": hybrid.tune_languages(runs, qrels, preset, weights, s.hybrid.shrink)} if s.hybrid.shrink else {}
    return {"weights": weights, "chosen": f"nDCG@10 {found:.4f} on {dev} of {', '.join(languages)}", **own}


def checked_judgments(task: Task, language: str, split: str):
    qrels = task.judgments(language, split)
    task.collection.check_judged(language, split, qrels, passages(task, language))
    return qrels


def hybrid_weights(task: Task, language: str) -> dict[str, float]:
    """The language's own weights if there are any, otherwise the global ones."""
    found = json.loads((plan(task)["hybrid-weights"].path / "weights.json").read_text())
    return found.get("by_language", {}).get(language, found["weights"])


def run_of(step: Step) -> Run:
    """A step's run; our own may be empty, where no query of a language matches a term."""
    path = step.path / "run.trec"
    return read_run(path) if path.stat().st_size else {}


def systems(task: Task) -> list[str]:
    return [*task.config.retrieval.sources, "hybrid"]


def report(task: Task) -> None:
    """The ceiling of every judged language and split into retrieval.tsv and ceiling.json, and a line a split."""
    rows, notes = [], {}
    for la, split in task.pairs():
        if (la, split) not in task.collection.qrels:
            continue
        qrels = split_judgments(task, la, split)
        task.collection.check_judged(la, split, qrels, passages(task, la))
        found = ceiling({s: run_of(plan(task)[f"{s}/{la}-{split}"]) for s in systems(task)}, qrels, task.config.candidates)
        rows += [(la, split, s, len(qrels), *(f"{figures[m]:.4f}" for m in METRICS)) for s, figures in found.figures.items()]
        notes.setdefault(split, {})[la] = {"relevant": found.relevant, "lost by the hybrid": found.lost, "queries that nobody answers": found.unfound}
    with finished_file(task.config.folder / "retrieval.tsv") as file:
        for row in [("language", "split", "system", "queries", *METRICS), *rows]:
            file.write("\t".join(map(str, row)) + "\n")
    write_json(task.config.folder / "ceiling.json", notes)
    r200 = METRICS.index("R@200") - len(METRICS)
    say("\nR@200 of the hybrid")
    for split, by_language in notes.items():
        say(f"  {split}: " + "  ".join(f"{la} {figures[r200]}" for la, sp, system, *figures in rows if sp == split and system == "hybrid"))
        lost = {s: sum(v["lost by the hybrid"][s] for v in by_language.values()) for s in task.config.retrieval.sources}
        relevant, unfound = sum(v["relevant"] for v in by_language.values()), sum(len(v["queries that nobody answers"]) for v in by_language.values())
        say(f"    of {relevant} relevant passages the hybrid loses {', '.join(f'{n} that {s} had' for s, n in lost.items())} among {task.config.candidates}; "
            f"{unfound} queries have no relevant passage in any source")


def run(config: Config) -> None:
    task = Task(config)
    run_steps(plan(task).values(), config.folder)
    report(task)


def heap_bytes(text: str) -> float:
    return float(text[:-1]) * {"m": 1e6, "g": 1e9}[text[-1].lower()]


def main() -> None:
    config, options = from_arguments("collection to runs of depth 1000", lambda p: p.add_argument("--shard", metavar="I/N", help="only encode this part of the passages"))
    if options.shard:
        encode_shard(config, parse_shard(options.shard))
    else:
        run(config)


if __name__ == "__main__":
    exit_with_message(main)
