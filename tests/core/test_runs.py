import numpy as np
import pytest

from core.errors import InputError
from core.runs import (
    StoredRun,
    append_below,
    by_depth,
    ranked,
    read_rankings,
    read_run,
    top_k,
    write_rankings,
    write_run,
)


def test_order_is_score_then_docid_descending():
    assert [d for d, _ in ranked({"a": 1.0, "c": 2.0, "b": 1.0})] == ["c", "b", "a"]
    assert by_depth({"a": 1.0, "c": 2.0, "b": 1.0}) == {"c": 3.0, "b": 2.0, "a": 1.0}
    assert top_k({"a": 1.0, "c": 2.0, "b": 1.0}, 2) == {"c": 2.0, "b": 1.0}


def test_order_of_ties_is_trec_evals():
    import pytrec_eval

    random = np.random.default_rng(0)
    run = {
        str(q): {f"d{i}": float(random.integers(4)) for i in random.permutation(30)}
        for q in range(20)
    }
    qrels = {q: {d: int(random.integers(2)) for d in scores} for q, scores in run.items()}
    measures = {"ndcg_cut_10", "map", "recip_rank"}
    raw = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    ours = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(
        {q: by_depth(s) for q, s in run.items()}
    )
    assert raw == ours


def test_written_scores_are_read_in_full(tmp_path):
    run = {"2": {"x": 0.1 + 0.2, "y": 1e-17}, "1": {"x": -3.0}}
    write_run(tmp_path / "run.trec", run, "tag")
    assert read_run(tmp_path / "run.trec") == run
    assert (tmp_path / "run.trec").read_text().splitlines()[0] == "2 Q0 x 1 0.30000000000000004 tag"
    assert list(tmp_path.iterdir()) == [tmp_path / "run.trec"]


def test_append_below_keeps_the_given_order():
    made = append_below({"b": -4.0, "a": 2.0}, ["c", "a", "d"])
    assert made == {"b": -4.0, "a": 2.0, "c": -5.0, "d": -6.0}


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "1 Q0 d 1 0.5\n",
            "run.trec, line 1: found 5 columns, expected 6: query-id Q0 docid rank score tag",
        ),
        (
            "1 Q0 d 1 0.5 t\n1 Q0 e 2 nan t\n",
            "run.trec, line 2: found score 'nan', expected a finite number",
        ),
        ("1 Q0 d 1 inf t\n", "line 1: found score 'inf', expected a finite number"),
        ("1 Q0 d 1 x t\n", "line 1: found score 'x'"),
        ("1 Q0 d 1 2 t\n1 Q0 d 2 1 t\n", "line 2: found passage d a second time for query 1"),
        ("", "the run is empty"),
    ],
)
def test_a_wrong_run_says_where(tmp_path, text, message):
    (tmp_path / "run.trec").write_text(text)
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        read_run(tmp_path / "run.trec")
    if text:
        with pytest.raises(InputError, match=message.replace("(", r"\(")):
            list(read_rankings(tmp_path / "run.trec"))


def test_missing_file_and_wrong_bytes(tmp_path):
    with pytest.raises(InputError, match="none.trec: no such file"):
        read_run(tmp_path / "none.trec")
    (tmp_path / "run.trec").write_bytes(b"1 Q0 d 1 2 t\n1 Q0 \xff 2 1 t\n")
    with pytest.raises(
        InputError, match="line 2: found byte 0xff at column 6, expected UTF-8 text"
    ):
        read_run(tmp_path / "run.trec")


def test_a_failed_write_leaves_no_trace(tmp_path):
    with pytest.raises(TypeError):
        write_run(tmp_path / "run.trec", {"1": {"a": None}}, "tag")
    assert list(tmp_path.iterdir()) == []


def test_a_stream_is_written_as_the_same_bytes_and_nothing_is_kept(tmp_path):
    run = {"2": {"x": 0.5, "y": 0.5, "z": 2.0}, "empty": {}, "1": {"x": -3.0}}
    write_run(tmp_path / "whole.trec", run, "tag")
    seen = []

    def stream():
        for qid in run:
            (part,) = tmp_path.glob("stream.trec.*.part")
            seen.append(part.exists())
            yield qid, run[qid]

    write_rankings(tmp_path / "stream.trec", stream(), "tag")
    assert (tmp_path / "stream.trec").read_bytes() == (tmp_path / "whole.trec").read_bytes()
    assert seen == [True, True, True], "queries are asked for one by one while the file is open"


def test_a_stored_run_and_a_stream_of_rankings_are_the_run(tmp_path):
    random = np.random.default_rng(3)
    run = {
        f"frågä-{q}": {f"d{i}": float(random.normal()) for i in random.permutation(30)[: q % 5 + 1]}
        for q in range(20)
    }
    write_run(tmp_path / "run.trec", run, "tag")
    stored = StoredRun(tmp_path / "run.trec")
    assert dict(stored) == run and list(stored) == list(run), "in the file's order"
    assert "none" not in stored and stored.get("none", {}) == {}
    (tmp_path / "empty.trec").write_text("")
    assert dict(StoredRun(tmp_path / "empty.trec")) == {}
    assert list(read_rankings(tmp_path / "run.trec")) == list(run.items())
    assert list(read_rankings(tmp_path / "empty.trec")) == []


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "1 Q0 d 1 2 t\n2 Q0 d 1 2 t\n1 Q0 e 2 1 t\n",
            "line 3: found query 1 again after others, expected a query's lines together",
        ),
        ("1 Q0 d 1 2 t\n2 Q0 d 1 2 t\n2 Q0 e 2 nan t\n", "line 3: found score 'nan'"),
        ("1 Q0 d 1 2 t\n2 Q0 d\n", "line 2: found 3 columns"),
    ],
)
def test_a_run_that_cannot_be_read_by_query_says_where(tmp_path, text, message):
    (tmp_path / "run.trec").write_text(text)
    with pytest.raises(InputError, match=message):
        dict(StoredRun(tmp_path / "run.trec"))
    with pytest.raises(InputError, match=message):
        list(read_rankings(tmp_path / "run.trec"))
