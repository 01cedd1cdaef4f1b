"""Query and passage to the token ids of a cross-encoder, and batches of them."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from core.backbones import pad, refuse_unknown
from core.errors import InputError
from core.files import digest

LONGEST = 512  # pieces of a text that are remembered, or max_length if that is more
REMEMBERED = 50_000_000  # pieces that are kept, of each tokenizer


class Pieces(dict):
    """Text -> its first pieces, for all models of a tokenizer; forgets all when it holds too many."""

    def __init__(self, tokenizer, longest: int):
        super().__init__()
        self.tokenizer, self.longest, self.count = tokenizer, longest, 0

    def of(self, texts: Iterable[str]) -> list[list[int]]:
        texts = list(texts)
        if self.count > REMEMBERED:
            self.clear()
            self.count = 0
        new = [t for t in dict.fromkeys(texts) if t not in self]
        if new:
            found = self.tokenizer(
                new, add_special_tokens=False, truncation=True, max_length=self.longest
            )["input_ids"]
            self.update(zip(new, found))
            self.count += sum(map(len, found))
        return [self[t] for t in texts]


KNOWN: dict[tuple[str, int], Pieces] = {}  # by the content of the tokenizer


class Template(NamedTuple):
    """The special pieces before, between and after query and passage, and the token types of all five parts (None: the model has none)."""

    before: list[int]
    between: list[int]
    after: list[int]
    types: tuple[int, ...] | None


def template(tokenizer) -> Template:
    """Read off an encoded pair."""
    if not tokenizer.is_fast:
        raise InputError(
            f"{tokenizer.name_or_path}: has no fast tokenizer (tokenizer.json), which the rankers need"
        )
    found = tokenizer("a", "b", return_token_type_ids=True)
    ids, whose, types = found["input_ids"], found.sequence_ids(0), found["token_type_ids"]
    first, last = whose.index(0), len(whose) - whose[::-1].index(0)
    second, end = whose.index(1), len(whose) - whose[::-1].index(1)
    parts = [
        slice(0, first),
        slice(first, last),
        slice(last, second),
        slice(second, end),
        slice(end, None),
    ]
    kinds = (
        tuple((types[part] or [0])[0] for part in parts)
        if "token_type_ids" in tokenizer.model_input_names
        else None
    )
    return Template(ids[parts[0]], ids[parts[2]], ids[parts[4]], kinds)


class PairTokenizer:
    """(query, title + newline + text) under the tokenizer's own pair template: a query of at most ``query_length`` pieces, then
    ``max_length`` in all by shortening the passage only. A text is tokenised once for all models that share the tokenizer."""

    def __init__(self, tokenizer, query_length: int, max_length: int, pruned: bool = False):
        self.tokenizer, self.query_length, self.max_length, self.pruned = (
            tokenizer,
            query_length,
            max_length,
            pruned,
        )
        self.template = template(tokenizer)
        self.identity = digest([tokenizer.backend_tokenizer.to_str(), self.template])
        longest = max(LONGEST, max_length)
        self.pieces = KNOWN.setdefault((self.identity, longest), Pieces(tokenizer, longest))

    def __call__(
        self, queries: Sequence[str], passages: Sequence[str]
    ) -> list[dict[str, list[int]]]:
        rows = [
            self.row(q[: self.query_length], p)
            for q, p in zip(self.pieces.of(queries), self.pieces.of(passages))
        ]
        if self.pruned:
            refuse_unknown(self.tokenizer, [row["input_ids"] for row in rows], "ranking")
        return rows

    def row(self, query: list[int], passage: list[int]) -> dict[str, list[int]]:
        t = self.template
        room = self.max_length - len(t.before) - len(query) - len(t.between) - len(t.after)
        parts = [t.before, query, t.between, passage[: max(0, room)], t.after]
        row = {"input_ids": [i for part in parts for i in part]}
        if t.types:
            row["token_type_ids"] = [kind for kind, part in zip(t.types, parts) for _ in part]
        return row

    def pad(self, rows: Sequence[dict[str, list[int]]], device) -> dict:
        """Tensors [pairs, longest] on ``device``."""
        return pad(self.tokenizer, rows, device)
