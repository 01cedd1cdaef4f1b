"""What a person at a terminal sees of long work: lines and bars, from the first process alone."""

import sys
from collections.abc import Iterable
from typing import Any

from core import distributed

show_bars = True  # not in processes that work beside others: their bars would overwrite each other


def say(text: str) -> None:
    """One line on standard output, from rank 0."""
    if distributed.rank() == 0:
        print(text, flush=True)


def progress(
    items: Iterable | None, total: int | None = None, what: str = "", unit: str = "it"
) -> Any:
    """``items`` behind a tqdm bar with rate and time left, or with None a bar to update by hand.

    The bar shows on a terminal; elsewhere, on other ranks than 0 and in processes that work beside
    others it is silent.
    """
    from tqdm import tqdm

    silent = distributed.rank() != 0 or not show_bars or not sys.stderr.isatty()
    return tqdm(items, total=total, desc=what, unit=unit, disable=silent, dynamic_ncols=True)
