"""A span, and what is left of its passage."""

from core.distributed import generator
from core.encoders import Cloze
from retrieval.encoders.pairs.cloze import span_and_rest


class Script:
    """Share of the passage, first token, and the chance to be kept."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def uniform(self, low, high):
        return self.numbers.pop(0)

    def integers(self, below):
        return self.numbers.pop(0)

    def random(self):
        return self.numbers.pop(0)


def test_by_hand():
    pieces = list(range(10))
    found = span_and_rest(pieces, Script(0.3, 4, 0.1), Cloze())
    assert found == ([4, 5, 6], [0, 1, 2, 3, 7, 8, 9]), "a chance of .1 is not below .1"
    assert span_and_rest(pieces, Script(0.3, 4, 0.09), Cloze()) == ([4, 5, 6], pieces), "kept"
    assert span_and_rest(pieces, Script(0.3, 7, 0.5), Cloze()) == ([7, 8, 9], pieces[:7])
    assert span_and_rest([5], Script(0.5, 0, 0.9), Cloze()) == ([5], [5]), "nothing would be left"


def test_the_span_is_kept_a_tenth_of_the_time():
    random = generator(0, 0)
    pieces = list(range(20))
    kept = 0
    for _ in range(2000):
        query, rest = span_and_rest(pieces, random, Cloze())
        kept += rest == pieces
        assert sorted({*query, *rest}) == pieces
    assert 133 <= kept <= 267  # five standard deviations: 13.4 each
