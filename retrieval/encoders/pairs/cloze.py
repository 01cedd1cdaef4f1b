"""The inverse cloze task: a span, and what is left of its passage (contriever-2022, 3.1.2)."""

from functools import partial

import numpy as np

from core.encoders import Cloze
from retrieval.encoders.material import Material
from retrieval.encoders.pairs.raw import Pieces, Raw, span


def cloze(material: Material) -> Raw:
    """The query is a span of tokens; Lee et al. 2019 take a sentence."""
    settings = material.settings.cloze
    longest = max(1, int(settings.longest * settings.document))
    divide = partial(span_and_rest, settings=settings)
    return Raw(material, "cloze", settings, divide, (longest, settings.document))


def span_and_rest(
    pieces: Pieces, random: np.random.Generator, settings: Cloze
) -> tuple[Pieces, Pieces]:
    """The span stays in the passage with ``kept``, and where it is the whole of it."""
    where = span(len(pieces), settings, random)
    query = pieces[where]
    is_kept = random.random() < settings.kept
    rest = pieces[: where.start] + pieces[where.stop :]
    if is_kept or not rest:
        return query, pieces
    return query, rest
