"""The stage on runs that are given: no engine needed."""

import pytest

from core.errors import InputError
from core.runs import read_run
from core.task import Task
from retrieval import bm25, search
from retrieval.ask import ask

RUNS = {
    "en-train": {"1": {"a#0": 2.0, "b#0": 1.0, "c#0": 0.5}, "2": {"d#0": 1.0}},
    "en-dev": {"3": {"d#0": 1.0, "a#1": 2.0}},
    "en-testA": {"4": {"b#0": 9.0}},
    "sw-train": {"1": {"a#0": 1.0}},
    "sw-dev": {"2": {"c#0": 1.0}},
    "sw-testA": {"3": {"a#0": 1.0}},
    "de-dev": {"1": {"b#0": 1.0}},
    "de-testA": {"2": {"b#0": 1.0}},
}


@pytest.fixture
def given(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    for name, run in RUNS.items():
        (folder / f"{name}.trec").write_text(
            "".join(f"{q} Q0 {d} 0 {s} x\n" for q, scores in run.items() for d, s in scores.items())
        )
    return folder


def of(config, given, **more):
    return config(retrieval={"sources": ["run"], "run": str(given), "depth": 2, **more})


def test_given_runs_become_the_hybrid(config, given):
    made = of(config, given)
    search.run(made)
    plan = search.plan(Task(made))
    assert search.run_of(plan["run/en-train"]) == {
        "1": {"a#0": 2.0, "b#0": 1.0},
        "2": {"d#0": 1.0},
    }, "cut at the depth"
    assert read_run(plan["hybrid/en-train"].path / "run.trec") == {
        "1": {"a#0": 1.0, "b#0": 0.0},
        "2": {"d#0": 1.0},
    }
    assert "en\ttestA\thybrid\t1\t1.0000\t1.0000" in (made.folder / "retrieval.tsv").read_text()


def test_weights_are_chosen_without_the_surprise_language(config, given):
    task = Task(of(config, given))
    assert task.weighing_languages() == ["en", "sw"]
    assert [i.name for i in search.plan(task)["hybrid-weights"].inputs] == [
        "run/en-dev",
        "qrels/en-dev",
        "run/sw-dev",
        "qrels/sw-dev",
    ]


@pytest.mark.parametrize(
    "text, message",
    [
        ("3 Q0 zz#9 0 1 x\n", "no passage zz#9; the docid is of another collection"),
        ("77 Q0 a#0 0 1 x\n", "en-dev.trec: queries without a topic in en-dev: 1, first 77"),
        ("3 Q0 a#0 0 nan x\n", "line 1: found score 'nan', expected a finite number"),
    ],
)
def test_wrong_given_runs(config, given, text, message):
    (given / "en-dev.trec").write_text(text)
    with pytest.raises(InputError, match=message):
        search.run(of(config, given))


def test_a_given_run_that_is_missing(config, given):
    (given / "sw-dev.trec").unlink()
    with pytest.raises(
        InputError,
        match="sw-dev.trec: no such file; the source 'run' needs a run for every language and split",
    ):
        search.run(of(config, given))


def test_fixed_weights_must_name_the_sources(config, given):
    with pytest.raises(
        InputError, match=r"weights are given for \['dense'\], the sources are \['run'\]"
    ):
        search.run(of(config, given, hybrid={"weights": {"dense": 1.0}}))


def test_ask_needs_an_index_and_a_language(config):
    with pytest.raises(InputError, match="language 'fr': expected one of de, en, sw"):
        ask(config(), "fr", "question", 3)
    with pytest.raises(InputError, match="bm25-index/en is not made yet; run ./retrieval/run.sh"):
        ask(config(), "en", "question", 3)


def test_nothing_of_another_model_or_analyser_is_reused(config, monkeypatch):
    def fingerprints(**dense):
        plan = search.plan(Task(config(retrieval={"sources": ["bm25", "dense"], "dense": dense})))
        return plan["vectors/en"].fingerprint, plan["bm25-index/en"].fingerprint

    plain = fingerprints()
    assert fingerprints() == plain and fingerprints(batch_tokens=4096) == plain, (
        "a batch size changes no vector"
    )
    for change in (
        {"pooling": "cls"},
        {"layers": 3},
        {"query_prefix": "ask: "},
        {"backbone": "e5-base"},
        {"max_length": 64},
    ):
        assert fingerprints(**change)[0] != plain[0]
    monkeypatch.setitem(bm25.ANALYSERS, "en", "words")
    assert fingerprints()[1] != plain[1] and fingerprints()[0] == plain[0]
