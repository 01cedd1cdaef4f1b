import json

import pytest

from core.distributed import generator
from core.errors import InputError
from core.groups import read_groups
from core.task import Task
from data_aug import build
from data_aug.judged import judged
from data_aug.top_negatives import top_negatives
from retrieval import search


def test_judged_pairs():
    qrels = {"1": {"a": 2, "b": 0, "c": 0, "d": 0}}
    pairs = list(judged("en", qrels, None, generator(0)))
    assert [(p.docid, p.label) for p in pairs] == [("a", 1.0), ("b", 0.0), ("c", 0.0), ("d", 0.0)]
    assert (
        len(list(judged("en", qrels, 1, generator(0)))) == 2
        and len(list(judged("en", qrels, 0, generator(0)))) == 1
    )


def test_negatives_are_never_relevant_nor_taken_and_of_the_top():
    run = {"1": {f"d{i:02}": float(-i) for i in range(50)}}
    qrels = {"1": {"d00": 1, "d03": 1, "d05": 0}}
    drawn = [p.docid for p in top_negatives("en", run, qrels, {"1": {"d07"}}, 8, 20, generator(3))]
    assert len(drawn) == len(set(drawn)) == 8
    assert set(drawn) <= {f"d{i:02}" for i in range(20)} - {"d00", "d03", "d07"}
    everything = [p.docid for p in top_negatives("en", run, qrels, {}, 100, 20, generator(3))]
    assert len(everything) == 18 and "d05" in everything, (
        "all where there are fewer than k; judged 0 is no hindrance"
    )


def test_draws_are_a_function_of_the_seed():
    run = {"1": {f"d{i:02}": float(-i) for i in range(50)}}

    def draw(*seed):
        return list(top_negatives("en", run, {"1": {"x": 1}}, {}, 5, 50, generator(*seed)))

    assert draw(0, 0) == draw(0, 0) != draw(0, 1)


@pytest.fixture
def made(config, tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    for name in (
        "en-train",
        "en-dev",
        "en-testA",
        "sw-train",
        "sw-dev",
        "sw-testA",
        "de-dev",
        "de-testA",
    ):
        qids = {
            "en-train": "12",
            "en-dev": "3",
            "en-testA": "4",
            "sw-train": "1",
            "sw-dev": "2",
            "sw-testA": "3",
            "de-dev": "1",
            "de-testA": "2",
        }[name]
        docs = ["a#0", "b#0"] if name.startswith("de") else ["a#0", "b#0", "c#0"]
        (runs / f"{name}.trec").write_text(
            "".join(f"{q} Q0 {d} 0 {i} x\n" for q in qids for i, d in enumerate(docs))
        )

    def make(**values):
        made = config(
            retrieval={"sources": ["run"], "run": str(runs)},
            data_aug={"default": {"negatives": 2, "draws": 2}},
            **values,
        )
        search.run(made)
        build.run(made)
        return build.plan(Task(made))["groups/default"].path

    return make


def test_the_stage(made):
    path = made()
    pairs = read_groups(path / "draw-0.parquet")
    assert {p.language for p in pairs} == {"en", "sw"}, "no surprise language"
    assert [(p.docid, p.label, p.origin) for p in pairs if (p.language, p.qid) == ("en", "1")] == [
        ("a#0", 1.0, "judged"),
        ("b#0", 0.0, "judged"),
        ("c#0", 0.0, "top_negatives"),
    ]
    counts = json.loads((path / "counts.json").read_text())["counts"]
    assert counts["en short"] == 2 and counts["sw queries"] == 2, (
        "fewer than k candidates are counted; two draws"
    )
    assert (path / "draw-1.parquet").exists()


def test_poisoned_test_judgments_change_nothing(made, folder, config):
    before = (made() / "draw-0.parquet").read_bytes()
    for path in folder.glob("*/qrels/*testA.tsv"):
        path.write_text("poison\n")
    with pytest.raises(InputError, match="poison|columns"):
        made(name="poisoned")  # the report of retrieval measures test, and reads the poison
    path = made_without_report(config, folder)
    assert (path / "draw-0.parquet").read_bytes() == before


def made_without_report(config, folder):
    from core.building import run_steps

    task = Task(
        config(
            retrieval={"sources": ["run"], "run": str(folder.parent / "runs")},
            data_aug={"default": {"negatives": 2, "draws": 2}},
            work=str(folder.parent / "work2"),
        )
    )
    run_steps([*search.plan(task).values(), *build.plan(task).values()], task.config.folder)
    return build.plan(task)["groups/default"].path


def test_nothing_to_train_on(config):
    with pytest.raises(
        InputError, match="no language has train topics, so there is nothing to train on"
    ):
        build.plan(Task(config(languages=["de"])))


def test_folds_cover_the_judged_train_and_dev_queries(config, tmp_path):
    task = Task(config())
    step = build.plan(task)["folds"]
    step.path.mkdir(parents=True)
    step.build(step.path)
    keys = [("de", "1"), ("en", "1"), ("en", "2"), ("en", "3"), ("sw", "1"), ("sw", "2")]
    assert (
        set(build.folds(task, keys)) == set(keys) and len(set(build.folds(task, keys).values())) > 1
    )
    (tmp_path / "folds.tsv").write_text("en\t1\t0\nen\t2\t1\n")
    given = Task(config(folds={"file": str(tmp_path / "folds.tsv")}))
    step = build.plan(given)["folds"]
    step.path.mkdir(parents=True)
    with pytest.raises(
        InputError,
        match="folds.tsv: 4 of 6 queries have no fold, first de/1, en/3, sw/1, sw/2; "
        "expected every judged train and dev query",
    ):
        step.build(step.path)


def test_folds_by_article(config):
    """Of sw, queries 1 (train) and 2 (dev) are made to share an article."""
    task = Task(config(folds={"by_article": True, "count": 2}))
    qrels = task.collection.root / "sw" / "qrels"
    (qrels / "qrels.sw-dev.tsv").write_text("2 Q0 a#7 1\n")
    step = build.plan(task)["folds"]
    step.path.mkdir(parents=True)
    step.build(step.path)
    folds = build.folds(task, [("sw", "1"), ("sw", "2"), ("en", "1"), ("en", "2")])
    assert folds["sw", "1"] == folds["sw", "2"] and folds["en", "1"] != folds["en", "2"]


def test_nobody_uses_the_folds_of_a_configuration_that_gives_data(made, config, folder):
    """Of a hundred thousand questions they would take half a minute."""
    own = build.plan(Task(made_config(config, folder)))
    of_data = build.plan_groups(Task(made_config(config, folder)))
    assert set(own) - set(of_data) == {"folds"} and set(of_data) == {"groups/default"}
    assert own["groups/default"].fingerprint == of_data["groups/default"].fingerprint

    search.run(made_config(config, folder))
    build.run_data(made_config(config, folder))
    done = {name for name, step in own.items() if step.done}
    assert done == {"groups/default"}
    build.run(made_config(config, folder))
    assert own["folds"].done, "the ensemble of a main configuration finds them"


def made_config(config, folder):
    return config(
        retrieval={"sources": ["run"], "run": str(folder.parent / "runs")},
        data_aug={"default": {"negatives": 2}},
    )


def test_given_folds_go_with_no_settings_of_made_ones(config, tmp_path):
    (tmp_path / "folds.tsv").write_text("en\t1\t0\n")
    given = {"file": str(tmp_path / "folds.tsv"), "by_article": True}
    with pytest.raises(InputError, match="folds.by_article: how folds are made is of no effect"):
        build.plan(Task(config(folds=given)))
