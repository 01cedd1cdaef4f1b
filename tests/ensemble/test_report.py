from html.parser import HTMLParser

import pytest
from markupsafe import Markup

from ensemble import charts
from ensemble.report import PAGE, cell, stages, thinned, weight_rows
from ensemble.results import comparison_rows, paired, table, text_table

RESULTS = {
    "testA": {
        "bm25": {"en": {"nDCG@10": 0.5}, "known": {"nDCG@10": 0.5}},
        "<b>evil</b>": {"en": {"nDCG@10": 0.75}, "known": {"nDCG@10": 0.75}},
    }
}
CHANGE = {"queries": 3, "difference": 0.25, "wins": 2, "losses": 1, "p": 0.01, "holm": 0.04}
COMPARED = {
    "testA": {
        "<b>evil</b>": {
            "against": "bm25",
            "columns": {"en": CHANGE, "known": {**CHANGE, "holm": 0.06}},
        }
    }
}


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.seen, self.words = [], []
        self.feed(str(text))

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)

    def handle_data(self, data):
        self.words.append(data)


def page(**values):
    empty = {
        "title": "t",
        "subtitle": "",
        "split": None,
        "histograms": [],
        "weights": [],
        "estimates": None,
        "stacking": None,
        "times": [["a"]],
        "provenance": [["a"]],
        "config": "{}",
        "marked": "",
        "targets": "",
        "trainings": [["a"]],
        "given": "",
        "gates": None,
        "samples": [],
    }
    return PAGE.get_template("report.html").render({**empty, **values})


def test_text_from_data_is_escaped():
    evil = "<script>alert(1)</script>"
    worst = {
        "qid": evil,
        "text": evil,
        "figures": {evil: 0.5},
        "right": {
            "docid": evil,
            "title": evil,
            "text": evil,
            "ranks": {evil: None},
            "above": [evil],
        },
        "wrong": [],
    }
    html = page(
        split="testA",
        columns=["en"],
        stages=stages(RESULTS, COMPARED, "testA"),
        tests=[[evil]],
        metrics=[(evil, [[evil]])],
        curves=[charts.lines(evil, evil, {evil: {1: 0.5}})],
        fates_chart=charts.stacked(evil, {evil: {evil: 1.0}}),
        fates=[[evil]],
        worst=[(evil, [worst])],
        worst_count=3,
        final=evil,
        stored=1,
        candidates=1,
        histograms=[charts.histogram(evil, {evil: [0.0, 1.0]})],
        title=evil,
        subtitle=evil,
        config=evil,
        provenance=[[evil]],
        times=[[evil]],
        marked=evil,
        targets=evil,
        trainings=[[evil]],
        gates=[[evil]],
        samples=[
            {
                "recipe": evil,
                "language": "en",
                "qid": evil,
                "docid": evil,
                "origin": evil,
                "label": 0.5,
                "round": 1,
                "teacher": evil,
                "reason": evil,
                "passage_language": evil,
                "query": evil,
                "passage": evil,
            }
        ],
    )
    tags = Tags(html)
    assert "script" not in tags.seen and "b" in tags.seen and html.count("&lt;script&gt;") > 20
    assert "<b>evil" not in html and "http" not in html


def test_right_to_left_text_finds_its_direction():
    worst = {"qid": "1", "text": "ما هي عاصمة مصر؟", "figures": {}, "right": None, "wrong": []}
    html = page(
        split="testA",
        columns=[],
        stages=[],
        tests=[["x"]],
        metrics=[],
        curves=[],
        fates_chart="",
        fates=[["x"]],
        worst=[("ar", [worst])],
        worst_count=3,
        final="x",
        stored=1,
        candidates=1,
    )
    assert '<p class="query" dir="auto" lang="ar">ما هي عاصمة مصر؟</p>' in html


def test_stages_show_change_and_significance():
    rows = stages(RESULTS, COMPARED, "testA")
    assert rows[0]["against"] == "" and rows[0]["cells"][0] == {
        "value": "0.5000",
        "best": False,
        "change": "",
    }
    en, known = rows[1]["cells"]
    assert (en["value"], en["best"], en["change"], en["direction"]) == (
        "0.7500",
        True,
        "+0.2500*",
        "up",
    ) and known["change"] == "+0.2500"
    assert en["detail"] == "2 won, 1 lost of 3; p 0.0100, Holm 0.0400"
    assert cell(0.5, 0.6, {**CHANGE, "difference": 0.0})["direction"] == ""


def test_paired_by_hand():
    before, after = (
        {("en", "1"): 0.5, ("en", "2"): 1.0, ("th", "1"): 0.0},
        {("en", "1"): 1.0, ("en", "2"): 0.75, ("th", "1"): 1.0},
    )
    assert paired(before, after, ["en"], 0) == {
        "difference": 0.125,
        "queries": 2,
        "wins": 1,
        "losses": 1,
        "p": pytest.approx(1.0),
    }


def test_tables():
    assert table(RESULTS, "testA") == [
        ["nDCG@10", "en", "known"],
        ["bm25", "0.5000", "0.5000"],
        ["<b>evil</b>", "0.7500", "0.7500"],
    ]
    assert text_table([["a", "b"], ["long", "1"]]) == "a     b\nlong  1"
    assert comparison_rows(COMPARED, "testA")[1:] == [
        ["<b>evil</b>", "bm25", "known", "3", "+0.2500", "2", "1", "0.0100", "0.0600"]
    ]
    assert weight_rows(
        {"weights": {"a": 0.25}, "dev nDCG@10": {"a": 0.5}, "by_language": {"en": {"a": 1.0}}}
    ) == [["member", "weight", "dev nDCG@10", "en"], ["a", "0.2500", "0.5000", "1.0000"]]


def test_long_training_curves_are_averaged():
    assert thinned({1: 1.0, 2: 3.0}) == {1: 1.0, 2: 3.0}
    found = thinned({s: float(s) for s in range(1, 241)})
    assert len(found) == 120 and found[1] == 1.5


def test_lines_stand_where_their_values_are():
    html = charts.lines("t", "k", {"a": {0: 0.0, 10: 1.0}, "empty": {}})
    low, high = charts.HEIGHT - charts.BOTTOM, 8
    top = low + (1.0 - -0.08) / 1.16 * (high - low)
    assert (
        f"{charts.LEFT + 8:.1f}," in html
        and f"{charts.WIDTH - 14:.1f},{top:.1f}" in html
        and "empty" not in html
    )
    assert charts.lines("t", "k", {}) == "" and isinstance(html, Markup)


def test_ticks_are_round():
    assert charts.ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0] and charts.ticks(
        0.83, 0.91
    ) == [0.84, 0.86, 0.88, 0.9]
    assert charts.ticks(0, 320) == [0, 100, 200, 300]


def test_histogram_and_stacked_bars():
    html = charts.histogram("t", {"relevant": [1.0, 1.0], "others": [0.0, 1.0]})
    assert "relevant (2)" in html and html.count("<rect") == 3
    assert charts.histogram("t", {"relevant": []}) == ""
    assert charts.histogram("t", {"constant": [2.0, 2.0]}).count("<rect") == 1
    bar = charts.stacked("t", {"en": {"a": 0.25, "b": 0.75}})
    widths = [float(part.split('"')[0]) for part in bar.split(' width="')[1:]]
    assert widths[1] / widths[0] == pytest.approx(3.0, abs=0.02)
