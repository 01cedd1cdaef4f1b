"""What a cheaper way of scoring costs on dev: a smaller depth or a cascade is measured, int8 is refused if it costs too much. Both note
``own`` and ``whole``, nDCG@10 of the cheaper way and of the one that it stands for, and the number of ``queries``."""

from pathlib import Path
from statistics import fmean

from core import distributed
from core.console import say
from core.distributed import generator
from core.errors import InputError
from core.files import write_json
from core.groups import read_groups
from core.settings import Ranker
from core.steps import Step
from core.task import Task
from data_aug import build as groups
from ranking import backends, rankers, trainings
from ranking.rankers import DevSample, at_home, depth, own_depth, texts_of
from ranking.rerank import Scorer, candidate_pairs, reranked, score_pairs
from retrieval import search

CALIBRATION = 300  # training pairs that int8 is calibrated on


def judges(task: Task, ranker: Ranker) -> DevSample:
    return DevSample(task, at_home(ranker), task.config.ranking.rerank.dev_queries, depth(task))


def cascade(
    task: Task, name: str, scorer: Scorer, trained: Step, runs: dict[str, Step], folder: Path
) -> None:
    """nDCG@10 of a ranker's dev queries in its own ``runs``, beside that of scoring the whole block."""
    r, dev = task.config.ranking.rankers[name], task.config.splits.dev
    sample = judges(task, r)
    store, whole, own = rankers.scores_of(task, trained, scorer), {}, {}
    for la, (run, _) in sample.chosen.items():
        pairs = candidate_pairs(run, sample.depth)
        whole[la] = reranked(
            run,
            pairs,
            score_pairs(
                scorer, store, pairs, texts_of(task, la, dev), f"{name} {la}-{dev}, whole block"
            ),
        )
        found = search.run_of(runs[la])
        own[la] = {q: found[q] for q in run if q in found}
    note = {
        "after": r.after or "hybrid",
        "depth": own_depth(task, r),
        "block": depth(task),
        "queries": sum(len(q) for _, q in sample.chosen.values()),
        "own": sample.mean(own),
        "whole": sample.mean(whole),
    }
    if distributed.rank() == 0:
        write_json(folder / "cascade.json", note)


def int8(task: Task, name: str, trained: Step, folder: Path) -> None:
    """The quantised model, if nDCG@10 on the ranker's dev queries stays within ``ranking.rerank.tolerance`` of fp32; an InputError
    otherwise. Calibrated on training pairs."""
    r, exact = (
        task.config.ranking.rankers[name],
        rankers.load(task, name, trained, "openvino", number_format="fp32"),
    )
    source = rankers.task_of(task, r)
    if distributed.rank() == 0:
        pairs = read_groups(groups.plan(source)[f"groups/{r.recipe}"].path / "draw-0.parquet")
        chosen = [
            pairs[i] for i in generator(r.seed, 0, "int8").permutation(len(pairs))[:CALIBRATION]
        ]
        rows = exact.tokenize(*zip(*map(trainings.pair_texts(source), chosen)))
        backends.quantise(
            trained.path / "model", [exact.tokenize.pad([row], "cpu") for row in rows], folder
        )
    distributed.barrier()
    note = agreement(judges(task, r), exact, rankers.load(task, name, trained, "int8", folder))
    text = (
        f"{name} in int8: nDCG@10 {note['own']:.4f} against {note['whole']:.4f} in fp32 on {note['queries']} dev queries, "
        f"Kendall's tau of a query's candidates {note['kendall_tau']:.3f}"
    )
    tolerance = task.config.ranking.rerank.tolerance
    if abs(note["own"] - note["whole"]) > tolerance:
        raise InputError(
            f"{text}: differs by more than ranking.rerank.tolerance={tolerance}; set ranking.rerank.backend=openvino, or judge by more queries (ranking.rerank.dev_queries)"
        )
    say(f"  {text}")
    if distributed.rank() == 0:
        write_json(folder / "int8.json", note)


def agreement(sample: DevSample, exact: Scorer, quantised: Scorer) -> dict:
    from scipy.stats import kendalltau

    found = [sample.rerank(scorer) for scorer in (exact, quantised)]
    both = [
        (list(a.values()), [b[d] for d in a])
        for a, b in zip(*map(sample.blocks, found))
        if len(a) > 1
    ]
    if not both:
        raise InputError(
            "int8: no dev query has two candidates to compare it by; set ranking.rerank.backend=openvino"
        )
    return {
        "own": sample.mean(found[1]),
        "whole": sample.mean(found[0]),
        "queries": len(both),
        "kendall_tau": fmean(kendalltau(*pair).statistic for pair in both),
    }
