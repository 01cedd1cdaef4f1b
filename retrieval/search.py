"""The retrieval stage: passages, indexes and vectors, runs of each source, the hybrid, and a report of its ceiling.

python -m retrieval.search CONFIG [key=value …]
"""

import json

from core.artefacts import PassageStore
from core.building import run_steps
from core.config import from_arguments, with_data
from core.console import say
from core.errors import InputError, exit_with_message
from core.files import finished_file, write_json
from core.fusion import PRESETS, fuse
from core.judgments import split_judgments
from core.passages import build_passages
from core.records import Run
from core.runs import read_run, top_k, write_run
from core.settings import Config
from core.steps import Plan, Step
from core.task import Task, once
from retrieval import dense, hybrid, retrievers
from retrieval.ceiling import METRICS, ceiling


@once
def plan(task: Task) -> Plan:
    """All steps of the stage; each retriever of RETRIEVERS adds its own, the hybrid stands on them."""
    steps = task.new_plan("retrieval")
    for language in task.languages:
        steps.add(
            PassageStore(language),
            1,
            {"allow": sorted(task.config.collection.allow)},
            [task.corpus_input(language)],
            lambda folder, la=language: build_passages(task.collection.documents(la), folder),
            seconds=retrievers.expected(task, language) / 50000,
            disk=retrievers.expected(task, language) * 700,
        )
    for source in task.config.retrieval.sources:
        retrievers.RETRIEVERS[source](task, steps)
    add_hybrid(task, steps)
    return steps


def encode_shard(config: Config, shard: tuple[int, int]) -> None:
    """One shard of every language's vectors that are not made yet; an ordinary run joins them, and makes what is missing."""
    task = Task(config)
    steps = plan(task)
    for language in task.languages:
        step, store = steps.get(f"vectors/{language}"), steps[f"passages/{language}"]
        if step is None:
            raise InputError("--shard: retrieval.sources holds no dense source")
        if not store.done:
            raise InputError(
                f"--shard: {store.name} is not made; run retrieval/run.sh with retrieval.sources=[bm25] and the same configuration first"
            )
        if not step.done:
            part = step.path.with_name(step.path.name + ".part")
            part.mkdir(parents=True, exist_ok=True)
            dense.encode_corpus(
                retrievers.encoder_of(task), task.passages(language), part, language, shard
            )


def parse_shard(text: str) -> tuple[int, int]:
    """``3/8``: the third of eight."""
    number, _, count = text.partition("/")
    if (
        not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count))
        or count == "1"
    ):
        raise InputError(
            f"--shard: found {text!r}, expected NUMBER/COUNT, for example 3/8, with a count of at least 2"
        )
    return int(number) - 1, int(count)


def add_hybrid(task: Task, steps: Plan) -> None:
    s, dev = task.config.retrieval, task.config.splits.dev
    preset = PRESETS[s.hybrid.preset]
    settings = {"normalise": preset.normalise, "missing": preset.missing, "sources": s.sources}
    shrink = {"shrink": s.hybrid.shrink} if s.hybrid.shrink else {}
    tuned = steps.add(
        "hybrid-weights",
        1,
        {
            **settings,
            "weights": preset.weights or s.hybrid.weights,
            **shrink,
            **({"alpha": True} if preset.alpha else {}),
        },
        [
            x
            for la in task.weighing_languages()
            for x in (
                *(steps[f"{source}/{la}-{dev}"] for source in s.sources),
                task.qrels_input(la, dev),
            )
        ],
        lambda folder: write_json(folder / "weights.json", choose_weights(task, steps)),
        seconds=20,
    )
    for la, split in task.pairs():

        def build(folder, language, split):
            runs = {source: run_of(steps[f"{source}/{language}-{split}"]) for source in s.sources}
            fused = fuse(runs, hybrid_weights(task, language), preset.normalise, preset.missing)
            write_run(
                folder / "run.trec",
                {qid: top_k(scores, s.depth) for qid, scores in fused.items()},
                "hybrid",
            )

        retrievers.add_run(
            task,
            steps,
            "hybrid",
            la,
            split,
            1,
            settings,
            [tuned, *(steps[f"{source}/{la}-{split}"] for source in s.sources)],
            build,
        )


def choose_weights(task: Task, steps: Plan) -> dict:
    s, dev = task.config.retrieval, task.config.splits.dev
    preset = PRESETS[s.hybrid.preset]
    fixed = preset.weights or s.hybrid.weights
    if fixed == "equal":
        fixed = {source: 1 / len(s.sources) for source in s.sources}
    if fixed != "tuned":
        if set(fixed) != set(s.sources):
            raise InputError(
                f"retrieval.hybrid: weights are given for {sorted(fixed)}, the sources are {sorted(s.sources)}"
            )
        return {"weights": fixed, "chosen": "fixed"}
    languages = task.weighing_languages()
    if not languages:
        raise InputError(
            f"retrieval.hybrid.weights=tuned needs a {dev} split with judgments; set weights, for example retrieval.hybrid.weights=equal"
        )
    runs = {
        source: {la: run_of(steps[f"{source}/{la}-{dev}"]) for la in languages}
        for source in s.sources
    }
    qrels = {la: task.checked_judgments(la, dev) for la in languages}
    weights, found = hybrid.tune(runs, qrels, preset)
    say(f"hybrid weights on {dev}: {weights}, mean nDCG@10 {found:.4f}")
    own = (
        {"by_language": hybrid.tune_languages(runs, qrels, preset, weights, s.hybrid.shrink)}
        if s.hybrid.shrink
        else {}
    )
    return {
        "weights": weights,
        "chosen": f"nDCG@10 {found:.4f} on {dev} of {', '.join(languages)}",
        **own,
    }


def hybrid_weights(task: Task, language: str) -> dict[str, float]:
    """The language's own weights if there are any, otherwise the global ones."""
    found = json.loads((plan(task)["hybrid-weights"].path / "weights.json").read_text())
    return found.get("by_language", {}).get(language, found["weights"])


def run_of(step: Step) -> Run:
    """A step's run; our own may be empty, where no query of a language matches a term."""
    path = step.path / "run.trec"
    return read_run(path) if path.stat().st_size else {}


def report(task: Task) -> None:
    """The ceiling of every judged language and split into retrieval.tsv and ceiling.json, and a line a split."""
    rows, notes = [], {}
    for la, split in task.pairs():
        if (la, split) not in task.collection.qrels:
            continue
        qrels = split_judgments(task, la, split)
        task.collection.check_judged(la, split, qrels, task.passages(la))
        found = ceiling(
            {s: run_of(plan(task)[f"{s}/{la}-{split}"]) for s in task.config.retrieval.systems},
            qrels,
            task.config.candidates,
        )
        rows += [
            (la, split, s, len(qrels), *(f"{figures[m]:.4f}" for m in METRICS))
            for s, figures in found.figures.items()
        ]
        notes.setdefault(split, {})[la] = {
            "relevant": found.relevant,
            "lost by the hybrid": found.lost,
            "queries that nobody answers": found.unfound,
        }
    with finished_file(task.config.folder / "retrieval.tsv") as file:
        for row in [("language", "split", "system", "queries", *METRICS), *rows]:
            file.write("\t".join(map(str, row)) + "\n")
    write_json(task.config.folder / "ceiling.json", notes)
    r200 = METRICS.index("R@200") - len(METRICS)
    say("\nR@200 of the hybrid")
    for split, by_language in notes.items():
        say(
            f"  {split}: "
            + "  ".join(
                f"{la} {figures[r200]}"
                for la, sp, system, *figures in rows
                if sp == split and system == "hybrid"
            )
        )
        lost = {
            s: sum(v["lost by the hybrid"][s] for v in by_language.values())
            for s in task.config.retrieval.sources
        }
        relevant, unfound = (
            sum(v["relevant"] for v in by_language.values()),
            sum(len(v["queries that nobody answers"]) for v in by_language.values()),
        )
        say(
            f"    of {relevant} relevant passages the hybrid loses {', '.join(f'{n} that {s} had' for s, n in lost.items())} among {task.config.candidates}; "
            f"{unfound} queries have no relevant passage in any source"
        )


def run(config: Config) -> None:
    task = Task(config)
    run_steps(plan(task).values(), config.folder)
    report(task)


def main() -> None:
    config, options = from_arguments(
        "collection to runs of depth 1000",
        lambda p: p.add_argument(
            "--shard", metavar="I/N", help="only encode this part of the passages"
        ),
    )
    for part in with_data(config):
        if options.shard:
            encode_shard(part, parse_shard(options.shard))
        else:
            run(part)


if __name__ == "__main__":
    exit_with_message(main)
