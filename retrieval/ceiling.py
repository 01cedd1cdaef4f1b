"""What the first stage lets through.

Recall by depth, what the hybrid loses that a source had, and the queries that nobody answers. What
is not among the candidates is lost to every later stage (the paper's Table 2 is R@200 of the
hybrid).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from core.evaluate import evaluate, means
from core.records import Qrels, RunByQuery
from core.runs import top_k

DEPTHS = (10, 50, 100, 200, 1000)
METRICS = ("nDCG@10", *(f"R@{depth}" for depth in DEPTHS))


@dataclass(frozen=True)
class Ceiling:
    """Of one language and split.

    ``figures``: system -> metric -> mean; ``relevant``: how many passages are; ``lost``: source ->
    how many of them it has among its candidates and the hybrid has not; ``unanswered``: queries
    none of whose relevant passages any source stored.
    """

    figures: dict[str, dict[str, float]]
    relevant: int
    lost: dict[str, int]
    unanswered: list[str]

    @property
    def note(self) -> dict:
        """As it stands in ceiling.json."""
        return {
            "relevant": self.relevant,
            "lost by the hybrid": self.lost,
            "queries that nobody answers": self.unanswered,
        }


def ceiling(runs: Mapping[str, RunByQuery], qrels: Qrels, candidates: int) -> Ceiling:
    """``runs``: the sources and ``hybrid``, each of full depth; they are read query by query."""
    relevant: dict[str, set[str]] = {}
    for qid, judged in qrels.items():
        relevant[qid] = {docid for docid, gain in judged.items() if gain > 0}

    figures: dict[str, dict[str, float]] = {}
    reached: dict[str, set[tuple[str, str]]] = {}
    for name, run in runs.items():
        figures[name] = means(evaluate(run, qrels, METRICS))
        reached[name] = relevant_candidates(run, relevant, candidates)
    lost = {}
    for name, of_source in reached.items():
        if name != "hybrid":
            lost[name] = len(of_source - reached["hybrid"])

    unanswered = []
    for qid, docids in relevant.items():
        stored = any(docids & run.get(qid, {}).keys() for run in runs.values())
        if docids and not stored:
            unanswered.append(qid)
    return Ceiling(
        figures=figures,
        relevant=sum(map(len, relevant.values())),
        lost=lost,
        unanswered=unanswered,
    )


def relevant_candidates(
    run: RunByQuery, relevant: Mapping[str, set[str]], candidates: int
) -> set[tuple[str, str]]:
    """(query id, docid) of the relevant passages among each query's best."""
    reached = set()
    for qid, docids in relevant.items():
        for docid in top_k(run.get(qid, {}), candidates):
            if docid in docids:
                reached.add((qid, docid))
    return reached
