"""Q2Q2D: an unlabelled query takes over the judged passages of similar training queries.

Paper, section 4.4.1 and figure 3.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from core.recipes import Q2Q2D
from core.records import Query, TrainingPair

ORIGIN = "q2q2d"
BLOCK = 1024  # targets that are compared with all training queries at once


def q2q2d(
    language: str,
    targets: Sequence[Query],
    vectors: np.ndarray,
    known: Sequence[tuple[str, str]],
    known_vectors: np.ndarray,
    judged: Mapping[tuple[str, str], Mapping[str, int]],
    settings: Q2Q2D,
) -> Iterator[TrainingPair]:
    """The passages judged for the ``neighbours`` most similar training queries of each target.

    ``known``: the training queries, (language, query id); those of a similarity below
    ``threshold`` are no neighbours. ``vectors`` [targets, dimension] and ``known_vectors`` are of
    length 1, so similarity is a cosine. Label = similarity, cut to [0, 1], × judged label × alpha.
    A passage judged for several neighbours is the most similar one's.
    """
    for start in range(0, len(targets), BLOCK):
        block = slice(start, start + BLOCK)
        similarities = vectors[block] @ known_vectors.T
        for target, similarity in zip(targets[block], similarities, strict=True):
            best = np.argsort(-similarity, kind="stable")[: settings.neighbours]
            neighbours = []
            for i in best:
                cosine = float(similarity[i])
                if cosine >= settings.threshold:
                    neighbours.append((known[i], cosine))
            yield from of_neighbours(language, target, neighbours, judged, settings)


def of_neighbours(
    language: str,
    target: Query,
    neighbours: Sequence[tuple[tuple[str, str], float]],
    judged: Mapping[tuple[str, str], Mapping[str, int]],
    settings: Q2Q2D,
) -> Iterator[TrainingPair]:
    """The pairs of one target. ``neighbours``: training queries and their cosine, best first."""
    seen: set[tuple[str, str]] = set()
    for (neighbour_language, qid), similarity in neighbours:
        weight = min(1.0, max(0.0, similarity)) * settings.alpha
        elsewhere = neighbour_language != language
        for docid, gain in judged[neighbour_language, qid].items():
            if (neighbour_language, docid) in seen:
                continue
            seen.add((neighbour_language, docid))
            yield TrainingPair(
                language=language,
                qid=target.qid,
                docid=docid,
                label=weight * float(gain > 0),
                origin=ORIGIN,
                round=0,
                teacher=settings.backbone,
                reason=f"{neighbour_language} query {qid}, similarity {similarity:.3f}",
                passage_language=neighbour_language if elsewhere else "",
            )
