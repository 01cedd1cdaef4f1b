"""Independent random cropping: two spans of a passage (contriever-2022, 3.1.2 and A.1)."""

from functools import partial

import numpy as np

from core.encoders import Span
from retrieval.encoders.material import Material
from retrieval.encoders.pairs.raw import Pieces, Raw, span


def crop(material: Material) -> Raw:
    """Both views are spans, drawn alike and apart, which may overlap."""
    settings = material.settings.crop
    longest = max(1, int(settings.longest * settings.document))
    divide = partial(two_spans, settings=settings)
    return Raw(material, "crop", settings, divide, (longest, longest))


def two_spans(pieces: Pieces, random: np.random.Generator, settings: Span) -> tuple[Pieces, Pieces]:
    """The query's and the positive's."""
    query = pieces[span(len(pieces), settings, random)]
    passage = pieces[span(len(pieces), settings, random)]
    return query, passage
