"""An ensemble's members: every cross-encoder, the hybrid, and runs that the configuration gives.

They are compared on the block of candidates that was reranked. Stacking sees the sources of the
hybrid, too.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from core.artefacts import ENSEMBLES, RankedRun
from core.errors import InputError
from core.files import digest
from core.records import Run
from core.runs import read_run, run_file, top_k
from core.steps import Files, Step
from core.task import Task
from ensemble.weights import Judged, Key, aligned_members
from ranking.rankers import depth, own_depth
from retrieval.retrievers import given_run


def members(task: Task, system: str = "ensemble") -> list[str]:
    """The members of one of the stage's systems, in their order everywhere.

    ``ensemble-rankers`` has the cross-encoders and the given runs, as in the paper; ``ensemble``
    the hybrid, too; ``stacking`` also the sources of that. Raises InputError for a given run with
    the name of another system.
    """
    config = task.config
    rankers, given = list(config.ranking.rankers), list(config.ensemble.runs)
    taken = (*rankers, *config.retrieval.systems, *ENSEMBLES)
    for name in given:
        if name in taken:
            raise InputError(
                f"ensemble.runs: a run cannot be named {name!r}, that is another system's name"
            )
    names = [*rankers, *given]
    if system != "ensemble-rankers":
        names.append("hybrid")
    if system == "stacking":
        names += config.retrieval.sources
    return names


def given_path(task: Task, name: str, language: str, split: str) -> Path:
    """Where a given run lies; raises InputError where it is missing."""
    splits = task.config.splits
    return run_file(
        task.config.ensemble.runs[name],
        language,
        split,
        f"ensemble.runs.{name} needs a run for every language, {splits.dev} and {splits.test}",
    )


def inputs(task: Task, language: str, split: str) -> list[Step | Files]:
    """The steps and files that the members of a language and split come from."""
    made = [*task.config.ranking.rankers, *task.config.retrieval.systems]
    sources: list[Step | Files] = [task.step(RankedRun(name, language, split)) for name in made]
    for name in task.config.ensemble.runs:
        path = given_path(task, name, language, split)
        sources.append(task.file_input(f"{name}/{language}-{split}", path))
    return sources


def block_of(task: Task, hybrid: Run) -> Run:
    """The best of the hybrid's run, as deep as is reranked."""
    return {qid: top_k(scores, depth(task)) for qid, scores in hybrid.items()}


def blocks(
    task: Task,
    language: str,
    split: str,
    names: Sequence[str] | None = None,
    hybrid: Run | None = None,
) -> dict[str, Run]:
    """Member -> its scores of the passages that were reranked, for each query.

    No member adds other passages. ``names``: of all that stacking sees without it. ``hybrid``: the
    hybrid's run, where the caller has read it.
    """
    if hybrid is None:
        hybrid = task.run("hybrid", language, split)
    block = block_of(task, hybrid)
    by_member: dict[str, Run] = {}
    for name in names or members(task, "stacking"):
        if name == "hybrid":
            by_member[name] = block
        else:
            by_member[name] = within(own_run(task, name, language, split), block)
    return by_member


def own_run(task: Task, name: str, language: str, split: str) -> Run:
    """What a member, any but the hybrid, scored itself."""
    if name in task.config.ensemble.runs:
        path = given_path(task, name, language, split)
        return given_run(task, task.passages(language), path, language, split)
    run = task.run(name, language, split)
    if name not in task.config.ranking.rankers:
        return run
    # What a ranker's run holds below its depth follows in the order of the stage before.
    scored = own_depth(task, task.config.ranking.rankers[name])
    return {qid: top_k(scores, scored) for qid, scores in run.items()}


def within(run: Run, block: Run) -> Run:
    """The run's scores of the block's passages; a query that it does not answer stays away."""
    kept: Run = {}
    for qid, passages in block.items():
        if qid in run:
            scores = run[qid]
            kept[qid] = {docid: scores[docid] for docid in passages if docid in scores}
    return kept


def out_of_fold_blocks(task: Task, folder: Path, language: str) -> dict[str, Run]:
    """The members' blocks on the train split.

    The rankers' scores are of ``folder``/MEMBER/LANG-SPLIT.trec, the first stage's its own.
    """
    split = task.config.splits.train
    block = block_of(task, task.run("hybrid", language, split))
    kept: dict[str, Run] = {}
    for name in members(task, "ensemble-rankers"):
        kept[name] = within(read_run(folder / name / f"{language}-{split}.trec"), block)
    for name in task.config.retrieval.sources:
        kept[name] = within(task.run(name, language, split), block)
    kept["hybrid"] = block
    return kept


def out_of_fold_files(task: Task, folder: Path) -> Files:
    """The runs of ``out_of_fold_blocks`` as an input; raises InputError where one is missing."""
    split = task.config.splits.train
    paths = []
    for name in members(task, "ensemble-rankers"):
        for language, _ in task.pairs(split):
            paths.append(folder / name / f"{language}-{split}.trec")
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(
            f"{missing[0]}: no such file; ensemble.stacking.out_of_fold needs "
            f"MEMBER/LANG-{split}.trec for each member and language "
            f"({len(missing)} of {len(paths)} are missing)"
        )
    fingerprints = [task.file_input("", path).fingerprint for path in paths]
    return Files("out-of-fold", digest(fingerprints))


def judged(
    task: Task, by_language: Mapping[str, Mapping[str, Run]], names: list[str], split: str
) -> Judged:
    """The members ``names`` on the judged queries; ``by_language``: language -> member -> run.

    A query that nobody answers counts, as 0.
    """
    qrels: dict[Key, Mapping[str, int]] = {}
    for language in by_language:
        for qid, judgments in task.checked_judgments(language, split).items():
            qrels[language, qid] = judgments
    by_member: dict[str, dict[str, Run]] = {name: {} for name in names}
    for language, runs in by_language.items():
        for name in names:
            by_member[name][language] = runs[name]
    return Judged(aligned_members(by_member, list(qrels)), qrels)


def remarks(language: str, split: str, runs: Mapping[str, Run]) -> list[str]:
    """What a user should know of members that differ in queries or depth.

    A line each, nothing where all is even.
    """
    lines = []
    for name, run in runs.items():
        others = [runs[other] for other in runs if other not in (name, "hybrid")]
        for remark in remarks_on(run, runs["hybrid"], others):
            lines.append(f"{name} {language}-{split}: {remark}")
    return lines


def remarks_on(run: Run, block: Run, others: Sequence[Run]) -> Iterator[str]:
    """Of one member's ``run``; ``others``: of the members beside it, without the hybrid."""
    unanswered = [qid for qid in block if not run.get(qid)]
    if unanswered:
        by_hybrid = [qid for qid in unanswered if not any(other.get(qid) for other in others)]
        alone = f" ({len(by_hybrid)} by the hybrid alone)" if by_hybrid else ""
        yield (
            f"{len(unanswered)} of {len(block)} queries unanswered, "
            f"first {', '.join(unanswered[:3])}; the others fuse them{alone}"
        )
    gaps = 0  # in queries that it answers
    for qid, scores in block.items():
        if run.get(qid):
            gaps += len(scores) - len(run[qid])
    if gaps:
        passages = sum(map(len, block.values()))
        yield (
            f"lacks {gaps} of the {passages} passages of the block; "
            "they count as ensemble.missing says"
        )
    constant = [qid for qid, scores in run.items() if says_nothing(scores)]
    if constant:
        yield (
            f"all scores equal in {len(constant)} queries, first {', '.join(constant[:3])}; "
            "it says nothing there"
        )


def says_nothing(scores: Mapping[str, float]) -> bool:
    """Whether a member gives several passages of a query the same score."""
    return len(scores) > 1 and len(set(scores.values())) == 1
