"""Where it is lost: what a split's runs show beyond their averages.

Computed with the split's judgments, for the report alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.evaluate import evaluate, means, score
from core.passages import Passages
from core.records import Qrels, Run
from core.runs import append_below, ranked
from core.task import Task
from ranking import rank

RECALL_AT = (1, 5, 10, 20, 50, 100, 200, 500, 1000)
DEPTHS = (0, 5, 10, 20, 30, 50, 100, 200)
FATES = ("never retrieved", "below the candidates", "ranked below 10", "in the ten", "first")
WORST = 3  # queries shown a language
WRONG = 3  # passages shown of such a query, beside the right one
NOWHERE = 10**9  # the rank of a passage that a system does not have

Order = Mapping[str, Sequence[str]]  # query id -> docids, the best first


@dataclass(frozen=True)
class Shown:
    """A passage in a worst query's story.

    ``ranks``: its rank in every system, None where it is not there. ``above``: the systems that
    put it above the right one.
    """

    docid: str
    title: str
    text: str
    ranks: dict[str, int | None]
    above: list[str]


@dataclass(frozen=True)
class Worst:
    """A query that the submitted system answers badly, and each system's nDCG@10."""

    qid: str
    text: str
    figures: dict[str, float]
    right: Shown | None
    wrong: list[Shown]


@dataclass(frozen=True)
class Look:
    """One language of the report's split.

    recall  source or hybrid -> k -> recall
    depth   ranker -> how many candidates it reranks -> nDCG@10
    fates   one of FATES -> share of the relevant passages
    scores  ranker -> its scores of the relevant candidates, and of the others
    """

    recall: dict[str, dict[int, float]]
    depth: dict[str, dict[int, float]]
    fates: dict[str, float]
    scores: dict[str, tuple[list[float], list[float]]]
    worst: list[Worst]


Looks = dict[str, Look]  # by language


def look(
    task: Task,
    language: str,
    split: str,
    runs: Mapping[str, Run],
    qrels: Qrels,
    values: Mapping[str, Mapping[str, float]],
) -> Look:
    """``runs`` and ``values`` (query id -> nDCG@10) are of every system."""
    config = task.config
    block = rank.depth(task)
    ks = [k for k in RECALL_AT if k <= config.retrieval.depth]
    recall = {}
    for system in config.retrieval.systems:
        recall[system] = recall_curve(runs[system], qrels, ks)
    order = {}
    for qid, hybrid_scores in runs["hybrid"].items():
        order[qid] = list(places(hybrid_scores))
    by_depth = {}
    scores = {}
    for ranker in config.ranking.rankers:
        by_depth[ranker] = depth_curve(runs[ranker], order, qrels, block)
        scores[ranker] = scores_of(runs[ranker], order, qrels, block)
    return Look(
        recall=recall,
        depth=by_depth,
        fates=fates(
            hybrid=runs["hybrid"],
            final=runs[config.submission.system],
            qrels=qrels,
            candidates=config.candidates,
        ),
        scores=scores,
        worst=worst(task, language, split, runs=runs, qrels=qrels, values=values),
    )


def recall_curve(run: Run, qrels: Qrels, ks: Sequence[int]) -> dict[int, float]:
    """Mean recall of the best k passages, by k."""
    metrics = [f"R@{k}" for k in ks]
    recall = means(evaluate(run, qrels, metrics))
    return {k: recall[f"R@{k}"] for k in ks}


def depth_curve(run: Run, order: Order, qrels: Qrels, block: int) -> dict[int, float]:
    """nDCG@10 by how many of the ``block`` candidates are reranked."""
    curve = {}
    for depth in DEPTHS:
        if depth < block:
            curve[depth] = score(reranked_to(order, run, depth), qrels)
    curve[block] = score(reranked_to(order, run, block), qrels)
    return curve


def reranked_to(order: Order, run: Run, depth: int) -> Run:
    """The hybrid's order with its first ``depth`` in the order of ``run``; 0 is the hybrid."""
    reranked = {}
    for qid, docids in order.items():
        scores = run.get(qid, {})
        block = {docid: scores[docid] for docid in docids[:depth] if docid in scores}
        reranked[qid] = append_below(block, docids)
    return reranked


def places(scores: Mapping[str, float]) -> dict[str, int]:
    """The rank of each passage, from 1, by docid, in the order of the ranks."""
    rank_of = {}
    for place, hit in enumerate(ranked(scores), 1):
        rank_of[hit.docid] = place
    return rank_of


def fates(hybrid: Run, final: Run, qrels: Qrels, candidates: int) -> dict[str, float]:
    """What became of the relevant passages, as shares: the first of FATES that is true."""
    counts = dict.fromkeys(FATES, 0)
    for qid, judged in qrels.items():
        in_hybrid = places(hybrid.get(qid, {}))
        in_final = places(final.get(qid, {}))
        for docid, gain in judged.items():
            if gain > 0:
                what = fate(in_hybrid.get(docid), in_final.get(docid), candidates)
                counts[what] += 1
    total = max(sum(counts.values()), 1)
    return {name: count / total for name, count in counts.items()}


def fate(retrieved: int | None, placed: int | None, candidates: int) -> str:
    """One of FATES: by the ranks in the hybrid and in the submitted system, None where absent."""
    if retrieved is None:
        return "never retrieved"
    if retrieved > candidates:
        return "below the candidates"
    if placed is None or placed > 10:
        return "ranked below 10"
    return "first" if placed == 1 else "in the ten"


def scores_of(run: Run, order: Order, qrels: Qrels, depth: int) -> tuple[list[float], list[float]]:
    """A ranker's scores of the candidates that are judged relevant, and of all others."""
    relevant: list[float] = []
    others: list[float] = []
    for qid, docids in order.items():
        scores = run.get(qid, {})
        judged = qrels.get(qid, {})
        for docid in docids[:depth]:
            if docid not in scores:
                continue
            if judged.get(docid, 0) > 0:
                relevant.append(scores[docid])
            else:
                others.append(scores[docid])
    return relevant, others


def worst(
    task: Task,
    language: str,
    split: str,
    runs: Mapping[str, Run],
    qrels: Qrels,
    values: Mapping[str, Mapping[str, float]],
) -> list[Worst]:
    """The queries with the lowest nDCG@10 of the submitted system.

    Of equal ones those that another system answers best; none that is answered perfectly.
    """
    final = task.config.submission.system
    texts = {query.qid: query.text for query in task.queries(language, split)}
    answerable = [qid for qid, judged in qrels.items() if max(judged.values(), default=0) > 0]

    def badness(qid: str) -> tuple[float, float, str]:
        best = max(of_system[qid] for of_system in values.values())
        return values[final][qid], -best, qid

    chosen = []
    for qid in sorted(answerable, key=badness)[:WORST]:
        if values[final][qid] >= 1.0:
            continue
        right, wrong = story(task.passages(language), qid, runs, qrels[qid], final)
        figures = {system: of_system[qid] for system, of_system in values.items()}
        text = texts.get(qid, "")
        chosen.append(Worst(qid=qid, text=text, figures=figures, right=right, wrong=wrong))
    return chosen


def story(
    passages: Passages, qid: str, runs: Mapping[str, Run], judged: Mapping[str, int], final: str
) -> tuple[Shown, list[Shown]]:
    """The right passage that ``final`` places best, and those at its top that are not relevant."""
    ranks = {system: places(run.get(qid, {})) for system, run in runs.items()}
    in_final = ranks[final]

    def place(docid: str) -> tuple[int, str]:
        return in_final.get(docid, NOWHERE), docid

    relevant = [docid for docid, gain in judged.items() if gain > 0]
    right = min(relevant, key=place)
    wrong: list[Shown] = []
    for docid in in_final:
        if docid == right or len(wrong) == WRONG:
            break
        if judged.get(docid, 0) == 0:
            wrong.append(shown(passages, docid, ranks, right))
    return shown(passages, right, ranks, right), wrong


def shown(
    passages: Passages, docid: str, ranks: Mapping[str, Mapping[str, int]], right: str
) -> Shown:
    """A passage with its text, where the corpus has it; ``ranks``: system -> docid -> rank."""
    title, text = "", "(not in the corpus)"
    row = int(passages.rows([docid], strict=False)[0])
    if row >= 0:
        document = passages.document(row)
        title, text = document.title, document.text
    own_ranks = {}
    above = []
    for system, rank_of in ranks.items():
        own_ranks[system] = rank_of.get(docid)
        if rank_of.get(docid, NOWHERE) < rank_of.get(right, NOWHERE):
            above.append(system)
    return Shown(docid=docid, title=title, text=text, ranks=own_ranks, above=above)
