"""Views of passages without labels: spans, windows, what happens to tokens, and bad passages."""

from types import SimpleNamespace

import little
import numpy as np
import pytest
from pydantic import ValidationError

from core.distributed import generator
from core.encoders import Encoder, Span
from core.errors import InputError
from core.passages import Passages, build_passages
from core.records import Document
from retrieval.encoders.material import Material
from retrieval.encoders.pairs import PAIRS, raw
from retrieval.encoders.texts import Corpus, Tokens


class Script:
    """Random numbers that are written down."""

    def __init__(self, uniform=(), integers=()):
        self.uniforms, self.integer = list(uniform), list(integers)

    def uniform(self, low, high):
        return low + self.uniforms.pop(0) * (high - low)

    def integers(self, below):
        number = self.integer.pop(0)
        assert number < below
        return number


def material(folder, texts, tokenizer=None, **settings):
    """Passages of a language; ``texts``: (title, text)."""
    if not (folder / "en").exists():
        (folder / "en").mkdir(parents=True)
        build_passages(
            (Document(f"d{i}", title, text) for i, (title, text) in enumerate(texts)), folder / "en"
        )
    corpus = Corpus(["en"], lambda language: Passages(folder / language))
    chosen = Encoder(**{"query_length": 40, "passage_length": 40, **settings})
    lengths = {"query": chosen.query_length, "passage": chosen.passage_length}
    tokens = Tokens(tokenizer or little.tokenizer(), {"query": "q: ", "passage": ""}, lengths)
    return Material("mine", chosen, None, ["en"], corpus, tokens, folder)


def made(material):
    return PAIRS[material.settings.pairs](material)


LETTERS = "a b c d e f g h i j k l m n o p q r s t"  # 20 tokens


def test_a_span_by_hand():
    settings = Span(shortest=0.1, longest=0.5)
    # a share of .1 + .5 · .4 = .3 of 10 tokens is 3 of them, which may begin at 0 to 7
    assert raw.span(10, settings, Script([0.5], [7])) == slice(7, 10)
    assert raw.span(10, settings, Script([0.0], [9])) == slice(9, 10)
    assert raw.span(10, settings, Script([1.0], [0])) == slice(0, 5)
    # shorter than a crop: .05 of 4 tokens is none, so it is one of them
    assert raw.span(4, Span(), Script([0.0], [3])) == slice(3, 4)
    assert raw.span(1, Span(), Script([1.0], [0])) == slice(0, 1), "the only token is all views"


def test_a_window_by_hand():
    assert raw.window([1, 2, 3], 3, Script()) == [1, 2, 3]
    assert raw.window([1, 2, 3, 4, 5], 3, Script(integers=[2])) == [3, 4, 5]


def test_a_passage_is_relevant_to_itself_alone(tmp_path):
    pairs = made(
        material(tmp_path, [("", LETTERS), ("", "a b")], pairs="crop", crop={"document": 20})
    )
    numbers = np.array([1, 0, 1])
    assert pairs.spans == {"en": range(2)}
    assert pairs.positives(numbers, 3).tolist() == [1, 0, 1]
    relevant = pairs.relevant(numbers)
    assert (relevant.place.tolist(), relevant.id.tolist()) == ([0, 1, 2], [1, 0, 1])
    assert pairs.query_texts(numbers[:1]) == ["a b"]


def test_views_have_what_stands_around_a_text(tmp_path):
    """Title, prefix and special tokens are those of a text that is tokenised whole."""
    own = material(
        tmp_path,
        [("a b", "c d")],
        pairs="crop",
        crop={"document": 10, "shortest": 1.0, "longest": 1.0},
    )
    (query,), (passage,) = made(own).views(np.array([0]), np.array([0]), 0)
    assert query == own.tokens.rows(["a b\nc d"], "query")[0]
    assert passage == own.tokens.rows(["a b\nc d"], "passage")[0]


def test_views_depend_on_seed_batch_and_number_alone(tmp_path):
    texts = [("", LETTERS), ("", LETTERS), ("", LETTERS)]
    own = {"pairs": "crop", "crop": {"document": 20}, "perturb": {"delete": 0.2}}
    pairs = made(material(tmp_path, texts, **own))
    numbers = np.array([0, 1, 2])
    queries, passages = pairs.views(numbers, numbers, 5)
    assert queries[0] != queries[1] and queries[0] != passages[0]
    again = made(material(tmp_path, texts, **own))
    part = np.array([2])  # another process's
    assert again.views(part, part, 5) == (queries[2:], passages[2:])
    assert again.views(part, part, 6) != (queries[2:], passages[2:])
    other = made(material(tmp_path, texts, seed=1, **own))
    assert other.views(part, part, 5) != (queries[2:], passages[2:])


def perturbation(tokenizer=None, **perturb):
    settings = Encoder(pairs="crop", perturb=perturb)
    tokens = SimpleNamespace(tokenizer=tokenizer or little.tokenizer())
    return raw.Perturbation(SimpleNamespace(name="mine", settings=settings, tokens=tokens))


class Chances(Script):
    """The chances of tokens, and what is chosen."""

    def random(self, count):
        assert count == 5
        return np.array([0.05, 0.15, 0.35, 0.55, 0.95])

    def choice(self, among, count):
        return among[:count]


def test_tokens_are_deleted_masked_and_replaced_by_hand():
    tokenizer = little.tokenizer()
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    changed = perturbation(tokenizer, delete=0.1, mask=0.2, replace=0.2)
    # below .1 deleted, to .3 masked, to .5 replaced by the first token that is not special
    assert changed([10, 11, 12, 13, 14], Chances()) == [tokenizer.mask_token_id, 4, 13, 14]
    assert perturbation(delete=0.1)([10, 11, 12, 13, 14], Chances()) == [11, 12, 13, 14]
    assert perturbation(replace=0.2)([10, 11, 12, 13, 14], Chances()) == [4, 5, 12, 13, 14]
    assert perturbation()([10, 11], Script()) == [10, 11]
    assert perturbation(delete=1.0)([10, 11, 12, 13, 14], Chances(integers=[3])) == [13]


def test_a_tenth_of_the_tokens_is_deleted():
    found = perturbation(delete=0.1)(list(range(10)) * 1000, generator(0, 0))
    assert 8850 <= len(found) <= 9150  # five standard deviations: 30 each


def test_replacements_are_ordinary_tokens():
    found = perturbation(replace=1.0)([0] * 2000, generator(0, 1))
    assert set(found) == set(range(4, 82)), "four special tokens of 82"


# ---- Bad input


def test_masking_without_a_mask_token():
    with pytest.raises(InputError) as error:
        perturbation(mask=0.5)
    assert str(error.value) == (
        "retrieval.encoders.mine.perturb.mask: found 0.5, but the tokenizer has no mask token; "
        "leave mask out, or use replace"
    )


def test_passages_without_text(tmp_path):
    texts = [("", "a"), ("", ""), ("a title", ""), ("", "")]
    with pytest.raises(InputError) as error:
        made(material(tmp_path, texts, pairs="crop", crop={"document": 20}))
    assert str(error.value) == (
        "retrieval.encoders.mine: pairs=crop makes views of passages, but 2 of en have no text, "
        "first d1; take them out of the corpus, or leave the language out of languages"
    )


def test_a_passage_of_which_the_tokenizer_leaves_nothing(tmp_path):
    pairs = made(material(tmp_path, [("", "a"), ("", " ")], pairs="crop", crop={"document": 20}))
    with pytest.raises(InputError) as error:
        pairs.views(np.array([0, 1]), np.array([0, 1]), 0)
    assert str(error.value) == (
        "retrieval.encoders.mine: passage en/d1 has no tokens, so pairs=crop can make no views of "
        "it; take it out of the corpus"
    )


def test_views_longer_than_the_encoder_s_texts(tmp_path):
    texts = [("", "a")]
    # [CLS] q : and [SEP] around half of 20 tokens are 14
    made(material(tmp_path, texts, pairs="crop", crop={"document": 20}, query_length=14))
    with pytest.raises(InputError) as error:
        made(material(tmp_path, texts, pairs="crop", crop={"document": 20}, query_length=13))
    assert str(error.value) == (
        "retrieval.encoders.mine.query_length: found 13, but a view may have 10 tokens, and 4 "
        "around it; set it to at least 14, or lower crop.document"
    )
    with pytest.raises(InputError, match=r"passage_length: found 21, .* have 20 tokens, and 2 "):
        made(material(tmp_path, texts, pairs="cloze", cloze={"document": 20}, passage_length=21))


def test_settings_that_say_nothing():
    with pytest.raises(ValidationError, match=r"shortest at most longest; 0.6 > 0.5"):
        Encoder(pairs="crop", crop={"shortest": 0.6})
    with pytest.raises(ValidationError, match="together at most 1; they are 1.2"):
        Encoder(pairs="crop", perturb={"delete": 0.7, "replace": 0.5})
