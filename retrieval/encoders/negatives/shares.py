"""What became of a chain's candidates, by language (data-utilization-2025, Table 8)."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from retrieval.encoders.negatives.generate import ORIGIN
from retrieval.encoders.negatives.mining import pools_file
from retrieval.encoders.negatives.pools import Pools
from retrieval.judges import UNKNOWN

AVERAGE = "avg"
FORMATS = {
    "negatives a query": "{:.1f}",
    "from retrieval": "{:.1%}",
    "from new queries": "{:.1%}",
    "eliminated by the judge": "{:.1%}",
}
"""The rows of the table, and how their values are shown."""


class Shares(NamedTuple):
    """A language's row; ``figures`` by the names of FORMATS, None where none can be told."""

    language: str
    figures: dict[str, float | None]


def of_chain(folder: Path, links: Sequence[str], languages: Sequence[str]) -> list[Shares]:
    """The mean over languages, as in the paper, and each language. ``folder``: of the step."""
    rows = [of_language(folder, links, language) for language in languages]
    average: dict[str, float | None] = {}
    for name in FORMATS:
        values = [row.figures[name] for row in rows]
        known = [value for value in values if value is not None]
        average[name] = float(np.mean(known)) if known else None
    return [Shares(AVERAGE, average), *rows]


def of_language(folder: Path, links: Sequence[str], language: str) -> Shares:
    """By the files of the last link, and of the judge where there is one."""
    last = Pools(link_file(folder, links, links[-1], language))
    dropped, reasons = last.coded("dropped")
    origin, origins = last.coded("origin")
    is_live = matching(dropped, reasons, {""})
    is_new = matching(origin, origins, {ORIGIN})
    live = np.count_nonzero(is_live)
    new = np.count_nonzero(is_live & is_new)
    figures: dict[str, float | None] = {
        "negatives a query": live / len(last.rows) if last.rows else None,
        "from retrieval": (live - new) / live if live else None,
        "from new queries": new / live if live else None,
        "eliminated by the judge": None,
    }
    if "judge" in links:
        read = Pools(link_file(folder, links, "judge", language))
        dropped, reasons = read.coded("dropped")
        judged = {reason for reason in reasons if reason.startswith("judged ")} | {UNKNOWN}
        eliminated = np.count_nonzero(matching(dropped, reasons, judged))
        stayed = np.count_nonzero(matching(dropped, reasons, {""}))
        if eliminated + stayed:
            figures["eliminated by the judge"] = eliminated / (eliminated + stayed)
    return Shares(language, figures)


def link_file(folder: Path, links: Sequence[str], link: str, language: str) -> Path:
    """The file that a link left of a language."""
    number = list(links).index(link) + 1
    return pools_file(folder / f"{number}-{link}", language)


def matching(codes: np.ndarray, strings: Sequence[str], wanted: set[str]) -> np.ndarray:
    """Bool [rows]: whether a row's string is one of some."""
    is_wanted = np.array([string in wanted for string in strings], bool)
    return is_wanted[codes] if len(codes) else np.zeros(0, bool)
