"""Query and passage to the token ids of a cross-encoder, and batches of them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from core.backbones import pad, refuse_unknown
from core.errors import InputError
from core.files import digest

LONGEST = 512
"""Pieces of a text that are remembered, or max_length if that is more."""

REMEMBERED = 50_000_000
"""Pieces that are kept, of each tokenizer."""


class Pieces(dict[str, list[int]]):
    """Text -> its first pieces, for all models of a tokenizer; forgets all when it holds too many.

    A training's next step is tokenised in a thread beside the dev queries, hence the lock.
    """

    def __init__(self, tokenizer: Any, longest: int):
        super().__init__()
        self.tokenizer = tokenizer
        self.longest = longest
        self.count = 0  # pieces of all texts
        self.lock = Lock()

    def of(self, texts: Iterable[str]) -> list[list[int]]:
        """The pieces of each text, without special ones."""
        texts = list(texts)
        with self.lock:
            if self.count > REMEMBERED:
                self.clear()
                self.count = 0
            new = [text for text in dict.fromkeys(texts) if text not in self]
            if new:
                self.remember(new)
            return [self[text] for text in texts]

    def remember(self, texts: list[str]) -> None:
        """Tokenises texts that are not known yet."""
        encoded = self.tokenizer(
            texts,
            add_special_tokens=False,
            truncation=True,
            max_length=self.longest,
        )
        for text, pieces in zip(texts, encoded["input_ids"], strict=True):
            self[text] = pieces
            self.count += len(pieces)


KNOWN: dict[tuple[str, int], Pieces] = {}
"""By the content of the tokenizer, and how many pieces of a text it keeps."""


def apart(texts: Iterable[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """The queries of (query, passage) texts, and their passages."""
    queries = []
    passages = []
    for query, passage in texts:
        queries.append(query)
        passages.append(passage)
    return queries, passages


class Template(NamedTuple):
    """The special pieces before, between and after query and passage.

    ``types``: the token types of all five parts; None where the model has none.
    """

    before: list[int]
    between: list[int]
    after: list[int]
    types: tuple[int, ...] | None


def template(tokenizer: Any) -> Template:
    """Read off an encoded pair. Raises InputError for a tokenizer that is not a fast one."""
    if not tokenizer.is_fast:
        raise InputError(
            f"{tokenizer.name_or_path}: has no fast tokenizer (tokenizer.json), "
            "which the rankers need"
        )
    encoded = tokenizer("a", "b", return_token_type_ids=True)
    ids = encoded["input_ids"]
    whose = encoded.sequence_ids(0)  # 0: the query's pieces, 1: the passage's, None: special
    query = span_of(0, whose)
    passage = span_of(1, whose)
    before = slice(0, query.start)
    between = slice(query.stop, passage.start)
    after = slice(passage.stop, len(ids))
    types = None
    if "token_type_ids" in tokenizer.model_input_names:
        of_piece = encoded["token_type_ids"]
        parts = (before, query, between, passage, after)
        types = tuple(of_piece[part][0] if of_piece[part] else 0 for part in parts)
    return Template(ids[before], ids[between], ids[after], types)


def span_of(text: int, whose: Sequence[int | None]) -> slice:
    """Where the pieces of the first or second text of a pair (0, 1) stand."""
    start = whose.index(text)
    return slice(start, start + whose.count(text))


class PairTokenizer:
    """(query, title + newline + text) under the tokenizer's own pair template.

    A query of at most ``query_length`` pieces, then ``max_length`` in all by shortening the
    passage only. A text is tokenised once for all models that share the tokenizer. A ``pruned``
    tokenizer refuses texts that it was not made for.
    """

    def __init__(self, tokenizer: Any, query_length: int, max_length: int, pruned: bool = False):
        self.tokenizer = tokenizer
        self.pruned = pruned
        self.query_length = query_length
        self.max_length = max_length
        self.template = template(tokenizer)
        self.identity = digest([tokenizer.backend_tokenizer.to_str(), self.template])
        longest = max(LONGEST, max_length)
        self.pieces = KNOWN.setdefault((self.identity, longest), Pieces(tokenizer, longest))

    def __call__(
        self, queries: Sequence[str], passages: Sequence[str]
    ) -> list[dict[str, list[int]]]:
        """A row a pair: ``input_ids``, and ``token_type_ids`` where the model has them."""
        pieces_of_queries = self.pieces.of(queries)
        pieces_of_passages = self.pieces.of(passages)
        rows = []
        for query, passage in zip(pieces_of_queries, pieces_of_passages, strict=True):
            rows.append(self.row(query[: self.query_length], passage))
        if self.pruned:
            refuse_unknown(self.tokenizer, [row["input_ids"] for row in rows], "ranking")
        return rows

    @property
    def room(self) -> int:
        """Pieces that a query of full length leaves for a passage; negative where it overflows."""
        return self.room_beside(self.query_length)

    def room_beside(self, query: int) -> int:
        """Pieces that ``query`` pieces and the special ones leave for a passage."""
        template = self.template
        special = len(template.before) + len(template.between) + len(template.after)
        return self.max_length - special - query

    def row(self, query: list[int], passage: list[int]) -> dict[str, list[int]]:
        """One pair of pieces under the template."""
        template = self.template
        room = max(0, self.room_beside(len(query)))
        parts = (template.before, query, template.between, passage[:room], template.after)
        row: dict[str, list[int]] = {"input_ids": []}
        for part in parts:
            row["input_ids"] += part
        if template.types:
            row["token_type_ids"] = []
            for kind, part in zip(template.types, parts, strict=True):
                row["token_type_ids"] += [kind] * len(part)
        return row

    def save(self, folder: Path) -> None:
        """Writes the tokenizer, without the lengths that it was last asked to cut and pad to.

        Those lie in the tokenizer itself, and which of several that are alike has them depends on
        what else this process tokenised.
        """
        with self.pieces.lock:  # it may be at work in another thread
            self.tokenizer.backend_tokenizer.no_truncation()
            self.tokenizer.backend_tokenizer.no_padding()
            self.tokenizer.save_pretrained(folder)

    def pad(self, rows: Sequence[dict[str, list[int]]], device: Any) -> dict:
        """Tensors [pairs, longest] on ``device``."""
        return pad(self.tokenizer, rows, device)
