"""The members of an ensemble, from runs that a configuration gives."""

import pytest

from core.artefacts import RankedRun
from core.errors import InputError
from core.runs import read_run, write_run
from core.task import Task
from ensemble import fuse, members, submit
from ensemble.members import remarks, within
from ranking import rank
from retrieval import search
from retrieval.retrievers import given_run
from tests.conftest import TOPICS


@pytest.fixture
def given(tmp_path):
    """A folder of runs for every language and split: the right passage first."""
    folder = tmp_path / "given"
    folder.mkdir()
    for (la, split), rows in TOPICS.items():
        (folder / f"{la}-{split}.trec").write_text(
            "".join(f"{q} Q0 {good} 1 2.0 x\n{q} Q0 {bad} 2 1.0 x\n" for q, _, good, bad in rows)
        )
    return folder


@pytest.fixture
def task(config, given):
    def make(**ensemble):
        return Task(
            config(
                retrieval={"sources": ["run"], "run": str(given), "depth": 10},
                ensemble={"runs": {"friend": str(given)}, **ensemble},
            )
        )

    return make


def test_members(task):
    assert members.members(task()) == ["base", "friend", "hybrid"] and members.members(
        task(), "ensemble-rankers"
    ) == ["base", "friend"]
    assert members.members(task(), "stacking") == ["base", "friend", "hybrid", "run"]
    with pytest.raises(
        InputError,
        match="ensemble.runs: a run cannot be named 'hybrid', that is another system's name",
    ):
        members.members(task(runs={"hybrid": "x"}))


def test_a_missing_run(task, given):
    (given / "sw-testA.trec").rename(given / "moved")
    config = task().config
    bm25 = config.retrieval.model_copy(update={"sources": ["bm25"]})
    made = Task(config.model_copy(update={"retrieval": bm25}))
    rank.plan(made)
    with pytest.raises(
        InputError,
        match="sw-testA.trec: no such file; ensemble.runs.friend needs a run for every language, "
        "dev and testA",
    ):
        members.inputs(made, "sw", "testA")


def build_all(steps):
    """Makes what is not there."""
    for step in steps:
        if not step.done:
            step.path.mkdir(parents=True)
            step.build(step.path)


def test_the_blocks_of_members(task, given):
    """A member's own scores of the hybrid's best, of the members that are asked for."""
    made = task()
    build_all(search.plan(made).values())
    (given / "en-dev.trec").write_text("3 Q0 d#0 1 7.0 x\n")
    hybrid = made.run("hybrid", "en", "dev")
    assert members.blocks(made, "en", "dev", ["friend", "hybrid"]) == {
        "friend": {"3": {"d#0": 7.0}},
        "hybrid": hybrid,
    }
    cut = {"3": {"a#1": 1.0}}
    assert members.blocks(made, "en", "dev", ["friend", "hybrid"], cut) == {
        "friend": {"3": {}},
        "hybrid": cut,
    }, "the hybrid's run is not read again"


def test_below_a_rankers_depth_it_scored_nothing(task):
    """Its run goes on in the hybrid's order there."""
    made = task()
    config = made.config
    shallow = config.ranking.rankers["base"].model_copy(update={"depth": 1})
    ranking = config.ranking.model_copy(update={"rankers": {"base": shallow}})
    made = Task(config.model_copy(update={"ranking": ranking}))
    build_all(search.plan(made).values())
    rank.plan(made)
    step = made.step(RankedRun("base", "en", "dev"))
    step.path.mkdir(parents=True)
    write_run(step.path / "run.trec", {"3": {"d#0": 3.0, "a#1": 2.0}}, "base")
    assert members.own_run(made, "base", "en", "dev") == {"3": {"d#0": 3.0}}


def test_a_run_of_another_collection(task, given):
    made = task()
    build_all(list(search.plan(made).values())[:3])
    assert given_run(made, made.passages("en"), given / "en-dev.trec", "en", "dev") == read_run(
        given / "en-dev.trec"
    )
    with pytest.raises(
        InputError,
        match=r"queries without a topic in en-dev: 2, first 1, 2; is it a run of this "
        r"collection, language and split\?",
    ):
        given_run(made, made.passages("en"), given / "en-train.trec", "en", "dev")
    (given / "en-dev.trec").write_text("3 Q0 nowhere 1 1.0 x\n")
    with pytest.raises(InputError, match="no passage nowhere; the docid is of another collection"):
        given_run(made, made.passages("en"), given / "en-dev.trec", "en", "dev")


def test_members_keep_to_the_block():
    assert within(
        {"1": {"a": 1.0, "x": 9.0}, "3": {"a": 1.0}}, {"1": {"a": 0.5, "b": 0.4}, "2": {"c": 1.0}}
    ) == {"1": {"a": 1.0}}


def test_remarks_by_hand():
    block = {"1": {"a": 3.0, "b": 2.0}, "2": {"c": 2.0, "d": 1.0}, "3": {"e": 1.0}}
    runs = {
        "full": {"1": {"a": 1.0, "b": 2.0}, "2": {"c": 1.0, "d": 1.0}},
        "part": {"1": {"a": 1.0}},
        "hybrid": block,
    }
    assert remarks("en", "dev", runs) == [
        (
            "full en-dev: 1 of 3 queries unanswered, first 3; the others fuse them (1 by the "
            "hybrid alone)"
        ),
        "full en-dev: all scores equal in 1 queries, first 2; it says nothing there",
        (
            "part en-dev: 2 of 3 queries unanswered, first 2, 3; the others fuse them (1 by the "
            "hybrid alone)"
        ),
        "part en-dev: lacks 1 of the 5 passages of the block; they count as ensemble.missing says",
    ]
    assert remarks("en", "dev", {"even": block, "hybrid": block}) == []


def test_out_of_fold_runs_must_be_there(task, tmp_path):
    with pytest.raises(
        InputError,
        match=r"en-train.trec: no such file; ensemble.stacking.out_of_fold needs "
        r"MEMBER/LANG-train.trec for each member and language \(4 of 4 are missing\)",
    ):
        members.out_of_fold_files(task(), tmp_path / "oof")


def test_what_is_handed_in_is_a_system(task, config, given):
    c = config(retrieval={"sources": ["run"], "run": str(given)}, submission={"system": "best"})
    with pytest.raises(
        InputError,
        match="submission.system: found 'best', expected one of run, hybrid, base, "
        "ensemble-rankers, ensemble, stacking",
    ):
        submit.plan(Task(c))


def test_fixed_weights(task):
    with pytest.raises(
        InputError,
        match=r"ensemble.weights: found \['base'\], expected a weight for each of base, "
        r"friend, hybrid",
    ):
        fuse.choose(task(weights={"base": 1.0}), "ensemble")
    weights = {"base": 0.5, "friend": 0.5, "hybrid": 0.25}
    assert fuse.choose(task(weights=weights), "ensemble")["weights"] == weights
    with pytest.raises(
        InputError, match="fixed weights go with neither normalise=sigmoid nor shrink"
    ):
        fuse.choose(task(weights=weights, shrink=5.0), "ensemble")


def test_without_stacking(task):
    made = task(stacking=None)
    assert fuse.systems(made) == ["ensemble-rankers", "ensemble"] and not any(
        "stacking" in name for name in fuse.plan(made)
    )
