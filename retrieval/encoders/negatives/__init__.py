"""NEGATIVES: links of a chain that says which documents are negatives: ids, on disk.

A link is a function of the mining, a language and what the link before made of that language; it
gives each query with its candidates. It may read other languages' files of the link before
(``mining.before``). An entry is a file here and a line in the table.
"""

from retrieval.encoders.negatives.from_run import from_run
from retrieval.encoders.negatives.mining import Link
from retrieval.encoders.negatives.select import select

NEGATIVES: dict[str, Link] = {"from_run": from_run, "select": select}

SOURCES = ("from_run",)
"""Those that begin a chain: what a link before them made would be lost."""
