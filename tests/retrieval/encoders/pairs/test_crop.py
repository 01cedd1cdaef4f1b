"""Two spans of a passage, drawn apart."""

from core.distributed import generator
from core.encoders import Span
from retrieval.encoders.pairs.crop import two_spans


def test_both_are_spans_of_all_lengths_at_all_places():
    pieces = list(range(40))
    settings = Span()  # 5 to 50 %: 2 to 20 tokens
    random = generator(0, 0, "crop", 7)
    lengths, firsts, overlaps = set(), set(), 0
    for _ in range(1500):
        query, passage = two_spans(pieces, random, settings)
        for view in (query, passage):
            assert view == pieces[view[0] : view[0] + len(view)], "on end"
            lengths.add(len(view))
            firsts.add(view[0])
        overlaps += bool(set(query) & set(passage))
    assert lengths == set(range(2, 20)), "20 itself comes with the share of .5 alone"
    assert firsts == set(range(39))
    assert 0 < overlaps < 1500


def test_by_hand():
    class Script:
        numbers = iter([0.2, 1, 0.5, 3])

        def uniform(self, low, high):
            return next(self.numbers)

        def integers(self, below):
            return next(self.numbers)

    # .2 of ten tokens from the second on, .5 of them from the fourth on
    found = two_spans(list(range(10)), Script(), Span())
    assert found == ([1, 2], [3, 4, 5, 6, 7])
