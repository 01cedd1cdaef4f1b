import gc
import json
import weakref

import numpy as np
import pytest
from scipy.stats import ttest_rel

from core.artefacts import TrainedEncoder
from core.config import merged
from core.errors import InputError
from core.settings import Config
from core.task import Task
from retrieval import retrievers, search
from retrieval.encoders import __main__ as command
from retrieval.encoders import compare, encoders
from retrieval.encoders.compare import MEAN, Row, rows_of, stars, table

# Two queries of en, three of sw
LANGUAGES = ["en", "en", "sw", "sw", "sw"]
VALUES = {
    "bm25": np.array([1, 0, 0.5, 0.5, 0.5]),
    "dpr": np.array([0.25, 0.25, 0.2, 0.3, 0.1]),
    "ance": np.array([0.5, 0.25, 1, 0.5, 1]),
}


def test_rows_are_languages_and_their_mean():
    en, sw, mean = rows_of(VALUES, LANGUAGES)
    assert [en.language, sw.language, mean.language] == ["en", "sw", MEAN]
    assert en.values == pytest.approx({"bm25": 0.5, "dpr": 0.25, "ance": 0.375})
    assert sw.values == pytest.approx({"bm25": 0.5, "dpr": 0.2, "ance": 2.5 / 3})
    assert mean.values == pytest.approx({"bm25": 0.5, "dpr": 0.225, "ance": (0.375 + 2.5 / 3) / 2})


def test_the_best_is_tested_against_the_second_by_a_paired_t_test():
    en, sw, mean = rows_of(VALUES, LANGUAGES)
    assert (en.best, sw.best, mean.best) == ("bm25", "ance", "ance")
    assert en.p == pytest.approx(ttest_rel(VALUES["bm25"][:2], VALUES["ance"][:2]).pvalue)
    assert sw.p == pytest.approx(ttest_rel(VALUES["ance"][2:], VALUES["bm25"][2:]).pvalue)
    assert sw.p < mean.p < 1


def test_one_language_has_no_mean_and_one_query_no_test():
    (only,) = rows_of({name: found[:1] for name, found in VALUES.items()}, ["en"])
    assert only == Row("en", {"bm25": 1.0, "dpr": 0.25, "ance": 0.5}, None)
    assert rows_of({"dpr": np.array([0.1, 0.2])}, ["en", "en"])[0].p is None, "no second system"


def test_a_table_marks_the_best_as_the_paper_does():
    rows = [
        Row("en", {"bm25": 0.5, "dpr": 0.25}, 0.2),
        Row("sw", {"bm25": 0.125, "dpr": 0.5}, 0.04),
    ]
    assert table(rows) == [
        "| | bm25 | dpr |",
        "| --- | ---: | ---: |",
        "| en | **0.5000** | 0.2500 |",
        r"| sw | 0.1250 | **0.5000** \* |",
    ]
    assert [stars(p) for p in (None, 0.05, 0.049, 0.01, 0.009)] == [
        "",
        "",
        r" \*",
        r" \*",
        r" \*\*",
    ]


@pytest.fixture
def config(tmp_path, little_body):
    """A function of settings: two encoders, one with two seeds, that learn from en alone."""
    import little

    little.write_collection(tmp_path / "little")
    little.write_collection(tmp_path / "far", languages=("sw", "en"), queries=6)
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 0}}')
    (tmp_path / "runs").mkdir()
    for language in ("en", "sw"):
        for split, qid in (("train", 0), ("dev", 12)):
            run = f"{qid} Q0 p{qid}#0 1 2.0 x\n"
            (tmp_path / "runs" / f"{language}-{split}.trec").write_text(run)
    far = {
        "name": "far",
        "collection": {"source": "disk", "path": str(tmp_path / "far")},
        "retrieval": {"sources": ["dense"], "dense": {"backbone": str(little_body)}},
    }
    (tmp_path / "far.yaml").write_text(json.dumps(far))
    encoder = {
        "backbone": str(little_body),
        "languages": ["en"],
        "steps": 1,
        "batch_size": 4,
        "precision": "fp32",
        "deepspeed": str(tmp_path / "ds.json"),
        "query_length": 12,
        "passage_length": 24,
        "dev": {"queries": 2, "passages": 20},
    }

    def make(**retrieval) -> Config:
        encoders = {
            "dpr": encoder,
            "dpr-1": {**encoder, "seed": 1},
            "warm": {**encoder, "learning_rate": 1e-3},
        }
        own = {
            "sources": ["run"],
            "run": str(tmp_path / "runs"),
            "encoders": encoders,
            "conditions": {
                "known": {"split": "dev"},
                "new": {"split": "dev", "languages": "others"},
                "far": {"split": "dev", "data": str(tmp_path / "far.yaml")},
            },
        }
        values = {
            "name": "test",
            "work": str(tmp_path / "work"),
            "collection": {"source": "disk", "path": str(tmp_path / "little")},
            "retrieval": merged(own, retrieval),
        }
        return Config.model_validate(values)

    return make


def planned(config):
    task = Task(config)
    search.plan(task)
    return task


def test_conditions_are_languages_of_collections(config):
    known, new, far = compare.conditions(planned(config()))
    assert (known.pairs, new.pairs, far.pairs) == (
        {"en": ("en", "dev")},
        {"sw": ("sw", "dev")},
        {"en": ("en", "dev")},
    )
    assert far.source.config.name == "far"
    systems = {"dpr": ["dpr", "dpr-1"], "warm": ["warm"]}
    assert known.systems == {"run": ["run"], **systems}
    assert far.systems == {"dense": ["dense"], **systems}


def test_all_the_way(config, capsys):
    made = config()
    command.run(made, comparing=True)
    figures = json.loads((made.folder / "encoders.json").read_text())
    assert set(figures) == {"known", "new", "far"}
    assert set(figures["known"]) == {"MRR@100", "Recall@100", "nDCG@10"}
    # The given run answers one of four dev queries, with the one relevant passage or one of two
    known = figures["known"]["MRR@100"]["en"]
    assert known["run"] == 0.25
    assert set(known) == {"run", "dpr", "warm", "p"}
    # All 48 passages are among the best 100 of an encoder
    assert figures["new"]["Recall@100"]["sw"]["dpr"] == 1.0
    text = (made.folder / "encoders.md").read_text()
    assert "### far (far dev): nDCG@10\n\n| | dense | dpr | warm |\n" in text
    assert text in capsys.readouterr().out

    # A system of two seeds has the mean of both
    task = planned(made)
    tested, *_ = compare.conditions(task)
    both = compare.values_of(tested).of["MRR@100"]["dpr"]
    alone = []
    for name in ("dpr", "dpr-1"):
        one = compare.Tested("known", task, tested.pairs, {name: [name]})
        alone.append(compare.values_of(one).of["MRR@100"][name])
    assert both.tolist() == np.mean(alone, axis=0).tolist()


def test_queries_asked_of_another_languages_passages(config, tmp_path, little_body):
    """Query 12 of sw asks what 13 of en asks, and 15 what 12 asks; the others have no partner."""
    (tmp_path / "same.tsv").write_text("en\tsw\n13\t12\n12\t15\n14\t-\n")
    crossing = {
        "split": "dev",
        "languages": ["sw", "en"],
        "passages": "en",
        "parallel": str(tmp_path / "same.tsv"),
    }
    made = config(
        sources=["dense"],
        dense={"backbone": str(little_body), "max_length": 24},
        conditions={"crossing": crossing},
    )
    task = planned(made)
    *_, tested = compare.conditions(task)
    assert tested.pairs == {"sw": ("en", "dev@sw"), "en": ("en", "dev")}
    assert tested.judgments("sw") == {
        "12": {"p13#0": 1, "p13#1": 0},
        "15": {"p12#0": 1, "p12#1": 0, "p12#2": 1},
    }
    assert set(tested.judgments("en")) == {"12", "13", "14"}, "of those in the file"

    command.run(made, comparing=True)
    text = (made.folder / "encoders.md").read_text()
    assert (
        "### crossing (little dev, passages in en): Recall@20\n\n| | dense | dpr | warm |" in text
    )
    figures = json.loads((made.folder / "encoders.json").read_text())["crossing"]
    assert set(figures["MRR@100"]) == {"sw", "en", MEAN}
    # The run is what the queries of sw find among the passages of en
    run = task.run("dpr", "en", "dev@sw")
    assert set(run) == {"12", "13", "14", "15"} and len(run["12"]) == 48
    own = retrievers.encoder_of(task, task.step(TrainedEncoder("dpr")))
    query = next(query.text for query in task.queries("sw", "dev") if query.qid == "12")
    passage = task.passages("en").text("p13#0")
    expected = own.encode_queries([query])[0] @ own.encode_passages([passage])[0]
    assert run["12"]["p13#0"] == pytest.approx(float(expected), abs=2e-3)
    place = 1 + sum(score > run["12"]["p13#0"] for score in run["12"].values())
    other = 1 + sum(
        run["15"][docid] > max(run["15"]["p12#0"], run["15"]["p12#2"]) for docid in run["15"]
    )
    mean = (1 / place + 1 / other) / 2
    one = compare.Tested("x", task, tested.pairs, {"dpr": ["dpr"]}, tested.parallel)
    assert compare.values_of(one).of["MRR@100"]["dpr"][:2].mean() == pytest.approx(mean)


@pytest.mark.parametrize(
    "text, condition, message",
    [
        (
            "en\tsw\n12\t12\n",
            {"passages": "de"},
            "conditions.known.passages: found de, expected a language of .* of dev: en, sw",
        ),
        (
            "en\tde\n12\t12\n",
            {},
            "conditions.known: .* has no queries in .*same.tsv of dev in languages that are others",
        ),
        (
            "sw\n12\n",
            {},
            "same.tsv: no column of en, expected one of sw",
        ),
        (
            "en\tsw\n12\t99\n",
            {},
            "same.tsv: 1 queries of sw have no topic in sw-dev, first 99; is it the file of this",
        ),
        (
            "en\tsw\n3\t12\n",
            {},
            "same.tsv: 1 queries of en have no topic in en-dev, first 3; is it the file of this",
        ),
        (
            "en\tsw\n12\t-\n",
            {},
            "conditions.known: by .*same.tsv no query of sw-dev asks what a judged one of en asks; "
            "take it out of languages",
        ),
    ],
)
def test_a_crossing_that_cannot_be(config, tmp_path, text, condition, message):
    (tmp_path / "same.tsv").write_text(text)
    chosen = {
        "split": "dev",
        "languages": "others",
        "passages": "en",
        "parallel": str(tmp_path / "same.tsv"),
    }
    made = config(conditions={"known": {**chosen, **condition}})
    with pytest.raises(InputError, match=message):
        tested, *_ = compare.conditions(planned(made))
        tested.judgments("sw")


def test_passages_and_the_file_come_together(config):
    with pytest.raises(ValueError, match="both passages and parallel, or neither"):
        config(conditions={"known": {"passages": "en"}})


@pytest.mark.parametrize(
    "condition, message",
    [
        (
            {"languages": ["de"], "split": "dev"},
            "conditions.known.languages: found de, expected languages of .* with judgments of dev: "
            "en, sw",
        ),
        (
            {"split": "test"},
            "conditions.known: .* has no judgments of testA in languages that are trained: the "
            "encoders learn from en; name languages, another split or other data",
        ),
    ],
)
def test_a_condition_without_queries(config, condition, message):
    made = config(conditions={"known": condition})
    with pytest.raises(InputError, match=message):
        compare.conditions(planned(made))


def test_one_encoder_is_in_memory_used_as_it_was_trained(config):
    made = config(sources=["dense"], dense={"backbone": "embedded", "layers": 1, "pooling": "cls"})
    task = planned(made)
    steps = [task.step(TrainedEncoder(name)) for name in ("dpr", "warm")]
    encoders.make(task, steps)
    first = retrievers.encoder_of(task, steps[0])
    assert retrievers.encoder_of(task, steps[0]) is first
    alone = weakref.ref(first)
    del first
    second = retrievers.encoder_of(task, steps[1])
    gc.collect()
    assert alone() is None
    from sentence_transformers import SentenceTransformer

    # Two layers and the mean, whatever the dense source has
    vectors = second.encode_queries(["bado?"])
    model = SentenceTransformer(str(steps[1].path / "model"), device="cpu")
    expected = model.encode(["bado?"], prompt_name="query")
    assert vectors == pytest.approx(expected, abs=1e-5)
