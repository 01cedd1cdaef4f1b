"""nDCG@10, Recall@k, MRR@100 and average precision through ir-measures; paired significance.

Every judged query counts: one that the run does not answer scores 0. ir-measures' providers break ties in two different ways,
so they are handed depth - rank in our one order as the score.

    python -m core.evaluate RUN QRELS
"""
import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from core.collection import read_qrels
from core.errors import InputError, exit_with_message
from core.records import Qrels, Run
from core.runs import by_depth, read_run
from core.task import Task

METRICS = ("nDCG@10", "R@100", "R@200", "RR@100", "AP")
PerQuery = dict[str, dict[str, float]]      # metric -> query id -> value


def evaluate(run: Run, qrels: Qrels, metrics: Sequence[str] = METRICS) -> PerQuery:
    """Values per judged query. A query whose judgments are all 0 counts, as 0. Raises InputError without judgments."""
    import ir_measures

    if not qrels:
        raise InputError("no judgments to evaluate with")
    ordered = {qid: by_depth(scores) for qid, scores in run.items() if qid in qrels and scores}
    values = {metric: dict.fromkeys(qrels, 0.0) for metric in metrics}
    if ordered:
        parsed = [ir_measures.parse_measure(m) for m in metrics]
        for found in ir_measures.iter_calc(parsed, qrels, ordered):
            values[str(found.measure)][found.query_id] = float(found.value)
    return values


def means(values: PerQuery) -> dict[str, float]:
    return {metric: fmean(by_query.values()) for metric, by_query in values.items()}


def score(run: Run, qrels: Qrels, metric: str = "nDCG@10") -> float:
    return means(evaluate(run, qrels, [metric]))[metric]


def split_judgments(task: Task, language: str, split: str) -> Qrels:
    """Judgments of any split, test included, for the queries in use: for measuring only."""
    wanted = {q.qid for q in task.queries(language, split)}
    return {qid: judged for qid, judged in read_qrels(task.collection.qrels_file(language, split)).items() if qid in wanted}


def macro(by_language: Mapping[str, Mapping[str, float]], languages: Sequence[str]) -> dict[str, float]:
    """Mean over languages, each weighing the same."""
    return {m: fmean(by_language[la][m] for la in languages) for m in by_language[languages[0]]} if languages else {}


def randomisation_test(differences: Sequence[float], rounds: int = 10000, seed: int = 0) -> float:
    """Two-sided p of a paired randomisation test: the signs of the per-query differences are flipped at random."""
    d = np.asarray(differences, float)
    d = d[d != 0]
    if not len(d):
        return 1.0
    signs = np.random.Generator(np.random.PCG64(seed)).choice([-1.0, 1.0], (rounds, len(d)))
    return float(((np.abs(signs @ d) >= abs(d.sum()) - 1e-12).sum() + 1) / (rounds + 1))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m core.evaluate", description="scores a TREC run against TREC judgments")
    parser.add_argument("run", type=Path)
    parser.add_argument("qrels", type=Path)
    options = parser.parse_args()
    qrels = read_qrels(options.qrels)
    run = read_run(options.run)
    if not run.keys() & qrels.keys():
        raise InputError(f"{options.run}: answers none of the {len(qrels)} judged queries (its first is {next(iter(run))}, theirs {next(iter(qrels), 'none')}); is it of this language and split?")
    for metric, value in means(evaluate(run, qrels)).items():
        print(f"{metric}\t{value:.4f}")
    print(f"queries\t{len(qrels)} judged, {len(qrels.keys() & run.keys())} answered")


if __name__ == "__main__":
    exit_with_message(main)
