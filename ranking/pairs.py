"""Query and passage to the token ids of a cross-encoder, and batches of them."""
from collections.abc import Sequence

from core.backbones import refuse_unknown


class PairTokenizer:
    """(query, title + newline + text) under the tokenizer's own pair template: a query of at most ``query_length`` pieces, then
    ``max_length`` in all by shortening the passage only."""

    def __init__(self, tokenizer, query_length: int, max_length: int, pruned: bool = False):
        self.tokenizer, self.query_length, self.max_length, self.pruned = tokenizer, query_length, max_length, pruned

    def shorten(self, queries: Sequence[str]) -> list[str]:
        """Queries cut at the end of their ``query_length``-th piece."""
        found = self.tokenizer(list(queries), add_special_tokens=False, return_offsets_mapping=True)
        return [query[: offsets[self.query_length - 1][1]] if len(offsets) > self.query_length else query
                for query, offsets in zip(queries, found["offset_mapping"])]

    def __call__(self, queries: Sequence[str], passages: Sequence[str]) -> list[dict[str, list[int]]]:
        distinct = list(dict.fromkeys(queries))
        short = dict(zip(distinct, self.shorten(distinct)))
        found = self.tokenizer([short[q] for q in queries], list(passages), truncation="only_second", max_length=self.max_length)
        if self.pruned:
            refuse_unknown(self.tokenizer, found["input_ids"], "ranking")
        return [dict(zip(found.keys(), row)) for row in zip(*found.values())]

    def pad(self, rows: Sequence[dict[str, list[int]]], device) -> dict:
        """Tensors [pairs, longest] on ``device``."""
        return dict(self.tokenizer.pad(list(rows), return_tensors="pt").to(device))
