"""The plan of a whole run: with the collections of its training data, and what it forgets."""

import json
from pathlib import Path

import pytest

from core.building import run_steps
from core.config import load_config
from core.machine import described
from core.steps import STAGES, Plan
from core.task import Task
from ensemble import fuse, plan, submit
from tests.conftest import TOPICS, write_collection


def write_runs(folder):
    """For every language and split: the right passage first."""
    folder.mkdir()
    for (la, split), rows in TOPICS.items():
        lines = []
        for qid, _, good, bad in rows:
            lines += [f"{qid} Q0 {good} 1 2.0 x", f"{qid} Q0 {bad} 2 1.0 x"]
        (folder / f"{la}-{split}.trec").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def chained(tmp_path):
    """A configuration whose chain learns from the collection of another one."""
    runs = write_runs(tmp_path / "given")
    for name in ("small", "other"):
        write_collection(tmp_path / name)
    retrieval = {"sources": ["run"], "run": str(runs), "hybrid": {"weights": "equal"}}
    data = {"collection": {"path": str(tmp_path / "other")}, "retrieval": retrieval}
    (tmp_path / "before.yaml").write_text(json.dumps(data))
    main = {
        "collection": {"path": str(tmp_path / "small")},
        "work": str(tmp_path / "work"),
        "retrieval": retrieval,
        "ranking": {
            "chain": {"first": {"data": str(tmp_path / "before.yaml"), "steps": 1}},
            "rankers": {"second": {"start": "first", "steps": 1}},
        },
    }
    (tmp_path / "main.yaml").write_text(json.dumps(main))
    return load_config(tmp_path / "main.yaml")


def test_the_collections_of_the_chain_are_planned(chained):
    text = list(plan.lines(plan.planned(chained), STAGES))
    before, main = text.index("before, on other"), text.index("main, on small")
    assert before == 0
    of_data = [line.split()[0] for line in text[:main]]
    assert [name for name in of_data if name in STAGES] == ["retrieval", "data_aug"]
    assert [line for line in text[main:] if line in STAGES] == list(STAGES)
    assert any(line.startswith("  groups ") and "1 of 1 to make" in line for line in text[:main])
    count = sum(len(p) for part in plan.planned(chained) for p in part.plans.values())
    assert f"to make: {count} outputs, about " in text[-1] and described() in text[-1]


def test_of_later_stages_there_is_nothing_for_training_data(chained):
    text = list(plan.lines(plan.planned(chained), ["ranking", "ensemble"]))
    assert text[0] == "main, on small" and "before, on other" not in text


def test_a_configuration_alone_has_no_heading(config, tmp_path):
    runs = write_runs(tmp_path / "given")
    alone = config(retrieval={"sources": ["run"], "run": str(runs)})
    assert next(plan.lines(plan.planned(alone), STAGES)) == "retrieval"


def test_outputs_that_two_configurations_share_are_counted_once(chained):
    before, main = plan.planned(chained)
    twice = list(plan.lines([before, before, main], STAGES))
    assert twice[-1] == list(plan.lines([before, main], STAGES))[-1]


def made(parts):
    """All retrieval and data_aug outputs, with partial work of the last step."""
    for part in parts:
        for stage in ("retrieval", "data_aug"):
            run_steps(part.plans[stage].values(), part.config.folder)
    partial = parts[-1].plans["ranking"]["ranker/second"].part
    partial.mkdir(parents=True)
    return {step for part in parts for p in part.plans.values() for step in p.values() if step.done}


def test_forcing_a_stage_forgets_it_in_all_configurations(chained):
    """The data's groups were left before, and the ranker that learns from them was forgotten."""
    parts = plan.planned(chained)
    built = made(parts)
    forgotten = {step for step in built if step.stage == "data_aug"}
    assert {step.root.name for step in forgotten} == {"other", "small"}
    assert plan.discard(parts, "data_aug") == len(forgotten) + 1, "and the partial work"
    assert not any(step.done for step in forgotten)
    assert all(step.done for step in built - forgotten)
    assert not parts[-1].plans["ranking"]["ranker/second"].part.exists()


def test_forcing_the_first_stage_forgets_what_stands_on_it(chained):
    parts = plan.planned(chained)
    built = made(parts)
    plan.discard(parts, "retrieval")
    on_topics_alone = {step for step in built if step.name == "folds"}
    assert {step for step in built if step.done} == on_topics_alone


def test_what_has_much_to_do_is_measured(config, models, embedded_folder, monkeypatch):
    """Encoding, training and scoring, each once a body; a minute's work is not worth it."""
    rankers = {"one": {"steps": 9000}, "few": {"steps": 1}}
    retrieval = {"sources": ["dense"]}
    own = config(
        work=str(models.parent), candidates=2, retrieval=retrieval, ranking={"rankers": rankers}
    )
    parts = plan.planned(own)
    asked = []
    monkeypatch.setattr(plan, "measure", lambda work, wanted: asked.extend(wanted))
    assert plan.measure_paces(parts)
    assert [one.name for one in asked] == ["training of one"]
    asked.clear()
    monkeypatch.setattr(plan, "WORTH_MEASURING", 0)
    plan.measure_paces(parts)
    assert [one.name for one in asked] == [
        "encoding by embedded",
        "training of one",
        "training of few",
        "scoring by one",
        "scoring by few",
    ]
    encoder, texts = asked[0].arguments
    assert encoder.name == "embedded" and texts[0].startswith("Nairobi\nNairobi ist die Hauptstadt")


def test_memory_of_a_gpu_is_told_where_it_was_measured():
    text = plan.cost([step(gpu_memory=3e9), step(gpu_memory=71e9)])
    assert text.endswith("up to 0.0 GB of memory, 71.0 GB of a GPU's")
    assert plan.cost([step()]).endswith("up to 0.0 GB of memory")


def step(**more):
    return Plan("ranking", Path(), {}).add("x", 1, {}, [], lambda folder: None, **more)


def test_minutes():
    assert [plan.minutes(s) for s in (89, 90, 7199, 7200)] == ["89 s", "2 min", "120 min", "2.0 h"]


def test_the_submission_completes_the_stage(config, tmp_path):
    runs = write_runs(tmp_path / "given")
    task = Task(config(retrieval={"sources": ["run"], "run": str(runs)}))
    assert list(submit.plan(task)) == [*fuse.plan(task), "submission"]
