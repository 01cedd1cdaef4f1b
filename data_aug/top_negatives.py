"""NS-k: negatives drawn at random from a query's candidates (paper, 4.3), and the rules that choose among them by rank and score."""

from collections.abc import Callable, Collection, Iterator, Mapping

from core.recipes import Select
from core.records import Qrels, Run, TrainingPair
from core.runs import ranked

ORIGIN = "top_negatives"


def top_negatives(
    language: str,
    run: Run,
    qrels: Qrels,
    taken: Mapping[str, Collection[str]],
    k: int,
    depth: int,
    random,
    select: Select = Select(),
    scores: Run | None = None,
    keep: Callable[[str, str], bool] = lambda qid, docid: True,
) -> Iterator[TrainingPair]:
    """``k`` of the ``depth`` best candidates a judged query, without those judged relevant and without pairs already ``taken``; all
    of them where there are fewer. ``scores``: the run that ``select``'s thresholds are on. ``keep`` is asked before a passage is taken."""
    for qid, relevance in qrels.items():
        relevant = {d for d, r in relevance.items() if r > 0}
        limit = upper_bound(
            select, [score for d, score in (scores or run).get(qid, {}).items() if d in relevant]
        )
        own = (scores or run).get(qid, {})
        pool = [
            (rank, d)
            for rank, (d, _) in enumerate(ranked(run.get(qid, {}))[:depth], 1)
            if rank > select.shift
            and d not in relevant
            and d not in taken.get(qid, ())
            and own.get(d, float("-inf")) <= limit
        ]
        order = range(len(pool)) if select.draw == "top" else random.permutation(len(pool))
        chosen: list[int] = []
        for i in order:
            if len(chosen) == k:
                break
            if keep(qid, pool[i][1]):
                chosen.append(i)
        for i in sorted(chosen):
            yield TrainingPair(
                language, qid, pool[i][1], 0.0, ORIGIN, 0, "hybrid", f"rank {pool[i][0]}"
            )


def upper_bound(select: Select, relevant: Collection[float]) -> float:
    """The highest score that a negative may have (Moreira et al. 2024 as in data-utilization-2025, 4): Abs, MarginPos and PercPos, the
    lowest of those set. PercPos is pos − |pos|·(1 − p), so that a negative score does not flip it. Without a relevant passage among the
    scores the last two bind nothing."""
    bounds = [float("inf")] if select.below is None else [select.below]
    if relevant and select.margin is not None:
        bounds.append(max(relevant) - select.margin)
    if relevant and select.share is not None:
        bounds.append(max(relevant) - abs(max(relevant)) * (1 - select.share))
    return min(bounds)
