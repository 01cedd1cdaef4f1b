"""Passages under one numbering, and texts as token ids."""

import little
import numpy as np
import pytest

from core.errors import InputError
from retrieval.encoders.texts import Lines, Tokens


def test_passages_of_two_languages_have_numbers_of_their_own(tmp_path):
    corpus = little.corpus(tmp_path, examples=8)
    assert len(corpus) == 24
    assert corpus.span("en") == range(12) and corpus.span("sw") == range(12, 24)
    assert corpus.ids("sw", ["d13", "d12"]).tolist() == [13, 12]
    assert corpus.docids(np.array([23, 0])) == [("sw", "d23"), ("en", "d0")]
    assert corpus.texts(np.array([13])) == [f"{little.word(4, 0)} is b. more"]
    assert corpus.ids("en", ["d0", "d13"], strict=False).tolist() == [0, -1]
    with pytest.raises(InputError, match="no passage d13; the docid is of another collection"):
        corpus.ids("en", ["d13"])
    assert corpus.texts(np.zeros(0, np.int64)) == [] and corpus.ids("en", []).tolist() == []


def test_lines_are_the_texts():
    texts = ["capital of Kenya", "", "mji mkuu wa Kenya", "ケニア"]
    lines = Lines(texts)
    assert len(lines) == 4 and [lines[i] for i in range(4)] == texts


def test_tokens_have_prefix_special_ones_and_an_end(tmp_path):
    tokenize = little.tokenizer()
    tokens = Tokens(tokenize, {"query": "q: ", "passage": ""}, {"query": 5, "passage": 9})
    (query,) = tokens.rows(["ab cd"], "query")
    (passage,) = tokens.rows(["ab cd"], "passage")
    names = tokenize.convert_ids_to_tokens
    assert names(query) == ["[CLS]", "q", ":", "a", "[SEP]"]
    assert names(passage) == ["[CLS]", "a", "##b", "c", "##d", "[SEP]"]
    assert tokens.rows([], "query") == [] and tokens.longest == 9
    padded = tokens.pad([query, passage], "cpu")
    assert padded["input_ids"].shape == (2, 6)
    assert padded["attention_mask"].sum(1).tolist() == [5, 6]
