"""What a cheaper way of scoring costs on dev.

A smaller depth or a cascade is measured, int8 is refused if it costs too much. Both note ``own``
and ``whole``, nDCG@10 of the cheaper way and of the one that it stands for, and the number of
``queries``.
"""

from pathlib import Path
from statistics import fmean

from core import distributed
from core.artefacts import TrainingGroups
from core.console import say
from core.distributed import generator
from core.errors import InputError
from core.files import write_json
from core.groups import pair_tables, read_table
from core.records import Run
from core.settings import Ranker
from core.steps import Step
from core.task import Task
from ranking import backends, rankers, trainings
from ranking.pairs import apart
from ranking.rankers import DevSample, at_home, depth, own_depth, texts_of
from ranking.rerank import (
    Scorer,
    score_pairs,
)

CALIBRATION = 300  # pairs that int8 is calibrated on


def judges(task: Task, ranker: Ranker) -> DevSample:
    """The dev queries of this collection that judge a ranker's ways of scoring."""
    return DevSample(task, at_home(ranker), task.config.ranking.rerank.dev_queries, depth(task))


def cascade(task: Task, name: str, scorer: Scorer, trained: Step, folder: Path) -> None:
    """Notes nDCG@10 of a ranker's own runs of dev, beside that of scoring the whole block."""
    ranker = task.config.ranking.rankers[name]
    dev = task.config.splits.dev
    sample = judges(task, ranker)
    store = rankers.scores_of(task, trained, scorer)
    logits = {}  # of the whole block, by language
    own: dict[str, Run] = {}
    queries = 0
    for language, sampled in sample.chosen.items():
        logits[language] = score_pairs(
            scorer,
            store,
            sample.pairs(language),
            texts_of(task, language, dev),
            what=f"{name} {language}-{dev}, whole block",
        )
        run = task.run(name, language, dev)
        own[language] = {qid: run[qid] for qid in sampled.candidates if qid in run}
        queries += len(sampled.qrels)
    note = {
        "after": ranker.after or "hybrid",
        "depth": own_depth(task, ranker),
        "block": depth(task),
        "queries": queries,
        "own": sample.mean(own),
        "whole": sample.mean(sample.ranked(scorer, logits)),
    }
    if distributed.rank() == 0:
        write_json(folder / "cascade.json", note)


def int8(task: Task, name: str, trained: Step, folder: Path) -> None:
    """Writes a ranker's quantised model, and what it costs.

    Raises InputError where nDCG@10 on the ranker's dev queries differs from that in fp32 by more
    than ``ranking.rerank.tolerance``.
    """
    ranker = task.config.ranking.rankers[name]
    sample = judges(task, ranker)
    exact = rankers.load(task, name, trained, "openvino", number_format="fp32")
    if distributed.rank() == 0:
        queries, passages = calibration_texts(task, ranker, sample)
        rows = exact.tokenize(queries, passages)
        inputs = [exact.tokenize.pad([row], "cpu") for row in rows]
        backends.quantise(trained.path / "model", inputs, folder)
    distributed.barrier()
    quantised = rankers.load(task, name, trained, "int8", folder)
    note = agreement(sample, exact, quantised)
    text = (
        f"{name} in int8: nDCG@10 {note['own']:.4f} against {note['whole']:.4f} in fp32 "
        f"on {note['queries']} dev queries, "
        f"Kendall's tau of a query's candidates {note['kendall_tau']:.3f}"
    )
    tolerance = task.config.ranking.rerank.tolerance
    if abs(note["own"] - note["whole"]) > tolerance:
        raise InputError(
            f"{text}: differs by more than ranking.rerank.tolerance={tolerance}; set "
            "ranking.rerank.backend=openvino, or judge by more queries (ranking.rerank.dev_queries)"
        )
    say(f"  {text}")
    if distributed.rank() == 0:
        write_json(folder / "int8.json", note)


def calibration_texts(task: Task, ranker: Ranker, sample: DevSample) -> tuple[list[str], list[str]]:
    """Queries and passages of a random sample of a ranker's training pairs.

    A given ranker has none: the sample is of its dev candidates.
    """
    if ranker.model is None:
        chosen = training_texts(task, ranker)
    else:
        texts = candidate_texts(task, sample)
        chosen = [texts[place] for place in sampled_places(len(texts), ranker.seed)]
    return apart(chosen)


def training_texts(task: Task, ranker: Ranker) -> list[tuple[str, str]]:
    """Query and passage of some training pairs; of millions no other becomes a Python object."""
    source = rankers.task_of(task, ranker)
    groups = source.step(TrainingGroups(ranker.recipe))
    draw = read_table(groups.path / "draw-0.parquet", encoded=True)
    (pairs,) = pair_tables([draw])
    rows = sampled_places(len(pairs), ranker.seed)
    text_of = trainings.PairTexts(source)
    return [text_of(pair) for pair in pairs.pairs(rows)]


def sampled_places(count: int, seed: int) -> list[int]:
    """CALIBRATION of ``count`` places, or all, in random order."""
    return generator(seed, 0, "int8").permutation(count)[:CALIBRATION].tolist()


def candidate_texts(task: Task, sample: DevSample) -> list[tuple[str, str]]:
    """Query and passage, of all candidates of the sampled dev queries."""
    texts: list[tuple[str, str]] = []
    for language in sample.chosen:
        queries, passages = texts_of(task, language, sample.split)(sample.pairs(language))
        texts += zip(queries, passages, strict=True)
    return texts


def agreement(sample: DevSample, exact: Scorer, quantised: Scorer) -> dict:
    """The note of two ways of scoring the sample's candidates.

    ``kendall_tau``: mean over queries of the agreement of their two orders. Raises InputError
    where no query has two candidates.
    """
    from scipy.stats import kendalltau

    exact_runs = sample.rerank(exact)
    quantised_runs = sample.rerank(quantised)
    blocks = zip(sample.blocks(exact_runs), sample.blocks(quantised_runs), strict=True)
    taus = []
    for exact_scores, quantised_scores in blocks:
        if len(exact_scores) > 1:
            others = [quantised_scores[docid] for docid in exact_scores]
            taus.append(kendalltau(list(exact_scores.values()), others).statistic)
    if not taus:
        raise InputError(
            "int8: no dev query has two candidates to compare it by; "
            "set ranking.rerank.backend=openvino"
        )
    return {
        "own": sample.mean(quantised_runs),
        "whole": sample.mean(exact_runs),
        "queries": len(taus),
        "kendall_tau": fmean(taus),
    }
