"""The rules that choose among candidates by rank and score (data-utilization-2025, 4)."""

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from core.recipes import Bounds

if TYPE_CHECKING:
    from retrieval.encoders.negatives.mining import Mining
    from retrieval.encoders.negatives.pools import Pool, Pools


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


def reason_against(bounds: Bounds, place: int, score: float, limit: float) -> str:
    """Why a candidate may be no negative; empty where it may.

    ``place`` counts from 1; ``limit`` is the query's ``upper_bound``.
    """
    if place <= bounds.shift:
        return "rank"
    return "score" if score > limit else ""


def select(mining: "Mining", language: str, before: "Pools") -> Iterator["Pool"]:
    """A link of the chain: drops the candidates that the rules refuse.

    The thresholds are on the candidates' own scores or on those of ``select.scores``, where a
    passage that the system does not know is below everything.
    """
    bounds = mining.settings.select
    others = mining.run(bounds.scores, language) if bounds.scores else None
    for qid, relevant in mining.relevant(language).items():
        candidates = before.of(qid)
        scores = others.get(qid, {}) if others is not None else None
        if scores is None:
            scores = {candidate.docid: candidate.score for candidate in candidates}
        limit = upper_bound(bounds, [scores[docid] for docid in relevant if docid in scores])
        kept = []
        for candidate in candidates:
            score = scores.get(candidate.docid, float("-inf"))
            reason = candidate.dropped or reason_against(bounds, candidate.place, score, limit)
            kept.append(candidate._replace(dropped=reason))
        yield qid, kept
