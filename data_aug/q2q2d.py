"""Q2Q2D: an unlabelled query takes over the judged passages of similar training queries (paper, 4.4.1 and figure 3)."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from core.recipes import Q2Q2D
from core.records import Query, TrainingPair

ORIGIN = "q2q2d"


def q2q2d(
    language: str,
    targets: Sequence[Query],
    vectors: np.ndarray,
    known: Sequence[tuple[str, str]],
    known_vectors: np.ndarray,
    judged: Mapping[tuple[str, str], Mapping[str, int]],
    s: Q2Q2D,
) -> Iterator[TrainingPair]:
    """Label = similarity × judged label × alpha for the passages judged for the ``neighbours`` most similar training queries ``known``,
    (language, query id), of at least ``threshold``. ``vectors`` [targets, dimension] are of length 1, so similarity is a cosine, cut to
    [0, 1]. A passage judged for several neighbours is the most similar one's."""
    for query, similar in zip(targets, vectors @ known_vectors.T):
        seen: set[tuple[str, str]] = set()
        for i in np.argsort(-similar, kind="stable")[: s.neighbours]:
            if similar[i] < s.threshold:
                break
            of, qid = known[i]
            for docid, gain in judged[known[i]].items():
                if (of, docid) not in seen:
                    seen.add((of, docid))
                    label = min(1.0, max(0.0, float(similar[i]))) * float(gain > 0) * s.alpha
                    yield TrainingPair(
                        language,
                        query.qid,
                        docid,
                        label,
                        ORIGIN,
                        0,
                        s.backbone,
                        f"{of} query {qid}, similarity {similar[i]:.3f}",
                        "" if of == language else of,
                    )
