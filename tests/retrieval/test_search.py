"""The stage on runs that are given: no engine needed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from core import backbones
from core.building import Journal
from core.errors import InputError
from core.fusion import PRESETS, fuse
from core.runs import read_run, top_k
from core.task import Task
from retrieval import bm25, hybrid, retrievers, search
from retrieval.ask import ask
from training import engine

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
    task = Task(made)
    plan = search.plan(task)
    assert task.run("run", "en", "train") == {
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
        match="sw-dev.trec: no such file; "
        "the source 'run' needs a run for every language and split",
    ):
        search.run(of(config, given))


def test_fixed_weights_must_name_the_sources(config, given):
    with pytest.raises(
        InputError, match=r"weights are given for \['dense'\], the sources are \['run'\]"
    ):
        search.run(of(config, given, hybrid={"weights": {"dense": 1.0}}))


@pytest.mark.parametrize(
    "retrieval, message",
    [
        (
            {"sources": ["bm25"], "hybrid": {"preset": "miracl-baseline"}},
            r"weights are given for \['bm25', 'dense'\], the sources are \['bm25'\]",
        ),
        (
            {"sources": ["bm25"], "hybrid": {"preset": "sparse-dense"}},
            "preset=sparse-dense fuses two sources, found bm25",
        ),
        (
            {"hybrid": {"weights": "equal", "shrink": 3.0}},
            "retrieval.hybrid.shrink: weights by language are fitted on dev",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_before_anything_is_made(
    config, retrieval, message
):
    with pytest.raises(InputError, match=message):
        search.plan(Task(config(retrieval=retrieval)))


def test_runs_less_deep_than_the_candidates_are_told(config, given, capsys):
    search.run(of(config, given))
    assert (
        "note: candidates=200, but runs hold retrieval.depth=2 passages" in capsys.readouterr().out
    )
    search.say_shallow(Task(of(config, given).model_copy(update={"candidates": 2})))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("preset", ["minmax", "zscore", "rrf", "miracl-baseline"])
def test_a_query_fused_alone_is_the_query_fused_among_others(preset):
    """One of 300 passages, one of 3: that the long one pads the short one changes nothing."""
    runs = {
        "bm25": {
            "long": {f"d{i:03}": 1.0 + (i * 7919 % 301) / 7 for i in range(300)},
            "bm25 alone": {"a": 1.0},
            "short": {"a": 3.3, "b": 0.1},
        },
        "dense": {
            "dense alone": {"b": 0.7, "a": 0.6},
            "short": {"c": 0.9, "a": 0.3},
            "long": {f"d{i:03}": (i * 6007 % 311) / 311 for i in range(100, 300)},
        },
    }
    weights = {"bm25": 0.3, "dense": 0.7}
    how = PRESETS[preset]
    together = fuse(runs, weights, how.normalise, how.missing)
    alone = dict(hybrid.fused(runs, weights, how, 250))
    assert list(alone) == list(together) == ["long", "bm25 alone", "short", "dense alone"]
    for qid, scores in together.items():
        if preset == "zscore":  # sums differ in their last bits with the padding
            assert alone[qid] == pytest.approx(top_k(scores, 250), abs=1e-12)
        else:
            assert alone[qid] == top_k(scores, 250)


def test_shards_pass_over_configurations_without_vectors(config, monkeypatch):
    """Data of a chain have BM25 alone; the first of them ended it for all."""
    only_bm25 = config(name="data", retrieval={"sources": ["bm25"]})
    both = config(languages=["sw"], retrieval={"sources": ["bm25", "dense"]})
    encoded = []
    monkeypatch.setattr(retrievers, "encoder_of", lambda task: None)
    monkeypatch.setattr(
        search.dense, "encode_corpus", lambda *arguments: encoded.append(arguments[3:])
    )
    search.encode_shards([only_bm25, both], (0, 2))
    assert encoded == [("sw", (0, 2))]
    steps = search.plan(Task(both))
    made = {name for name, step in steps.items() if step.done}
    assert made == {"passages/sw"}, "the passages are made, and nothing else"
    assert set(Journal(both.folder).recipes) == {"passages/sw", "vectors/sw"}
    with pytest.raises(InputError, match="--shard: retrieval.sources holds no dense source"):
        search.encode_shards([only_bm25], (0, 2))


SHARD = """
import sys
from core.settings import Config
from retrieval import dense, retrievers, search
retrievers.encoder_of = lambda task: None
def encode(encoder, passages, folder, language, shard):
    (folder / f"of-{shard[0]}").touch()
    print("at work", flush=True)
    sys.stdin.readline()
dense.encode_corpus = encode
config = Config.model_validate_json(sys.argv[1])
search.encode_shards([config], (int(sys.argv[2]), 2))
"""


def test_vectors_that_shards_are_making_are_not_cleaned(config, tmp_path):
    root = Path(__file__).parents[2]
    made = config(
        work=str(tmp_path / "work"), languages=["sw"], retrieval={"sources": ["bm25", "dense"]}
    )
    shards = [
        subprocess.Popen(
            [sys.executable, "-c", SHARD, made.model_dump_json(), str(number)],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    clean = [sys.executable, "-m", "core.store", "--clean", str(tmp_path / "work")]
    try:
        for shard in shards:
            assert "at work\n" in iter(shard.stdout.readline, ""), "it ended before its work"
        part = search.plan(Task(made))["vectors/sw"].part
        assert {path.name for path in part.iterdir()} == {"of-0", "of-1"}, "both at once"
        done = subprocess.run(clean, cwd=root, capture_output=True, text=True)
        assert done.returncode == 0 and part.exists(), "the configuration's notes name it"

        shutil.rmtree(made.folder)
        done = subprocess.run(clean, cwd=root, capture_output=True, text=True)
        assert done.returncode == 2 and "is being made (process" in done.stderr
        assert {path.name for path in part.iterdir()} == {"of-0", "of-1"}
    finally:
        for shard in shards:
            shard.communicate("\n", timeout=60)
    subprocess.run(clean, cwd=root, check=True, capture_output=True)
    assert not part.exists(), "nobody is at work any more"


def test_passages_are_counted_by_a_beginning_and_then_exactly(config, folder):
    """Of 5,000 equal lines the first 2,000 tell how many there are; English's five are all read."""
    line = json.dumps({"docid": "x", "title": "", "text": "words " * 20}) + "\n"
    corpus = folder / "sw" / "corpus" / "docs-0.jsonl.gz"
    corpus.unlink()
    (folder / "sw" / "corpus" / "docs-0.jsonl").write_text(line * 5000)
    task = Task(config(retrieval={"sources": ["bm25"]}))
    search.plan(task)
    assert retrievers.guessed(task, "sw") == pytest.approx(5000, rel=0.05)
    assert retrievers.guessed(task, "en") == pytest.approx(5)
    store = search.plan(task)["passages/en"].path
    store.mkdir(parents=True)
    (store / "count.json").write_text('{"passages": 7}')
    later = Task(config(retrieval={"sources": ["bm25"]}))
    search.plan(later)
    assert retrievers.expected(later, "en") == 7


def test_a_damaged_beginning_is_no_reason_to_plan_nothing(config, folder):
    corpus = folder / "sw" / "corpus" / "docs-0.jsonl.gz"
    corpus.write_bytes(corpus.read_bytes()[:40] + b"x" * 130)
    task = Task(config(retrieval={"sources": ["bm25"]}))
    search.plan(task)
    assert retrievers.guessed(task, "sw") == pytest.approx(1), "170 bytes a passage"


def test_disk_for_vectors_goes_by_the_models_dimension(config, tmp_path, monkeypatch):
    def disk(backbone):
        task = Task(config(retrieval={"sources": ["dense"], "dense": {"backbone": backbone}}))
        return search.plan(task)["vectors/en"].disk

    monkeypatch.setattr(backbones, "fingerprint", lambda *_: "weights")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"hidden_size": 100}')
    assert disk("embedded") == pytest.approx(5 * 384 * 2)
    assert disk("mdpr") == pytest.approx(5 * 768 * 2)
    assert disk("xlm-r-large") == pytest.approx(5 * 1024 * 2)
    assert disk(str(tmp_path / "model")) == pytest.approx(5 * 100 * 2)


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


@pytest.mark.parametrize(
    "dense, expected",
    [
        ({"precision": "half"}, "bf16"),
        ({"precision": "half", "backend": "openvino"}, "fp32"),  # which computes in no other
        ({}, "fp32"),
    ],
)
def test_vectors_are_known_by_the_format_that_they_are_made_in(
    config, monkeypatch, dense, expected
):
    monkeypatch.setattr(engine, "precision", lambda _: "bf16")  # a machine's answer
    task = Task(config(retrieval={"sources": ["dense"], "dense": dense}))
    assert search.plan(task)["vectors/en"].settings["precision"] == expected
