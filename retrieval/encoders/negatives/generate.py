"""Further candidates for queries that have too few (data-utilization-2025, 3.4).

"Positive-driven back-forward generation": what the positive says about the query becomes a new
query, and the ensemble's best passages for that become candidates.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from core.console import say
from core.records import Query
from core.runs import ranked
from retrieval.encoders.negatives.from_ensemble import Ensemble
from retrieval.encoders.negatives.judge import judged
from retrieval.encoders.negatives.pools import Candidate
from retrieval.encoders.negatives.writers import WRITERS, Writer

if TYPE_CHECKING:
    from retrieval.encoders.negatives.mining import Mining
    from retrieval.encoders.negatives.pools import Pool, Pools

ORIGIN = "generate"
BEYOND = "beyond N"
"""Why a candidate is dropped of a query that has enough without it."""

AT_ONCE = 1000  # queries whose new queries are written and searched together


def generate(mining: "Mining", language: str, before: "Pools") -> Iterator["Pool"]:
    """A link of the chain: each query has ``number`` negatives behind it, or all that there are.

    The best ones stay where there are more. New candidates follow in the order of the new query's
    ranking, without those that an earlier link brought, whatever became of them.
    """
    ensemble = Ensemble(mining, language)
    writer = WRITERS[mining.settings.generate.by](mining, language)
    queries = iter(mining.relevant(language))
    while qids := list(islice(queries, AT_ONCE)):
        pools = {qid: before.of(qid) for qid in qids}
        yield from filled(mining, language, pools, writer, ensemble)
    if text := writer.described():
        say(f"  {mining.name}: generate: {language}: {text}")


def filled(
    mining: "Mining",
    language: str,
    pools: Mapping[str, list[Candidate]],
    writer: Writer,
    ensemble: Ensemble,
) -> Iterator["Pool"]:
    """Some queries with the candidates that they had, and with new ones where those are few."""
    settings = mining.settings.generate
    short = [qid for qid, own in pools.items() if count(own) < settings.number]
    written = writer.queries(short)
    found = dict(ensemble.of_new(to_search(written), settings.depth))
    fresh = {}
    for qid, own in pools.items():
        fresh[qid] = new_candidates(mining, language, qid, own, found.get(qid, {}))
    if settings.judged:
        fresh = dict(judged(mining, language, list(fresh.items())))
    for qid, own in pools.items():
        yield qid, at_most([*own, *fresh[qid]], settings.number)


def count(candidates: Sequence[Candidate]) -> int:
    """Of those that no link has dropped."""
    return sum(not candidate.dropped for candidate in candidates)


def to_search(written: Mapping[str, str]) -> list[Query]:
    """Query ids with what is searched for them; there may be nothing."""
    return [Query(qid, text) for qid, text in written.items() if text.strip()]


def new_candidates(
    mining: "Mining",
    language: str,
    qid: str,
    before: Sequence[Candidate],
    scores: Mapping[str, float],
) -> list[Candidate]:
    """The best passages of a new query, less those that are known and the relevant ones."""
    known = {candidate.docid for candidate in before if not candidate.passage_language}
    known |= mining.relevant(language)[qid]
    candidates = []
    for place, (docid, score) in enumerate(ranked(scores), 1):
        if docid not in known:
            candidates.append(Candidate(docid, place, score, ORIGIN))
    return candidates


def at_most(candidates: Sequence[Candidate], number: int) -> list[Candidate]:
    """The first ``number`` that are not dropped stay; new ones beyond them are not kept at all."""
    kept = []
    left = number
    for candidate in candidates:
        if candidate.dropped:
            kept.append(candidate)
        elif left:
            kept.append(candidate)
            left -= 1
        elif candidate.origin != ORIGIN:
            kept.append(candidate._replace(dropped=BEYOND))
    return kept
