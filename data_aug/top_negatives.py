"""NS-k: negatives drawn at random from a query's candidates (paper, 4.3)."""
from collections.abc import Collection, Iterator, Mapping

from core.records import Qrels, Run, TrainingPair
from core.runs import ranked

ORIGIN = "top_negatives"


def top_negatives(language: str, run: Run, qrels: Qrels, taken: Mapping[str, Collection[str]], k: int, depth: int, random) -> Iterator[TrainingPair]:
    """``k`` of the ``depth`` best candidates a judged query, without those judged relevant and without pairs already ``taken``; all
    of them where there are fewer."""
    for qid, relevance in qrels.items():
        out = {d for d, r in relevance.items() if r > 0} | set(taken.get(qid, ()))
        pool = [(rank, d) for rank, (d, _) in enumerate(ranked(run.get(qid, {}))[:depth], 1) if d not in out]
        for i in sorted(random.permutation(len(pool))[:k]):
            rank, docid = pool[i]
            yield TrainingPair(language, qid, docid, 0.0, ORIGIN, 0, "hybrid", f"rank {rank}")
