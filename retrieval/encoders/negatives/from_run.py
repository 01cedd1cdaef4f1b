"""Candidates from a run: the best passages of each training query, less the relevant ones."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core.runs import ranked
from retrieval.encoders.negatives.pools import RELEVANT, Candidate

if TYPE_CHECKING:
    from retrieval.encoders.negatives.mining import Mining
    from retrieval.encoders.negatives.pools import Pool, Pools


def from_run(mining: "Mining", language: str, before: "Pools | None") -> Iterator["Pool"]:
    """A link that begins a chain.

    Relevant passages of the run, also below the depth, are there as dropped ones: their scores are
    what ``select`` measures by.
    """
    settings = mining.settings.from_run
    run = mining.run(settings.system, language)
    for qid, relevant in mining.relevant(language).items():
        yield qid, candidates_of(run.get(qid, {}), relevant, settings.depth, settings.system)


def candidates_of(
    scores: dict[str, float], relevant: set[str], depth: int, system: str
) -> list[Candidate]:
    """The best ``depth`` of one query's passages, and all relevant ones, by their places."""
    candidates = []
    for place, (docid, score) in enumerate(ranked(scores), 1):
        is_relevant = docid in relevant
        if place <= depth or is_relevant:
            dropped = RELEVANT if is_relevant else ""
            candidates.append(Candidate(docid, place, score, system, dropped))
    return candidates
