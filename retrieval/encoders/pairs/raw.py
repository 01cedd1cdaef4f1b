"""Examples without labels: two views of a passage (contriever-2022, 3.1.2)."""

from collections.abc import Callable

import numpy as np

from core.distributed import generator
from core.encoders import Perturb, Span
from core.errors import InputError
from core.passages import Passages
from retrieval.encoders.material import Material, Relevant, Rows

Pieces = list[int]
"""Token ids of a part of a text, without special ones."""

AT_ONCE = 1 << 22
"""Passages whose lengths are looked at together."""


class Raw:
    """An example is a passage, and its number the passage's; both views are made as it is drawn.

    ``entry``: the setting that chose it, whose part is ``spans``. ``divide``: the query's and the
    positive's tokens of a passage's. Nothing of a passage stays in memory. Raises InputError for a
    passage without text, and for views that could be longer than the encoder's texts: a view is
    never cut.
    """

    def __init__(
        self,
        material: Material,
        entry: str,
        spans: Span,
        divide: Callable[[Pieces, np.random.Generator], tuple[Pieces, Pieces]],
        longest: tuple[int, int],
    ):
        self.material = material
        self.entry = entry
        self.document = spans.document
        self.divide = divide
        self.spans = {}
        for language in material.languages:
            self.spans[language] = material.corpus.span(language)
            self.refuse_empty(language)
        tokens = material.tokens
        self.frames = (tokens.frame("query"), tokens.frame("passage"))
        self.check_lengths(longest)
        self.perturb = Perturbation(material)

    def refuse_empty(self, language: str) -> None:
        """Raises InputError for passages that hold no byte of text."""
        count, first = empty(self.material.corpus.stores[language])
        if count:
            raise InputError(
                f"retrieval.encoders.{self.material.name}: pairs={self.entry} makes views of "
                f"passages, but {count} of {language} have no text, first {first}; "
                "take them out of the corpus, or leave the language out of languages"
            )

    def check_lengths(self, longest: tuple[int, int]) -> None:
        """Raises InputError for a side's texts that are shorter than its views may be."""
        for side, own, (before, behind) in zip(
            ("query", "passage"), longest, self.frames, strict=True
        ):
            needed = len(before) + own + len(behind)
            length = getattr(self.material.settings, f"{side}_length")
            if needed > length:
                raise InputError(
                    f"retrieval.encoders.{self.material.name}.{side}_length: found {length}, but a "
                    f"view may have {own} tokens, and {needed - own} around it; set it to at least "
                    f"{needed}, or lower {self.entry}.document"
                )

    def qids(self, language: str) -> list[str]:
        """There are none; a chain of negatives is refused before."""
        raise LookupError(f"pairs={self.entry} has no queries with ids")

    def query_texts(self, numbers: np.ndarray) -> list[str]:
        """The whole passages."""
        return self.material.corpus.texts(numbers)

    def positives(self, numbers: np.ndarray, batch: int) -> np.ndarray:
        """The passages themselves."""
        return numbers

    def relevant(self, numbers: np.ndarray) -> Relevant:
        """The passages themselves."""
        return Relevant(np.arange(len(numbers)), numbers)

    def views(self, numbers: np.ndarray, positives: np.ndarray, batch: int) -> tuple[Rows, Rows]:
        """Drawn by the batch's number and the passage's."""
        texts = self.material.corpus.texts(numbers)
        queries, passages = [], []
        for number, pieces in zip(numbers.tolist(), self.pieces(texts, numbers), strict=True):
            random = generator(self.material.settings.seed, batch, self.entry, number)
            parts = self.divide(window(pieces, self.document, random), random)
            query, passage = [
                [*before, *self.perturb(part, random), *behind]
                for part, (before, behind) in zip(parts, self.frames, strict=True)
            ]
            queries.append(query)
            passages.append(passage)
        return queries, passages

    def pieces(self, texts: list[str], numbers: np.ndarray) -> list[Pieces]:
        """Tokens of passages. Raises InputError for one of which the tokenizer leaves nothing."""
        rows = self.material.tokens.pieces(texts)
        for row, number in zip(rows, numbers, strict=True):
            if not row:
                ((language, docid),) = self.material.corpus.docids(number[None])
                raise InputError(
                    f"retrieval.encoders.{self.material.name}: passage {language}/{docid} has no "
                    f"tokens, so pairs={self.entry} can make no views of it; "
                    "take it out of the corpus"
                )
        return rows


def empty(store: Passages) -> tuple[int, str]:
    """How many passages have neither title nor text, and the docid of the first."""
    count, first = 0, ""
    for start in range(0, len(store), AT_ONCE):
        bounds = store.offsets[start : start + AT_ONCE + 1]
        rows = np.flatnonzero(np.diff(bounds) <= 1)  # a zero byte ends the title
        if len(rows) and not count:
            first = store.docid(start + int(rows[0]))
        count += len(rows)
    return count, first


# ---- Spans and what happens to tokens


def window(pieces: Pieces, most: int, random: np.random.Generator) -> Pieces:
    """``most`` tokens on end from anywhere in a text, or all where it has no more."""
    if len(pieces) <= most:
        return pieces
    start = int(random.integers(len(pieces) - most + 1))
    return pieces[start : start + most]


def span(length: int, settings: Span, random: np.random.Generator) -> slice:
    """A span of a text of ``length`` tokens, at least one of them.

    So a text too short for the shortest share gives one token, and one of a single token itself.
    """
    share = random.uniform(settings.shortest, settings.longest)
    size = max(1, int(share * length))
    start = int(random.integers(length - size + 1))
    return slice(start, start + size)


class Perturbation:
    """Deletes, masks and replaces tokens of a view by the settings ``perturb``.

    Raises InputError for a mask where the tokenizer has none.
    """

    def __init__(self, material: Material):
        self.settings: Perturb = material.settings.perturb
        tokenizer = material.tokens.tokenizer
        self.mask_id = tokenizer.mask_token_id
        if self.settings.mask and self.mask_id is None:
            raise InputError(
                f"retrieval.encoders.{material.name}.perturb.mask: found {self.settings.mask:g}, "
                "but the tokenizer has no mask token; leave mask out, or use replace"
            )
        everything = np.arange(len(tokenizer))
        self.ordinary = np.setdiff1d(everything, tokenizer.all_special_ids)
        self.does_nothing = self.settings == Perturb()

    def __call__(self, pieces: Pieces, random: np.random.Generator) -> Pieces:
        """Another view of a span. Of one whose tokens would all be deleted, one stays."""
        if self.does_nothing:
            return pieces
        delete, mask = self.settings.delete, self.settings.mask
        chance = random.random(len(pieces))
        is_deleted = chance < delete
        if is_deleted.all():
            is_deleted[random.integers(len(pieces))] = False
        is_masked = (chance >= delete) & (chance < delete + mask)
        is_replaced = (chance >= delete + mask) & (chance < delete + mask + self.settings.replace)
        changed = np.array(pieces)
        if mask:
            changed[is_masked] = self.mask_id
        changed[is_replaced] = random.choice(self.ordinary, np.count_nonzero(is_replaced))
        return changed[~is_deleted].tolist()
