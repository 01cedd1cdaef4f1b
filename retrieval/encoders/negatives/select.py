"""The five rules that choose negatives by rank and score (data-utilization-2025, 4).

Naive Top-K takes the best candidates as they are; the others pass some over: Top-K shifted by N,
Abs, MarginPos and PercPos. Training groups of rerankers are chosen by the same rules.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from core.recipes import Bounds

if TYPE_CHECKING:
    from retrieval.encoders.negatives.mining import Mining
    from retrieval.encoders.negatives.pools import Pool, Pools


class Rules:
    """``bounds`` on the candidates of one query, whose ``relevant`` passages are known.

    ``scores``: those that the thresholds are on; a passage that is not among them is below all.
    """

    def __init__(self, bounds: Bounds, relevant: Collection[str], scores: Mapping[str, float]):
        self.bounds = bounds
        self.scores = scores
        of_relevant = [scores[docid] for docid in relevant if docid in scores]
        self.limit = upper_bound(bounds, of_relevant)

    def reason_against(self, docid: str, place: int) -> str:
        """Why a candidate at a place from 1 on may be no negative; empty where it may."""
        if place <= self.bounds.shift:
            return "rank"
        return "score" if self.scores.get(docid, float("-inf")) > self.limit else ""


def upper_bound(bounds: Bounds, relevant: Collection[float]) -> float:
    """The highest score that a negative may have: the lowest of the bounds that are set.

    Abs, MarginPos and PercPos (Moreira et al. 2024 as in data-utilization-2025, 4). PercPos is
    pos − |pos|·(1 − p), so that a negative score does not flip it. Without a relevant passage
    among the scores the last two bind nothing.
    """
    limits = [float("inf")] if bounds.below is None else [bounds.below]
    if relevant:
        best = max(relevant)
        if bounds.margin is not None:
            limits.append(best - bounds.margin)
        if bounds.share is not None:
            limits.append(best - abs(best) * (1 - bounds.share))
    return min(limits)


def select(mining: "Mining", language: str, before: "Pools") -> Iterator["Pool"]:
    """A link of the chain: drops the candidates that the rules refuse.

    The thresholds are on the candidates' own scores or on those of ``select.scores``, where a
    passage that the system does not know is below everything.
    """
    bounds = mining.settings.select
    others = mining.run(bounds.scores, language) if bounds.scores else None
    for qid, relevant in mining.relevant(language).items():
        candidates = before.of(qid)
        if others is None:
            scores = {candidate.docid: candidate.score for candidate in candidates}
        else:
            scores = others.get(qid, {})
        rules = Rules(bounds, relevant, scores)
        kept = []
        for candidate in candidates:
            reason = candidate.dropped or rules.reason_against(candidate.docid, candidate.place)
            kept.append(candidate._replace(dropped=reason))
        yield qid, kept
