import pytest

from ensemble.weights import correlations, dev_scores, matrix_rows, paper, query_correlation, uniform

TABLE = {"a": {"a": 1.0, "b": 0.8, "c": 0.2}, "b": {"a": 0.8, "b": 1.0, "c": 0.4}, "c": {"a": 0.2, "b": 0.4, "c": 1.0}}


def test_papers_rule_by_hand():
    """Above the worst: .1, .2, 0; one minus the mean correlation: .5, .4, .7; products .05, .08, 0."""
    assert paper({"a": 0.6, "b": 0.7, "c": 0.5}, TABLE) == pytest.approx({"a": 5 / 13, "b": 8 / 13, "c": 0.0})


def test_equal_scores_leave_the_correlations():
    assert paper({"a": 0.5, "b": 0.5, "c": 0.5}, TABLE) == pytest.approx({"a": 5 / 16, "b": 4 / 16, "c": 7 / 16})


def test_one_member_and_perfectly_correlated_ones():
    assert paper({"a": 0.5}, {"a": {"a": 1.0}}) == {"a": 1.0}
    assert paper({"a": 0.5, "b": 0.6}, {"a": {"b": 1.0}, "b": {"a": 1.0}}) == uniform({"a": 0, "b": 0}) == {"a": 0.5, "b": 0.5}


def test_correlation_by_hand():
    x, y = {"a": 1.0, "b": 2.0, "c": 3.0, "only x": 9.0}, {"a": 2.0, "b": 4.0, "c": 6.0}
    assert query_correlation(x, y, "none") == pytest.approx(1.0)
    assert query_correlation({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 3.0, "b": 2.0, "c": 1.0}, "minmax") == pytest.approx(-1.0)
    assert query_correlation({"a": 1.0, "b": 2.0}, y, "minmax") is None and query_correlation(dict.fromkeys("abc", 1.0), y, "minmax") is None
    runs = {"x": {"en": {"1": x, "2": {"a": 1.0}}}, "y": {"en": {"1": y}}}
    assert correlations(runs, "none")["x"]["y"] == pytest.approx(1.0) and correlations({"x": {"en": {}}, "y": {"en": {}}}, "none")["x"]["y"] == 0.0
    assert matrix_rows(TABLE)[1] == ["a", "1.000", "0.800", "0.200"]


def test_dev_scores_weigh_languages_alike():
    runs = {"x": {"en": {"1": {"a": 1.0}, "2": {"a": 1.0}}, "sw": {"1": {"b": 1.0}}}}
    assert dev_scores(runs, {"en": {"1": {"a": 1}, "2": {"a": 1}}, "sw": {"1": {"a": 1}}}) == {"x": 0.5}
