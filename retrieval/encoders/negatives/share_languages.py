"""Hard negatives shared across languages (mhfn-2022, 3.2, equations 2 and 3).

What is a hard negative of a query in one language is one of its parallel versions, too: the
passages' numbers are put together over all languages and given back to each, where a number stands
for the passage in that language. Which queries and passages are parallel is an entry of PARALLELS.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from core.console import say
from retrieval.encoders.negatives.parallels import Parallel, Version
from retrieval.encoders.negatives.pools import Candidate

if TYPE_CHECKING:
    from retrieval.encoders.negatives.mining import Mining
    from retrieval.encoders.negatives.pools import Pool, Pools

ORIGIN = "share_languages"
ELSEWHERE = "relevant in another language"
"""Why a candidate is dropped that a parallel version of its query has as a relevant passage."""

AT_ONCE = 4096
"""Queries whose passages are looked up together."""


def share_languages(mining: "Mining", language: str, before: "Pools") -> Iterator["Pool"]:
    """A link of the chain: adds what is a hard negative of a query's versions in other languages.

    What is added stands behind a query's own candidates, with its place and score in the other
    language's ranking. All are passages of the query's language; what has no version there is left
    out, and counted in what is said.
    """
    parallel = mining.parallel()
    counts = {"queries": 0, "added": 0, "none": 0}
    relevant = mining.relevant(language)
    waiting = iter(relevant)
    while qids := list(islice(waiting, AT_ONCE)):
        versions = parallel.versions(language, qids)
        counts["queries"] += sum(map(bool, versions))
        passages = dispatched(parallel, language, versions, counts)
        for qid, own_versions in zip(qids, versions, strict=True):
            own = before.of(qid)
            yield qid, united(own, relevant[qid], own_versions, passages, counts)
    say(
        f"  {mining.name}: {language}: {counts['queries']} of {len(relevant)} queries have "
        f"versions in other languages, which add {counts['added']} candidates; of "
        f"{counts['none']} passages there is no version in {language}"
    )


def dispatched(
    parallel: Parallel, language: str, versions: Sequence[list[Version]], counts: dict[str, int]
) -> dict[tuple[str, str], str]:
    """(other language, docid there) -> its version's docid here, of all that versions name."""
    wanted: dict[str, dict[str, None]] = {}
    for of_query in versions:
        for version in of_query:
            docids = wanted.setdefault(version.language, {})
            docids |= dict.fromkeys(version.relevant)
            docids |= dict.fromkeys(one.docid for one in version.candidates if not one.dropped)
    found = {}
    for other, docids in wanted.items():
        names = list(docids)
        for docid, here in zip(names, parallel.passages(language, other, names), strict=True):
            if here is None:
                counts["none"] += 1
            else:
                found[other, docid] = here
    return found


def united(
    own: list[Candidate],
    relevant: set[str],
    versions: list[Version],
    passages: dict[tuple[str, str], str],
    counts: dict[str, int],
) -> list[Candidate]:
    """A query's candidates: its own, then those of its versions in the order of their places.

    A passage that is relevant to a version is no negative.
    """
    refused = set()
    gathered: dict[str, Candidate] = {}
    known = {candidate.docid for candidate in own} | relevant
    in_order = []
    for version in versions:
        refused |= {passages.get((version.language, docid)) for docid in version.relevant}
        in_order += [(one.place, version.language, one) for one in version.candidates]
    in_order.sort(key=lambda entry: entry[:2])
    for place, language, candidate in in_order:
        docid = passages.get((language, candidate.docid))
        if candidate.dropped or docid is None or docid in known or docid in refused:
            continue
        origin = f"{ORIGIN}:{language}"
        gathered.setdefault(docid, Candidate(docid, place, candidate.score, origin))
    counts["added"] += len(gathered)
    kept = []
    for candidate in own:
        is_refused = candidate.docid in refused and not candidate.dropped
        kept.append(candidate._replace(dropped=ELSEWHERE) if is_refused else candidate)
    return [*kept, *gathered.values()]
