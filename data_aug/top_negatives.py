"""NS-k: negatives drawn at random from a query's candidates (paper, 4.3).

The rules that choose among them by rank and score are those of dense training.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from core.recipes import Select
from core.records import Qrels, TrainingPair
from core.runs import ranked
from data_aug.filters import Keep, first_kept, keep_all
from retrieval.encoders.negatives.select import Rules

if TYPE_CHECKING:
    from numpy.random import Generator

ORIGIN = "top_negatives"
ANY = Select()

Rankings = Mapping[str, Mapping[str, float]]
"""A run, whole or read by query."""


def top_negatives(
    language: str,
    run: Rankings,
    qrels: Qrels,
    taken: Mapping[str, Collection[str]],
    k: int,
    depth: int,
    random: "Generator",
    select: Select = ANY,
    scores: Rankings | None = None,
    keep: Keep = keep_all,
) -> Iterator[TrainingPair]:
    """``k`` of the ``depth`` best candidates a judged query; all of them where there are fewer.

    Without those judged relevant and without pairs already ``taken``. ``scores``: the run that
    ``select``'s thresholds are on, ``run`` without it. ``keep`` is asked before a passage is taken.
    """
    for qid, gains in qrels.items():
        relevant = {docid for docid, gain in gains.items() if gain > 0}
        excluded = relevant | set(taken.get(qid, ()))
        candidates = run.get(qid, {})
        own_scores = scores.get(qid, {}) if scores else candidates
        rules = Rules(select, relevant, own_scores)
        pool: list[tuple[int, str]] = []  # (place among the candidates from 1, docid)
        for place, (docid, _) in enumerate(ranked(candidates)[:depth], 1):
            if docid not in excluded and not rules.reason_against(docid, place):
                pool.append((place, docid))

        # The first k in this order that ``keep`` lets pass, given in the order of their places
        order = range(len(pool)) if select.draw == "top" else random.permutation(len(pool))
        chosen = first_kept(qid, (pool[i][1] for i in order), k, keep)
        for place, docid in pool:
            if docid not in chosen:
                continue
            yield TrainingPair(
                language=language,
                qid=qid,
                docid=docid,
                label=0.0,
                origin=ORIGIN,
                round=0,
                teacher="hybrid",
                reason=f"rank {place}",
            )
