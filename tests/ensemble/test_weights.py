import numpy as np
import pytest

from core.evaluate import evaluate
from core.fusion import FUSIONS, MISSING, NORMALISERS, fuse
from core.settings import Ensemble
from ensemble.weights import (
    RULES,
    Judged,
    aligned_members,
    apply,
    by_score,
    calibration,
    coordinate,
    correlations,
    fit,
    greedy,
    matrix_rows,
    paper,
    query_correlations,
    version,
)

TABLE = {
    "a": {"a": 1.0, "b": 0.8, "c": 0.2},
    "b": {"a": 0.8, "b": 1.0, "c": 0.4},
    "c": {"a": 0.2, "b": 0.4, "c": 1.0},
}
GOOD = {
    "en": {"1": {"x": 3.0, "y": 2.0, "z": 1.0}, "2": {"x": 0.0, "y": 5.0}},
    "th": {"1": {"x": 1.0, "y": 0.0}},
}
BAD = {
    "en": {"1": {"x": 1.0, "y": 2.0, "z": 3.0}, "2": {"x": 1.0, "y": 0.0}},
    "th": {"1": {"x": 0.0, "y": 1.0}},
}
QRELS = {("en", "1"): {"x": 1}, ("en", "2"): {"y": 1}, ("th", "1"): {"x": 1}}


def judged(**runs):
    return Judged(aligned_members(runs, list(QRELS)), QRELS)


def row(*values):
    return np.array([values], float)


def test_papers_rule_by_hand():
    """.1, 0 and .2 behind the best: a sixth, all, an 11th; less half of .5, .6, .3."""
    raw = {"a": 0.75 / 6, "b": 0.7, "c": 0.85 / 11}
    expected = {name: value / sum(raw.values()) for name, value in raw.items()}
    assert paper({"a": 0.6, "b": 0.7, "c": 0.5}, TABLE) == pytest.approx(expected)


def alike(names, r):
    """A table in which all pairs correlate in the same way, so that only the scores decide."""
    return {a: {b: 1.0 if a == b else r for b in names} for a in names}


BEST_ROWS = {"mdeberta": 0.785, "rembert": 0.792, "infoxlm": 0.802}
PRE_FINE_TUNED_ROWS = {"mdeberta": 0.730, "rembert": 0.744, "infoxlm": 0.745}


@pytest.mark.parametrize(
    "scores, expected",
    [
        (BEST_ROWS, {"mdeberta": 1 / 1.85, "rembert": 1 / 1.5, "infoxlm": 1.0}),
        (PRE_FINE_TUNED_ROWS, {"mdeberta": 1 / 1.75, "rembert": 1 / 1.05, "infoxlm": 1.0}),
    ],
)
@pytest.mark.parametrize("r", [-0.2, 0.0, 0.9])
def test_papers_rule_on_the_scores_of_its_table_3(scores, expected, r):
    """mDeBERTa, the worst of the three, "still contributes positively to the ensemble" (5)."""
    total = sum(expected.values())
    assert paper(scores, alike(scores, r)) == pytest.approx(
        {name: value / total for name, value in expected.items()}
    )


def test_a_member_that_resembles_the_others_counts_less():
    table = alike("abc", 0.9)
    table["a"]["c"] = table["c"]["a"] = 0.3
    weights = paper({"a": 0.5, "b": 0.5, "c": 0.5}, table)
    assert weights["b"] < weights["a"] == weights["c"]


@pytest.mark.parametrize("seed", range(20))
def test_a_member_that_is_02_behind_never_outweighs_the_best(seed):
    random = np.random.default_rng(seed)
    names = "abcd"
    scores = dict(zip(names, [0.6, *random.uniform(0.6, 0.7, 3).tolist()], strict=True))
    scores["b"] = 0.7
    table = {a: dict(zip(names, random.uniform(-1, 1, 4).tolist(), strict=True)) for a in names}
    weights = paper(scores, table)
    best = max(scores, key=scores.get)
    behind = [name for name in names if scores[name] <= scores[best] - 0.02]
    assert "a" in behind and all(0 < weights[name] <= weights[best] for name in behind)
    assert sum(weights.values()) == pytest.approx(1.0)


def test_another_bad_member_leaves_the_good_ones_as_they_are_to_each_other():
    two = paper({"a": 0.80, "b": 0.79}, alike("ab", 0.5))
    three = paper({"a": 0.80, "b": 0.79, "c": 0.2}, alike("abc", 0.5))
    assert two == pytest.approx({"a": 0.6, "b": 0.4})
    whole = 1 + 2 / 3 + 1 / 31
    expected = {"a": 1 / whole, "b": 2 / 3 / whole, "c": 1 / 31 / whole}
    assert three == pytest.approx(expected)


def test_equal_scores_leave_the_correlations():
    """Mean correlations .5, .6, .3, half of them taken away."""
    assert paper({"a": 0.5, "b": 0.5, "c": 0.5}, TABLE) == pytest.approx(
        {"a": 0.75 / 2.3, "b": 0.7 / 2.3, "c": 0.85 / 2.3}
    )


def test_one_member_and_perfectly_correlated_ones():
    assert paper({"a": 0.5}, {"a": {"a": 1.0}}) == {"a": 1.0}
    assert paper({"a": 0.5, "b": 0.6}, alike("ab", 1.0)) == pytest.approx({"a": 1 / 7, "b": 6 / 7})
    assert paper({"a": 0.0, "b": 0.0}, alike("ab", 0.0)) == {"a": 0.5, "b": 0.5}


def test_by_score():
    assert by_score({"a": 0.6, "b": 0.2}) == pytest.approx({"a": 0.75, "b": 0.25}) and by_score(
        {"a": 0.0, "b": 0.0}
    ) == {"a": 0.5, "b": 0.5}


def test_correlations_by_hand():
    nan = np.nan
    assert query_correlations(row(1, 2, 3, 9), row(2, 4, 6, nan)) == pytest.approx([1.0]), (
        "on the passages that both have"
    )
    assert query_correlations(row(1, 2, 3), row(3, 2, 1)) == pytest.approx([-1.0])
    assert query_correlations(row(1, 2, 4), row(1, 3, 2)) == pytest.approx(
        [np.corrcoef([1, 2, 4], [1, 3, 2])[0, 1]]
    )
    assert np.isnan(query_correlations(row(1, 2, nan), row(2, 4, 6))).all(), "fewer than three"
    assert np.isnan(query_correlations(row(1, 1, 1), row(2, 4, 6))).all(), "constant"
    assert correlations(["x", "y"], np.array([[[1.0, 2, 3], [1, 1, 1]], [[3.0, 2, 1], [1, 2, 3]]]))[
        "y"
    ]["x"] == pytest.approx(-1.0)
    assert correlations(["x", "y"], np.array([[[1.0]], [[2.0]]])) == {
        "x": {"x": 1.0, "y": 0.0},
        "y": {"x": 0.0, "y": 1.0},
    }
    assert matrix_rows(TABLE)[1] == ["a", "1.000", "0.800", "0.200"]


def test_macro_weighs_languages_alike_and_counts_unanswered_queries():
    found = judged(good=GOOD, half={"en": {"1": {"x": 1.0}}, "th": {}})
    assert found.macro(found.per_query(found.members.scores[0])) == 1.0
    assert found.per_query(found.members.scores[1]).tolist() == [1.0, 0.0, 0.0]
    assert found.macro(found.per_query(found.members.scores[1])) == 0.25, "en .5, th 0"


def test_a_part_is_as_if_the_others_were_not_there():
    found = judged(good=GOOD, bad=BAD).part(np.array([True, False, True]))
    assert found.members.queries == (("en", "1"), ("th", "1")) and found.per_query(
        found.members.scores[0]
    ).tolist() == [1.0, 1.0]


def test_greedy_by_hand():
    """The first alone is worth .5, the second .4, both together (2 to 1) the most."""

    def value(w):
        share = w[0] / sum(w)
        return 0.5 * share + 0.4 * (1 - share) - (share - 2 / 3) ** 2

    assert greedy(value, 2).tolist() == pytest.approx([2 / 3, 1 / 3], abs=0.06)
    assert greedy(lambda w: 1.0, 3).tolist() == [1.0, 0.0, 0.0], "no gain after the first: it stays"


def test_coordinate_ascent_finds_the_grids_best():
    weights = coordinate(lambda w: -((w[0] - 0.7) ** 2) - (w[1] - 0.3) ** 2 - w[2] ** 2, 3)
    assert weights.tolist() == pytest.approx(
        [0.7, 0.3, 0.0], abs=0.051
    ) and weights.sum() == pytest.approx(1.0)
    assert coordinate(lambda w: 0.0, 4).tolist() == [0.25] * 4, "a plateau leaves equal weights"
    assert coordinate(lambda w: 0.0, 1).tolist() == [1.0]


@pytest.mark.parametrize("rule", ["paper", "greedy", "coordinate", "score"])
def test_the_better_member_gets_the_weight(rule):
    chosen = fit(judged(good=GOOD, bad=BAD), Ensemble(), rule)
    assert chosen["weights"]["good"] > chosen["weights"]["bad"] and sum(
        chosen["weights"].values()
    ) == pytest.approx(1.0)
    assert chosen["dev nDCG@10"]["good"] == 1.0 and chosen["rule"] == rule


def test_shrinkage_by_hand():
    """a is right in en, where b is second once, and fourth in th, where b is right.

    en has two queries, so that its weights are (2 v + 2 w) / 4; th's are (v + 2 w) / 3.
    """
    a = {
        "en": {"1": {"x": 2.0, "y": 1.0}, "2": {"x": 0.0, "y": 1.0}},
        "th": {"1": {"w": 4.0, "v": 3.0, "u": 2.0, "x": 1.0}},
    }
    b = {
        "en": {"1": {"x": 1.0, "y": 2.0}, "2": {"x": 0.0, "y": 1.0}},
        "th": {"1": {"w": 1.0, "v": 2.0, "u": 3.0, "x": 4.0}},
    }

    def share(behind):
        """Of the worse of two, whose correlation is one and the same."""
        part = 1 / (1 + behind / 0.02)
        return part / (1 + part)

    second, fourth = 1 / np.log2(3), 1 / np.log2(5)
    en_a = 1 - share((1 - second) / 2)
    th_a = share(1 - fourth)
    all_a = share(((1 - fourth) - (1 - second) / 2) / 2)
    chosen = fit(judged(a=a, b=b), Ensemble(), "paper", 2.0)
    assert chosen["weights"] == pytest.approx({"a": all_a, "b": 1 - all_a})
    assert chosen["by_language"]["en"]["a"] == pytest.approx((en_a + all_a) / 2)
    assert chosen["by_language"]["th"]["a"] == pytest.approx((th_a + 2 * all_a) / 3)


def test_a_language_without_weights_of_its_own_has_the_global_ones():
    members = aligned_members({"a": {**GOOD, "de": GOOD["th"]}, "b": {**BAD, "de": BAD["th"]}})
    chosen = {
        "weights": {"a": 0.25, "b": 0.75},
        "by_language": {"en": {"a": 0.5, "b": 0.5}, "th": {"a": 1.0, "b": 0.0}},
    }
    values = apply(members, chosen, Ensemble(normalise="none"))
    assert members.docids[0] == ["z", "y", "x"] and members.docids[-1] == ["y", "x"]
    assert values[0].tolist() == [2.0, 2.0, 2.0]
    assert values[2, :2].tolist() == [0.0, 1.0] and members.queries[2][0] == "th"
    assert values[-1, :2].tolist() == [0.75, 0.25] and members.queries[-1][0] == "de"


def test_what_the_new_version_covers():
    assert version(Ensemble()) == 3 and version(Ensemble(weights="uniform")) == 2
    assert version(Ensemble(weights={"a": 1.0})) == 2
    assert version(Ensemble(weights="uniform", normalise="sigmoid")) == 3


def test_calibration_is_platts():
    """scikit-learn's own has his smoothed targets; without them a few positives go too far."""
    from sklearn.calibration import _sigmoid_calibration

    random = np.random.default_rng(0)
    scores = random.normal(3.0, 10.0, (40, 25))
    gains = (random.random(scores.shape) < 1 / (1 + np.exp(-(0.2 * scores - 2)))) * 2.0
    scores[0, :3] = np.nan
    scored = ~np.isnan(scores)
    a, b = _sigmoid_calibration(scores[scored], gains[scored] > 0)
    assert calibration(scores, gains) == pytest.approx([-a, -b], rel=1e-3)


def test_smoothed_targets_by_hand():
    """Two passages a score: relevant ones at 1, others at -1, which no finite line but a smoothed
    one separates. N+ = N- = 2: targets 3/4 and 1/4, so that the line passes through log 3."""
    slope, shift = calibration(row(1, 1, -1, -1), row(1, 2, 0, 0))
    assert [slope, shift] == pytest.approx([np.log(3), 0.0], abs=1e-4)


def test_nothing_to_calibrate():
    scores = row(1, 2, 3)
    assert calibration(row(1, 1, 1), row(1, 0, 0)) == [1.0, 0.0]
    assert calibration(scores, row(0, 0, 0)) == calibration(scores, row(1, 2, 1)) == [1.0, 0.0]
    assert calibration(scores, row(1, 0, 0))[0] == 0.0, "never upside down"


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_apply_is_fuse(fusion):
    s = Ensemble(fusion=fusion, normalise="softmax", missing="minimum")
    weights = {"good": 0.7, "bad": 0.3}
    members = aligned_members({"good": GOOD, "bad": {"en": {"1": BAD["en"]["1"]}, "th": BAD["th"]}})
    values = members.run(apply(members, {"weights": weights}, s))
    for la in GOOD:
        runs = {"good": GOOD[la], "bad": {q: s for q, s in BAD[la].items() if q == "1"}}
        found = fuse(runs, weights, "softmax", "minimum", fusion)
        assert {q: values[la, q] for q in found} == {q: pytest.approx(v) for q, v in found.items()}


def test_settings_name_the_tables():
    options = {name: field.annotation for name, field in Ensemble.model_fields.items()}
    assert set(options["normalise"].__args__) == set(NORMALISERS) and set(
        options["fusion"].__args__
    ) == set(FUSIONS)
    assert set(options["missing"].__args__) == set(MISSING) and set(
        options["weights"].__args__[0].__args__
    ) == set(RULES)


def test_the_fitted_value_is_that_of_ir_measures():
    found = judged(good=GOOD, bad=BAD)
    chosen = fit(found, Ensemble(), "coordinate")
    run = found.members.run(apply(found.members, chosen, Ensemble()))
    expected = evaluate(
        {"/".join(q): s for q, s in run.items()},
        {"/".join(q): j for q, j in QRELS.items()},
        ["nDCG@10"],
    )["nDCG@10"]
    values = found.per_query(apply(found.members, chosen, Ensemble()))
    assert dict(zip(map("/".join, QRELS), values, strict=True)) == pytest.approx(expected)
