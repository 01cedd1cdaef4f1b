"""nDCG@10, Recall@k, MRR@100 and average precision through ir-measures; paired significance.

Every judged query counts: one that the run does not answer scores 0. ir-measures' providers break
ties in two different ways, so they are handed depth - rank in our one order as the score.

    python -m core.evaluate RUN QRELS
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from core.collection import read_qrels
from core.errors import InputError, exit_with_message
from core.fusion import Aligned
from core.records import Qrels, Run, RunByQuery
from core.runs import by_depth, read_run

METRICS = ("nDCG@10", "R@100", "R@200", "RR@100", "AP")
QUERIES_AT_ONCE = 5000  # whose scores are there a second time, for ir-measures
SIGNS_AT_ONCE = 1 << 22  # of a randomisation test; 8 bytes each, and 8 more while they are drawn

PerQuery = dict[str, dict[str, float]]  # metric -> query id -> value


def evaluate(run: RunByQuery, qrels: Qrels, metrics: Sequence[str] = METRICS) -> PerQuery:
    """Values per judged query.

    A query whose judgments are all 0 counts, as 0. Raises InputError without judgments.
    """
    import ir_measures

    if not qrels:
        raise InputError("no judgments to evaluate with")
    measures = []
    values: PerQuery = {}
    for metric in metrics:
        measures.append(ir_measures.parse_measure(metric))
        values[metric] = dict.fromkeys(qrels, 0.0)
    for qids in in_parts(list(qrels), QUERIES_AT_ONCE):
        part_of_qrels: Qrels = {}  # of the queries that the run answers
        part_of_run: Run = {}
        for qid in qids:
            scores = run.get(qid)
            if scores:
                part_of_qrels[qid] = qrels[qid]
                part_of_run[qid] = by_depth(scores)
        if not part_of_run:
            continue
        for value in ir_measures.iter_calc(measures, part_of_qrels, part_of_run):
            values[str(value.measure)][value.query_id] = float(value.value)
    return values


def in_parts(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """``items`` in their order, at most ``size`` of them at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def means(values: PerQuery) -> dict[str, float]:
    """Metric -> mean over queries."""
    return {metric: fmean(by_query.values()) for metric, by_query in values.items()}


def score(run: Run, qrels: Qrels, metric: str = "nDCG@10") -> float:
    """The mean of one metric over the judged queries of a language."""
    return means(evaluate(run, qrels, [metric]))[metric]


@dataclass(frozen=True)
class Relevant:
    """The relevant passages among aligned candidates, for scoring many fusions of the same runs.

    ``query``, ``place`` and ``gain`` have an entry a passage: its query's row, its column there,
    and its gain. ``ideal`` is each query's best possible DCG over all its judgments, retrieved or
    not.
    """

    query: np.ndarray
    place: np.ndarray
    gain: np.ndarray
    ideal: np.ndarray
    k: int = 10


def relevant(aligned: Aligned, qrels: Mapping[Any, Mapping[str, int]], k: int = 10) -> Relevant:
    """What ``ndcg`` needs to know of the judgments of ``aligned.queries``.

    Raises InputError where a query has none.
    """
    rows: list[int] = []
    places: list[int] = []
    gains: list[float] = []
    ideal = np.zeros(len(aligned.queries))
    for row, (query, docids) in enumerate(zip(aligned.queries, aligned.docids, strict=True)):
        if query not in qrels:
            raise InputError(f"query {query}: no judgments, expected every query to be judged")
        gain_of = {docid: gain for docid, gain in qrels[query].items() if gain > 0}
        best_gains = sorted(gain_of.values(), reverse=True)[:k]
        ideal[row] = sum(gain / np.log2(place + 2) for place, gain in enumerate(best_gains))
        for place, docid in enumerate(docids):
            if docid in gain_of:
                rows.append(row)
                places.append(place)
                gains.append(gain_of[docid])
    return Relevant(
        query=np.array(rows, int),
        place=np.array(places, int),
        gain=np.array(gains, float),
        ideal=ideal,
        k=k,
    )


def ndcg(values: np.ndarray, judged: Relevant) -> np.ndarray:
    """nDCG@k a query of fused ``values`` [query, passage] (NaN: not a candidate).

    As trec_eval has it: linear gains, ties by docid descending. A relevant passage's rank is one
    more than the number of passages above it, so nothing is sorted.
    """
    without_gaps = np.where(np.isnan(values), -np.inf, values)
    rows = without_gaps[judged.query]  # a row a relevant passage
    own = rows[np.arange(len(rows)), judged.place][:, None]
    higher = rows > own
    comes_before = np.arange(rows.shape[1]) < judged.place[:, None]
    tied_before = (rows == own) & comes_before
    above = higher.sum(1) + tied_before.sum(1)
    counts = (above < judged.k) & (own[:, 0] > -np.inf)
    gains = np.where(counts, judged.gain / np.log2(above + 2.0), 0.0)
    reached = np.bincount(judged.query, gains, len(judged.ideal)).astype(float)
    return np.divide(reached, judged.ideal, out=np.zeros_like(reached), where=judged.ideal > 0)


def macro(
    by_language: Mapping[str, Mapping[str, float]], languages: Sequence[str]
) -> dict[str, float]:
    """Metric -> mean over ``languages``, each weighing the same; empty without any."""
    if not languages:
        return {}
    mean_of = {}
    for metric in by_language[languages[0]]:
        mean_of[metric] = fmean(by_language[language][metric] for language in languages)
    return mean_of


def of_each_language(values: Sequence[float], languages: Sequence[str]) -> dict[str, np.ndarray]:
    """Language -> its queries' values. ``languages`` names each value's."""
    array = np.asarray(values, float)
    names = np.asarray(languages)
    own = {}
    for language in dict.fromkeys(languages):
        own[language] = array[names == language]
    return own


def mean_over_languages(values: Sequence[float], languages: Sequence[str]) -> float:
    """The mean over languages of the mean over each language's queries, as all tables show it."""
    by_language = of_each_language(values, languages)
    return fmean(fmean(own) for own in by_language.values())


def randomisation_test(
    differences: Sequence[float],
    languages: Sequence[str],
    rounds: int = 10000,
    seed: int = 0,
) -> float:
    """Two-sided p of a paired randomisation test of the mean over languages.

    ``differences`` is one a query, and ``languages`` names each query's. In each round the sign of
    every query's difference is drawn anew; p is the share of rounds (with the observed one) whose
    mean over languages of a language's mean difference is as far from 0 as the observed one. That
    is the number that tables show: a test of the pooled queries would let a language of 2,900
    queries outvote one of 100. Of one language it is the plain paired test.
    """
    shares = weights_of_queries(languages) * np.asarray(differences, float)
    shares = shares[shares != 0]  # the others add nothing, whatever their sign
    if not len(shares):
        return 1.0
    # Signs that lead to the same sum add it up in another order: what rounding takes off is no
    # reason to count them as less extreme.
    rounding = 1e-12 * max(1.0, float(np.abs(shares).sum()))
    threshold = abs(shares.sum()) - rounding
    random = np.random.Generator(np.random.PCG64(seed))
    rounds_at_once = max(1, SIGNS_AT_ONCE // len(shares))
    as_extreme = 0
    for start in range(0, rounds, rounds_at_once):
        count = min(rounds_at_once, rounds - start)
        signs = random.choice([-1.0, 1.0], (count, len(shares)))
        is_extreme = np.abs(signs @ shares) >= threshold
        as_extreme += int(is_extreme.sum())
    return (as_extreme + 1) / (rounds + 1)


def weights_of_queries(languages: Sequence[str]) -> np.ndarray:
    """What each query weighs in a mean over languages, beside 1 in a mean over queries.

    Of n queries and L languages, a query of a language with m has n / (L m): exactly 1 where all
    languages have as many.
    """
    names = np.asarray(languages)
    _, language, queries = np.unique(names, return_inverse=True, return_counts=True)
    return len(names) / (len(queries) * queries[language])


def t_test(differences: Sequence[float], languages: Sequence[str]) -> float:
    """Two-sided p of a paired t-test of the mean over languages.

    The statistic is the mean over languages of a language's mean difference, over its standard
    error, the root of the sum of s² / m over languages (m queries, s² their sample variance)
    divided by the number of languages. Each language has a variance of its own, so the degrees of
    freedom are Welch's and Satterthwaite's (Satterthwaite 1946; Welch 1947). Of one language it is
    the plain paired t-test. 1 where all differences are 0. Raises InputError for a language with a
    single query, whose variance nothing tells.
    """
    from scipy.stats import t as student

    if not np.any(differences):
        return 1.0
    means: list[float] = []
    squared_errors: list[float] = []
    freedom: list[int] = []
    for language, sample in of_each_language(differences, languages).items():
        if len(sample) < 2:
            where = f"{language}: " if language else ""
            raise InputError(
                f"{where}found 1 judged query, expected 2 or more of each language for a t-test; "
                "take the randomisation test"
            )
        means.append(sample.mean())
        squared_errors.append(sample.var(ddof=1) / len(sample))
        freedom.append(len(sample) - 1)
    difference = fmean(means)
    error_squared = sum(squared_errors)
    if not error_squared:
        return 0.0 if difference else 1.0
    statistic = difference / (np.sqrt(error_squared) / len(means))
    parts = np.square(squared_errors) / freedom
    freedom_of_mean = error_squared**2 / parts.sum()
    return float(2 * student.sf(abs(statistic), freedom_of_mean))


TESTS: dict[str, Callable[[Sequence[float], Sequence[str]], float]] = {
    "randomisation": randomisation_test,
    "t": t_test,
}
"""(differences, each one's language) -> two-sided p of the mean over languages."""


def holm(values: Sequence[float]) -> list[float]:
    """Holm's correction (1979) of p values for their number, in the order given."""
    adjusted = [0.0] * len(values)
    largest = 0.0
    smallest_first = np.argsort(values, kind="stable")
    for step, place in enumerate(smallest_first):
        corrected = min(1.0, (len(values) - step) * values[place])
        largest = max(largest, corrected)
        adjusted[place] = largest
    return adjusted


def main() -> None:
    """The command line: a line a metric, and how many of the judged queries were answered."""
    parser = argparse.ArgumentParser(
        prog="python -m core.evaluate", description="scores a TREC run against TREC judgments"
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("qrels", type=Path)
    options = parser.parse_args()
    qrels = read_qrels(options.qrels)
    run = read_run(options.run)
    answered = qrels.keys() & run.keys()
    if not answered:
        first_of_run = next(iter(run))
        first_judged = next(iter(qrels), "none")
        raise InputError(
            f"{options.run}: answers none of the {len(qrels)} judged queries "
            f"(its first is {first_of_run}, theirs {first_judged}); "
            "is it of this language and split?"
        )
    for metric, value in means(evaluate(run, qrels)).items():
        print(f"{metric}\t{value:.4f}")
    print(f"queries\t{len(qrels)} judged, {len(answered)} answered")


if __name__ == "__main__":
    exit_with_message(main)
