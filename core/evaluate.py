"""nDCG@10, Recall@k, MRR@100 and average precision through ir-measures; paired significance.

Every judged query counts: one that the run does not answer scores 0. ir-measures' providers break ties in two different ways,
so they are handed depth - rank in our one order as the score.

    python -m core.evaluate RUN QRELS
"""

import argparse
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from core.collection import read_qrels
from core.errors import InputError, exit_with_message
from core.fusion import Aligned
from core.records import Qrels, Run
from core.runs import by_depth, read_run

METRICS = ("nDCG@10", "R@100", "R@200", "RR@100", "AP")
PerQuery = dict[str, dict[str, float]]  # metric -> query id -> value


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


@dataclass(frozen=True)
class Relevant:
    """The relevant passages among aligned candidates, for scoring many fusions of the same runs: for each its query, its place and its
    gain; ``ideal`` is each query's best possible DCG over all its judgments, retrieved or not."""

    query: np.ndarray
    place: np.ndarray
    gain: np.ndarray
    ideal: np.ndarray
    k: int = 10


def relevant(
    aligned: Aligned, qrels: Mapping[Hashable, Mapping[str, int]], k: int = 10
) -> Relevant:
    """``qrels``: judgments of each of ``aligned.queries``; raises InputError where a query has none."""
    rows, ideal = [], np.zeros(len(aligned.queries))
    for i, (q, docids) in enumerate(zip(aligned.queries, aligned.docids)):
        if q not in qrels:
            raise InputError(f"query {q}: no judgments, expected every query to be judged")
        gains = {d: g for d, g in qrels[q].items() if g > 0}
        ideal[i] = sum(
            g / np.log2(n + 2) for n, g in enumerate(sorted(gains.values(), reverse=True)[:k])
        )
        rows += [(i, j, gains[d]) for j, d in enumerate(docids) if d in gains]
    found = np.array(rows, float).reshape(-1, 3)
    return Relevant(found[:, 0].astype(int), found[:, 1].astype(int), found[:, 2], ideal, k)


def ndcg(values: np.ndarray, found: Relevant) -> np.ndarray:
    """nDCG@k a query of fused ``values`` [query, passage] (NaN: not a candidate), as trec_eval has it: linear gains, ties by docid
    descending. A relevant passage's rank is one more than the number of passages above it, so nothing is sorted."""
    rows = np.where(np.isnan(values), -np.inf, values)[found.query]
    own = rows[np.arange(len(rows)), found.place][:, None]
    above = (rows > own).sum(1) + (
        (rows == own) & (np.arange(rows.shape[1]) < found.place[:, None])
    ).sum(1)
    gains = np.where(
        (above < found.k) & (own[:, 0] > -np.inf), found.gain / np.log2(above + 2.0), 0.0
    )
    reached = np.bincount(found.query, gains, len(found.ideal)).astype(float)
    return np.divide(reached, found.ideal, out=np.zeros_like(reached), where=found.ideal > 0)


def macro(
    by_language: Mapping[str, Mapping[str, float]], languages: Sequence[str]
) -> dict[str, float]:
    """Mean over languages, each weighing the same."""
    return (
        {m: fmean(by_language[la][m] for la in languages) for m in by_language[languages[0]]}
        if languages
        else {}
    )


def randomisation_test(differences: Sequence[float], rounds: int = 10000, seed: int = 0) -> float:
    """Two-sided p of a paired randomisation test: the signs of the per-query differences are flipped at random."""
    d = np.asarray(differences, float)
    d = d[d != 0]
    if not len(d):
        return 1.0
    signs = np.random.Generator(np.random.PCG64(seed)).choice([-1.0, 1.0], (rounds, len(d)))
    return float(((np.abs(signs @ d) >= abs(d.sum()) - 1e-12).sum() + 1) / (rounds + 1))


def t_test(differences: Sequence[float]) -> float:
    """Two-sided p of a paired t-test; 1 where all differences are equal to 0."""
    from scipy.stats import ttest_1samp

    return (
        float(ttest_1samp(differences, 0.0).pvalue)
        if len(differences) > 1 and np.any(differences)
        else 1.0
    )


TESTS = {
    "randomisation": lambda differences, seed: randomisation_test(differences, seed=seed),
    "t": lambda differences, _seed: t_test(differences),
}


def holm(values: Sequence[float]) -> list[float]:
    """Holm's correction (1979) of p values for their number, in the order given."""
    order, adjusted, largest = np.argsort(values, kind="stable"), [0.0] * len(values), 0.0
    for step, i in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - step) * values[i]))
        adjusted[i] = largest
    return adjusted


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m core.evaluate", description="scores a TREC run against TREC judgments"
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("qrels", type=Path)
    options = parser.parse_args()
    qrels = read_qrels(options.qrels)
    run = read_run(options.run)
    if not run.keys() & qrels.keys():
        raise InputError(
            f"{options.run}: answers none of the {len(qrels)} judged queries (its first is {next(iter(run))}, theirs {next(iter(qrels), 'none')}); is it of this language and split?"
        )
    for metric, value in means(evaluate(run, qrels)).items():
        print(f"{metric}\t{value:.4f}")
    print(f"queries\t{len(qrels)} judged, {len(qrels.keys() & run.keys())} answered")


if __name__ == "__main__":
    exit_with_message(main)
