import math
import tracemalloc
from itertools import product

import numpy as np
import pytest
from scipy.stats import norm, ttest_1samp, ttest_ind
from scipy.stats import t as student

from core import evaluate as evaluation
from core.errors import InputError
from core.evaluate import (
    evaluate,
    mean_over_languages,
    means,
    ndcg,
    randomisation_test,
    relevant,
    score,
    t_test,
    weights_of_queries,
)
from core.fusion import align
from core.judgments import split_judgments
from core.task import Task

QRELS = {"1": {"a": 1, "b": 1, "c": 0}, "2": {"a": 1}, "3": {"x": 0}}
RUN = {"1": {"c": 3.0, "a": 2.0, "b": 1.0}, "4": {"a": 1.0}}


def test_by_hand():
    values = evaluate(RUN, QRELS)
    ideal = 1 + 1 / math.log2(3)
    assert values["nDCG@10"]["1"] == pytest.approx((1 / math.log2(3) + 1 / 2) / ideal)
    assert values["RR@100"]["1"] == 0.5 and values["R@100"]["1"] == 1.0
    assert values["AP"]["1"] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_every_judged_query_counts():
    values = evaluate(RUN, QRELS)
    assert list(values["nDCG@10"]) == ["1", "2", "3"], (
        "unanswered 2 and 3 (nothing relevant) are there; 4, unjudged, is not"
    )
    assert values["nDCG@10"]["2"] == 0.0 and values["nDCG@10"]["3"] == 0.0
    assert means(values)["RR@100"] == pytest.approx(0.5 / 3)


def test_ties_count_as_trec_eval_counts_them():
    import pytrec_eval

    run, qrels = {"1": {"a": 1.0, "b": 1.0, "c": 1.0}}, {"1": {"a": 1}}
    assert score(run, qrels) == pytest.approx(
        pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut_10"}).evaluate(run)["1"]["ndcg_cut_10"]
    )
    assert score(run, qrels, "RR@100") == pytest.approx(1 / 3)


def test_without_judgments():
    with pytest.raises(InputError, match="no judgments"):
        evaluate(RUN, {})


def exhaustive_p(differences, languages):
    """Of all sign patterns, the share with a mean over languages as far out as the observed one."""

    def shown(signs):
        signed = [sign * d for sign, d in zip(signs, differences, strict=True)]
        return abs(mean_over_languages(signed, languages))

    observed = shown([1] * len(differences))
    patterns = list(product([1, -1], repeat=len(differences)))
    return sum(shown(signs) >= observed - 1e-12 for signs in patterns) / len(patterns)


def test_randomisation_test():
    assert randomisation_test([0.0, 0.0], ["en"] * 2) == 1.0
    assert randomisation_test([0.1] * 4, ["en"] * 4, rounds=20000) == pytest.approx(
        2 / 16, abs=0.01
    ), "two of the sixteen sign patterns are as extreme"
    assert randomisation_test([0.1] * 40, ["en"] * 40) < 0.001


def test_randomisation_of_the_mean_over_languages_by_hand():
    """One query of sw with +.4, four of en with -.1 each: shown is (.4 - .1) / 2 = +.15.

    Where sw keeps its sign, a pattern shows (.4 + e) / 2 with e, en's mean, from -.1 to .1: .15 or
    more. Where it is flipped, as much below 0. So every pattern is as extreme, p = 1.
    """
    differences, languages = [0.4, -0.1, -0.1, -0.1, -0.1], ["sw", "en", "en", "en", "en"]
    assert mean_over_languages(differences, languages) == pytest.approx(0.15)
    assert weights_of_queries(languages).tolist() == [2.5, 0.625, 0.625, 0.625, 0.625]
    assert exhaustive_p(differences, languages) == 1.0
    assert randomisation_test(differences, languages) == 1.0
    differences[1:] = [
        0.1
    ] * 4  # now shown is .25, and only all signs kept or all flipped are as far out
    assert exhaustive_p(differences, languages) == 2 / 32
    assert randomisation_test(differences, languages, 20000) == pytest.approx(2 / 32, abs=0.005)


def test_randomisation_of_uneven_languages_is_that_of_all_sign_patterns():
    differences = [0.5, 0.25, -0.1, 0.3, 0.0, 0.2, -0.05, 0.1, 0.15, -0.3]
    languages = ["sw", "sw", "en", "en", "en", "en", "en", "th", "en", "en"]
    expected = exhaustive_p(differences, languages)
    pooled = exhaustive_p(differences, ["all"] * 10)
    assert abs(expected - pooled) > 0.05, "the two tests differ here"
    assert randomisation_test(differences, languages, 40000) == pytest.approx(expected, abs=0.01)


def test_what_is_shown_is_what_is_tested():
    """100 queries of one language gain, 2,900 of another lose a little: shown is +.095."""
    random = np.random.default_rng(0)
    few = random.normal(0.2, 0.3, 100)
    many = random.normal(-0.01, 0.3, 2900)
    few += 0.2 - few.mean()
    many += -0.01 - many.mean()
    differences, languages = [*few, *many], ["sw"] * 100 + ["en"] * 2900
    assert np.mean(differences) == pytest.approx(-0.003)
    assert mean_over_languages(differences, languages) == pytest.approx(0.095)
    assert randomisation_test(differences, languages) < 0.001
    assert t_test(differences, languages) < 0.001
    # and the other way about: what is pooled lies far from 0, the mean over languages does not
    opposite = [*(0.2 - few), *(many - 0.06)]
    assert np.mean(opposite) < -0.06
    shown = mean_over_languages(opposite, languages)
    assert shown == pytest.approx(-0.035)
    standard_error = np.sqrt(few.var(ddof=1) / 100 + many.var(ddof=1) / 2900) / 2
    expected = 2 * norm.sf(abs(shown) / standard_error)
    assert expected > 0.01
    assert randomisation_test(opposite, languages) == pytest.approx(expected, abs=0.02)
    assert t_test(opposite, languages) == pytest.approx(expected, abs=0.01)


def test_languages_of_one_size_are_tested_as_their_pooled_queries():
    differences = np.random.default_rng(1).normal(0.05, 0.2, 60).tolist()
    pooled = randomisation_test(differences, ["all"] * 60, seed=7)
    assert 0 < pooled < 1
    assert randomisation_test(differences, ["en", "th", "sw"] * 20, seed=7) == pooled


def test_one_language_has_the_p_of_the_plain_test_with_one_matrix_of_signs():
    """The draws are those of one call for all rounds, in however many blocks they are made."""
    differences = np.random.default_rng(2).normal(0.02, 0.2, 1500)
    signs = np.random.Generator(np.random.PCG64(5)).choice([-1.0, 1.0], (10000, 1500))
    extreme = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12).sum()
    assert 1500 * 10000 > 3 * evaluation.SIGNS_AT_ONCE
    assert randomisation_test(differences, ["en"] * 1500, seed=5) == (extreme + 1) / 10001


def test_a_hundred_thousand_queries_are_tested_in_little_memory():
    differences = np.random.default_rng(3).normal(0.0, 0.2, 100_000)
    languages = ["en"] * 90_000 + ["sw"] * 10_000
    tracemalloc.start()
    p = randomisation_test(differences, languages, rounds=200)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 < p <= 1
    assert peak < 120e6, "all signs at once are 160 MB of these 200 rounds, 8 GB of 10,000"


def test_t_test_of_one_language_is_the_plain_one():
    differences = [0.1, 0.3, -0.2, 0.05, 0.4]
    expected = ttest_1samp(differences, 0.0).pvalue
    assert t_test(differences, ["en"] * 5) == pytest.approx(expected)
    assert t_test([0.0] * 5, ["en"] * 5) == 1.0
    assert t_test([0.5, 0.5], ["en", "en"]) == 0.0


def test_t_test_of_the_mean_over_languages_by_hand():
    """sw .2, .4: mean .3, s² .02, squared error .01; en 0, .1, .2: mean .1, s² .01, error² 1/300.

    Shown is .2. Its standard error is the root of .04/3 over 2, so t = 2 · .2 / .11547 = 3.4641, of
    (.04/3)² / (.01² / 1 + (1/300)² / 2) = 1.6842 degrees of freedom.
    """
    p = t_test([0.2, 0.4, 0.0, 0.1, 0.2], ["sw", "sw", "en", "en", "en"])
    assert p == pytest.approx(2 * student.sf(2 * math.sqrt(3), 1.6842105))


def test_t_test_of_two_languages_is_that_of_welch():
    """A mean over languages of a and b is as far from 0 as a is from -b."""
    a, b = [0.2, 0.4, 0.1, 0.0], [0.0, 0.3, -0.1]
    expected = ttest_ind(a, [-v for v in b], equal_var=False).pvalue
    assert t_test(a + b, ["en"] * 4 + ["sw"] * 3) == pytest.approx(expected)


def test_t_test_needs_two_queries_of_each_language():
    with pytest.raises(
        InputError,
        match="^sw: found 1 judged query, expected 2 or more of each language for a t-test; "
        "take the randomisation test$",
    ):
        t_test([0.1, 0.2, 0.3], ["en", "en", "sw"])


def test_test_judgments_through_the_evaluation(config):
    assert split_judgments(Task(config()), "en", "testA") == {"4": {"b#0": 1, "a#0": 0}}


def test_command(folder, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run.trec"
    run.write_text("1 Q0 a#0 1 2.0 t\n")
    monkeypatch.setattr(
        "sys.argv", ["evaluate", str(run), str(folder / "en" / "qrels" / "qrels.en-train.tsv")]
    )
    evaluation.main()
    out = capsys.readouterr().out
    assert "nDCG@10\t0.5000" in out and "queries\t2 judged, 1 answered" in out
    run.write_text("9 Q0 a#0 1 2.0 t\n")
    with pytest.raises(
        InputError,
        match="run.trec: answers none of the 2 judged queries .its first is 9, theirs 1.; "
        "is it of this language and split",
    ):
        evaluation.main()


def test_fast_ndcg_is_that_of_ir_measures_with_ties_gaps_and_grades(monkeypatch):
    monkeypatch.setattr(evaluation, "QUERIES_AT_ONCE", 7)
    random = np.random.default_rng(5)
    docs = [f"d{i:02}" for i in range(30)]
    run = {
        f"q{q}": {
            d: float(random.integers(6)) for d in random.permutation(docs)[: random.integers(0, 25)]
        }
        for q in range(40)
    }
    qrels = {q: {d: int(random.integers(3)) for d in random.permutation(docs)[:6]} for q in run} | {
        "q0": {"d00": 0}
    }
    aligned = align({"x": run}, list(qrels))
    found = ndcg(aligned.scores[0], relevant(aligned, qrels))
    assert dict(zip(aligned.queries, found, strict=True)) == pytest.approx(
        evaluate(run, qrels, ["nDCG@10"])["nDCG@10"]
    )
    assert found.max() > 0.5 and found[0] == 0.0


def test_a_passage_that_is_no_candidate_gains_nothing():
    aligned = align({"x": {"q": {"a": 1.0}}, "y": {"q": {"b": 1.0}}})
    assert ndcg(aligned.scores[0], relevant(aligned, {"q": {"b": 1}})).tolist() == [0.0]
    assert ndcg(aligned.scores[1], relevant(aligned, {"q": {"b": 1}})).tolist() == [1.0]
    assert ndcg(aligned.scores[0], relevant(aligned, {"q": {"nowhere": 1}})).tolist() == [0.0]


def test_fast_ndcg_needs_judgments():
    with pytest.raises(
        InputError, match="query q: no judgments, expected every query to be judged"
    ):
        relevant(align({"x": {"q": {"d": 1.0}}}), {})
