"""An ensemble's members: every cross-encoder, the hybrid, and runs given by the configuration, on the block that was reranked. Stacking
sees the sources of the hybrid, too."""

from collections.abc import Mapping
from pathlib import Path

from core.errors import InputError
from core.files import digest
from core.records import Run
from core.runs import read_run, run_file, top_k
from core.steps import Files
from core.task import Task
from ensemble.weights import Judged, aligned_members
from ranking import rank
from retrieval import search
from retrieval.retrievers import given_run


def members(task: Task, system: str = "ensemble") -> list[str]:
    """``ensemble-rankers``: the cross-encoders and the given runs, as in the paper; ``ensemble``: the hybrid, too; ``stacking``: and its sources."""
    rankers, given = list(task.config.ranking.rankers), list(task.config.ensemble.runs)
    taken = [
        n
        for n in given
        if n
        in (*rankers, *task.config.retrieval.systems, "ensemble", "ensemble-rankers", "stacking")
    ]
    if taken:
        raise InputError(
            f"ensemble.runs: a run cannot be named {taken[0]!r}, that is another system's name"
        )
    sources = task.config.retrieval.sources if system == "stacking" else []
    return [*rankers, *given, *([] if system == "ensemble-rankers" else ["hybrid"]), *sources]


def given_path(task: Task, name: str, language: str, split: str) -> Path:
    s = task.config.splits
    return run_file(
        task.config.ensemble.runs[name],
        language,
        split,
        f"ensemble.runs.{name} needs a run for every language, {s.dev} and {s.test}",
    )


def inputs(task: Task, language: str, split: str) -> list:
    """The steps and files that the members of a language and split come from."""
    plans = {**search.plan(task), **rank.plan(task)}
    found: list = [
        plans[f"{name}/{language}-{split}"]
        for name in (*task.config.ranking.rankers, *task.config.retrieval.systems)
    ]
    return [
        *found,
        *(
            task.file_input(f"{n}/{language}-{split}", given_path(task, n, language, split))
            for n in task.config.ensemble.runs
        ),
    ]


def hybrid_block(task: Task, language: str, split: str) -> Run:
    """The best of the hybrid, as deep as is reranked."""
    return {
        qid: top_k(scores, rank.depth(task))
        for qid, scores in task.run("hybrid", language, split).items()
    }


def blocks(task: Task, language: str, split: str) -> dict[str, Run]:
    """Every member's scores of the passages that were reranked, for each query; no member adds others."""
    plans, block = {**search.plan(task), **rank.plan(task)}, hybrid_block(task, language, split)
    runs = {
        n: search.run_of(plans[f"{n}/{language}-{split}"])
        for n in (*task.config.ranking.rankers, *task.config.retrieval.sources)
    }
    for (
        name,
        ranker,
    ) in (
        task.config.ranking.rankers.items()
    ):  # what follows below its own depth has no score of its
        runs[name] = {
            qid: top_k(scores, rank.own_depth(task, ranker)) for qid, scores in runs[name].items()
        }
    runs |= {
        n: given_run(
            task,
            task.passages(language),
            given_path(task, n, language, split),
            language,
            split,
        )
        for n in task.config.ensemble.runs
    }
    return {**{n: within(run, block) for n, run in runs.items()}, "hybrid": block}


def within(run: Run, block: Run) -> Run:
    return {
        qid: {d: run[qid][d] for d in scores if d in run[qid]}
        for qid, scores in block.items()
        if qid in run
    }


def out_of_fold_blocks(task: Task, folder: Path, language: str) -> dict[str, Run]:
    """The members' blocks on the train split: the rankers' scores from ``folder``/MEMBER/LANG-SPLIT.trec, the first stage's own."""
    split, plan = task.config.splits.train, search.plan(task)
    block = hybrid_block(task, language, split)
    runs = {
        n: read_run(folder / n / f"{language}-{split}.trec")
        for n in members(task, "ensemble-rankers")
    }
    runs |= {
        n: search.run_of(plan[f"{n}/{language}-{split}"]) for n in task.config.retrieval.sources
    }
    return {**{n: within(run, block) for n, run in runs.items()}, "hybrid": block}


def out_of_fold_files(task: Task, folder: Path) -> Files:
    split = task.config.splits.train
    paths = [
        folder / n / f"{la}-{split}.trec"
        for n in members(task, "ensemble-rankers")
        for la, _ in task.pairs(split)
    ]
    missing = [p for p in paths if not p.is_file()]
    if missing:
        raise InputError(
            f"{missing[0]}: no such file; ensemble.stacking.out_of_fold needs MEMBER/LANG-{split}.trec for each member and language ({len(missing)} of {len(paths)} are missing)"
        )
    return Files("out-of-fold", digest([task.file_input("", p).fingerprint for p in paths]))


def judged(
    task: Task, by_language: Mapping[str, Mapping[str, Run]], names: list[str], split: str
) -> Judged:
    """Members on the judged queries; ``by_language``: language -> member -> run. A query that nobody answers counts, as 0."""
    qrels = {
        (la, q): found
        for la in by_language
        for q, found in task.checked_judgments(la, split).items()
    }
    return Judged(
        aligned_members(
            {n: {la: runs[n] for la, runs in by_language.items()} for n in names}, list(qrels)
        ),
        qrels,
    )


def remarks(language: str, split: str, runs: Mapping[str, Run]) -> list[str]:
    """What a user should know of members that differ in queries or depth: a line each, nothing where all is even."""
    block, found = runs["hybrid"], []
    for name, run in runs.items():
        lacking = [q for q in block if not run.get(q)]
        alone = [
            q
            for q in lacking
            if not any(other.get(q) for n, other in runs.items() if n not in (name, "hybrid"))
        ]
        gaps = sum(len(scores) - len(run[q]) for q, scores in block.items() if run.get(q))
        constant = [
            q for q, scores in run.items() if len(scores) > 1 and len(set(scores.values())) == 1
        ]
        if lacking:
            found.append(
                f"{name} {language}-{split}: {len(lacking)} of {len(block)} queries unanswered, first {', '.join(lacking[:3])}; the others fuse them"
                + (f" ({len(alone)} by the hybrid alone)" if alone else "")
            )
        if gaps:
            found.append(
                f"{name} {language}-{split}: lacks {gaps} of the {sum(map(len, block.values()))} passages of the block; they count as ensemble.missing says"
            )
        if constant:
            found.append(
                f"{name} {language}-{split}: all scores equal in {len(constant)} queries, first {', '.join(constant[:3])}; it says nothing there"
            )
    return found
