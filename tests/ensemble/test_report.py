from html.parser import HTMLParser

from ensemble.report import bars, comparison_rows, html_table
from ensemble.results import table, text_table

RESULTS = {"testA": {"bm25": {"en": {"nDCG@10": 0.5}, "known": {"nDCG@10": 0.5}}, "<b>evil</b>": {"en": {"nDCG@10": 0.75}, "known": {"nDCG@10": 0.75}}}}


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes).get("class")))


def test_text_is_escaped_and_the_best_is_marked():
    html = html_table(table(RESULTS, "testA"), True)
    assert "<b>" not in html and "&lt;b&gt;evil" in html
    tags = Tags()
    tags.feed(html)
    assert tags.seen.count(("td", "best")) == 2
    assert "<script>" not in bars("<script>", {"a<script>": 0.5})


def test_bars_are_as_tall_as_their_values():
    assert 'height="60.0"' in bars("en", {"a": 0.5}) and ">0.50<" in bars("en", {"a": 0.5})


def test_tables():
    assert table(RESULTS, "testA") == [["nDCG@10", "en", "known"], ["bm25", "0.5000", "0.5000"], ["<b>evil</b>", "0.7500", "0.7500"]]
    assert text_table([["a", "b"], ["long", "1"]]) == "a     b\nlong  1"
    row = comparison_rows({"testA": {"x": {"known": {"queries": 3, "difference": -0.01, "wins": 1, "losses": 2, "p": 0.5}}}})[1]
    assert row == ["x", "testA", "known", "3", "-0.0100", "1", "2", "0.5000"]
