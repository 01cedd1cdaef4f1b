"""Passages of all languages under one numbering, and texts as rows of token ids."""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from core.backbones import pad
from core.passages import Passages, document_text

if TYPE_CHECKING:
    import torch

    from retrieval.encoder import Side


class Corpus:
    """The passages of some languages; each has a number of its own, those of a language a range.

    ``open_store``: the store of a language, opened at its first use.
    """

    def __init__(self, languages: Sequence[str], open_store: Callable[[str], Passages]):
        self.languages = list(languages)
        self.stores = {language: open_store(language) for language in languages}
        counts = [len(self.stores[language]) for language in languages]
        self.bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def span(self, language: str) -> range:
        """The numbers of a language's passages."""
        place = self.languages.index(language)
        return range(int(self.bounds[place]), int(self.bounds[place + 1]))

    def ids(self, language: str, docids: Sequence[str], strict: bool = True) -> np.ndarray:
        """The numbers of passages by docid, int64.

        An unknown one is an InputError, or -1 where not strict.
        """
        rows = self.stores[language].rows(docids, strict)
        return np.where(rows < 0, -1, rows + self.span(language).start)

    def places(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(place of the language, row in its store) of each number."""
        of_language = np.searchsorted(self.bounds, ids, side="right") - 1
        return of_language, ids - self.bounds[of_language]

    def docids(self, ids: np.ndarray) -> list[tuple[str, str]]:
        """(language, docid) of each number."""
        found = []
        for place, row in zip(*self.places(ids), strict=True):
            language = self.languages[place]
            found.append((language, self.stores[language].docid(int(row))))
        return found

    def texts(self, ids: np.ndarray) -> list[str]:
        """Title and text of each number."""
        texts = []
        for place, row in zip(*self.places(ids), strict=True):
            document = self.stores[self.languages[place]].document(int(row))
            texts.append(document_text(document))
        return texts


class Lines:
    """Many short texts in one piece of memory: a list of 500,000 queries would take four times."""

    def __init__(self, texts: Sequence[str]):
        encoded = [text.encode("utf-8") for text in texts]
        self.bytes = b"".join(encoded)
        self.ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> str:
        start = int(self.ends[number - 1]) if number else 0
        return self.bytes[start : int(self.ends[number])].decode("utf-8")


class Tokens:
    """Texts to rows of token ids as ``retrieval.bodies`` makes them: prefix, text, cut at a length.

    ``lengths``: tokens of a side's texts at most. The next step's texts are tokenised in a thread
    while dev texts are here, hence the lock.
    """

    def __init__(self, tokenizer: Any, prefixes: "dict[Side, str]", lengths: "dict[Side, int]"):
        self.tokenizer = tokenizer
        self.prefixes = prefixes
        self.lengths = lengths
        self.lock = Lock()

    def rows(self, texts: Sequence[str], side: "Side") -> list[list[int]]:
        """Token ids of each text, special ones included."""
        if not texts:
            return []
        prefixed = [self.prefixes[side] + text for text in texts]
        with self.lock:
            tokens = self.tokenizer(
                prefixed,
                truncation=True,
                max_length=self.lengths[side],
                return_attention_mask=False,
                return_token_type_ids=False,
            )
        return tokens["input_ids"]

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text alone: without prefix and special ones, and not cut."""
        with self.lock:
            tokens = self.tokenizer(
                list(texts),
                add_special_tokens=False,
                truncation=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,  # a text longer than the body takes is no fault here
            )
        return tokens["input_ids"]

    def frame(self, side: "Side") -> tuple[list[int], list[int]]:
        """The token ids that stand before and behind a text's own, the prefix among them."""
        with self.lock:
            example = self.tokenizer("a", return_special_tokens_mask=True)
        ids, is_special = example["input_ids"], example["special_tokens_mask"]
        first = is_special.index(0)
        last = len(ids) - is_special[::-1].index(0)
        prefix = self.prefixes[side].rstrip()
        of_prefix = self.pieces([prefix])[0] if prefix else []
        return [*ids[:first], *of_prefix], ids[last:]

    def pad(self, rows: Sequence[list[int]], device: Any) -> "dict[str, torch.Tensor]":
        """``input_ids`` and ``attention_mask`` [rows, longest] on ``device``."""
        return pad(self.tokenizer, [{"input_ids": row} for row in rows], device)

    @property
    def longest(self) -> int:
        """Tokens of the longest text that there can be."""
        return max(self.lengths.values())
