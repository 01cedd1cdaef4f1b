import math

import numpy as np
import pytest

from core.errors import InputError
from core.evaluate import (
    evaluate,
    means,
    ndcg,
    randomisation_test,
    relevant,
    score,
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


def test_randomisation_test():
    assert randomisation_test([0.0, 0.0]) == 1.0
    assert randomisation_test([0.1] * 4, rounds=20000) == pytest.approx(2 / 16, abs=0.01), (
        "two of the sixteen sign patterns are as extreme"
    )
    assert randomisation_test([0.1] * 40) < 0.001


def test_test_judgments_through_the_evaluation(config):
    assert split_judgments(Task(config()), "en", "testA") == {"4": {"b#0": 1, "a#0": 0}}


def test_command(folder, tmp_path, capsys, monkeypatch):
    from core import evaluate as module

    run = tmp_path / "run.trec"
    run.write_text("1 Q0 a#0 1 2.0 t\n")
    monkeypatch.setattr(
        "sys.argv", ["evaluate", str(run), str(folder / "en" / "qrels" / "qrels.en-train.tsv")]
    )
    module.main()
    out = capsys.readouterr().out
    assert "nDCG@10\t0.5000" in out and "queries\t2 judged, 1 answered" in out
    run.write_text("9 Q0 a#0 1 2.0 t\n")
    with pytest.raises(
        InputError,
        match="run.trec: answers none of the 2 judged queries .its first is 9, theirs 1.; is it of this language and split",
    ):
        module.main()


def test_fast_ndcg_is_that_of_ir_measures_with_ties_gaps_and_grades():
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
    assert dict(zip(aligned.queries, found)) == pytest.approx(
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
