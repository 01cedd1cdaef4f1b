"""The fused runs, by hand on the small collection, with a ranker whose runs are written here."""

import json

import pytest

from core import task as core_task
from core.artefacts import FoldFile, RankedRun, TrainedRanker
from core.building import run_steps
from core.runs import read_run, write_run
from core.task import Task
from ensemble import fuse, members, submit
from retrieval import search
from tests.conftest import TOPICS


@pytest.fixture
def first_stage(tmp_path):
    """Runs of three passages a query: the right one, the wrong one, and one more."""
    folder = tmp_path / "given"
    folder.mkdir()
    for (la, split), rows in TOPICS.items():
        run = {}
        for qid, _, good, bad in rows:
            other = next(docid for docid in ("a#0", "b#0", "c#0") if docid not in (good, bad))
            run[qid] = {good: 3.0, bad: 2.0} | ({} if la == "de" else {other: 1.0})
        write_run(folder / f"{la}-{split}.trec", run, "given")
    return folder


@pytest.fixture
def task(config, first_stage):
    """Two passages a query are reranked, three are candidates; the ranker turns them around."""

    def make(**ensemble):
        made = Task(
            config(
                retrieval={
                    "sources": ["run"],
                    "run": str(first_stage),
                    "hybrid": {"weights": "equal"},
                },
                candidates=3,
                ranking={"rerank": {"depth": 2}},
                ensemble=ensemble,
            )
        )
        plan = fuse.plan(made)
        run_steps(search.plan(made).values(), made.config.folder)
        run_steps([made.step(FoldFile())], made.config.folder, some=True)
        for la, split in made.pairs("dev", "testA"):
            step = made.step(RankedRun("base", la, split))
            step.path.mkdir(parents=True)
            hybrid = made.run("hybrid", la, split)
            turned = {}
            for qid, scores in hybrid.items():
                best, second, *rest = scores
                turned[qid] = {second: 2.0, best: 0.5} | dict.fromkeys(rest, -0.5)
            write_run(step.path / "run.trec", turned, "base")
        return made, plan

    return make


def build(plan, *names):
    """Makes steps of a plan."""
    for name in names:
        plan[name].path.mkdir(parents=True)
        plan[name].build(plan[name].path)


def test_a_fused_run_by_hand(task):
    """Min-max makes 1 and 0 of a member's two: .75 for the ranker's best, .25 for the hybrid's.

    The last candidate, which was not reranked, follows a point below.
    """
    made, plan = task(weights={"base": 0.75, "hybrid": 0.25}, normalise="minmax")
    build(plan, "ensemble-weights", "ensemble/en-dev")
    fused = read_run(plan["ensemble/en-dev"].path / "run.trec")
    assert fused == {"3": {"a#1": 0.75, "d#0": 0.25, "a#0": -0.75}}


def test_each_run_is_read_once(task, monkeypatch):
    """The hybrid's was read for the block and again for the candidates, a source's for nothing."""
    made, plan = task(weights={"base": 0.75, "hybrid": 0.25})
    build(plan, "ensemble-weights")
    paths = []
    monkeypatch.setattr(
        core_task, "read_run", lambda path: paths.append(path.parent.name) or read_run(path)
    )
    build(plan, "ensemble/en-dev")
    assert sorted(name.rsplit("-", 1)[0] for name in paths) == ["base-en-dev", "hybrid-en-dev"]


def test_the_stacked_models_features_are_made_once(task):
    made, _ = task(weights="uniform")
    problem, folds = fuse.stack(made, "dev")
    assert fuse.stack(made, "dev")[0] is problem
    assert len(problem.values) == len(folds) == 2, "of the known languages"


def test_versions_follow_what_changed(config):
    """Weights that no fault touched keep their fingerprints."""

    def plan(**ensemble):
        return fuse.plan(Task(config(ensemble=ensemble)))

    by_paper, by_greedy = plan(), plan(weights="greedy")
    calibrated = plan(weights="greedy", normalise="sigmoid")
    for system in ("ensemble", "ensemble-rankers"):
        name = f"{system}-weights"
        assert [made[name].version for made in (by_paper, by_greedy, calibrated)] == [3, 2, 3]
    assert by_paper["estimates"].version == by_greedy["estimates"].version == 2
    assert by_paper["stacking-model"].version == 1


def test_a_given_model_is_a_member(config, first_stage, tiny_body, tmp_path):
    """It is fused as any ranker is, and the manifest names it by its weights."""
    folder = tmp_path / "shelf"
    tiny_body.save_pretrained(folder)

    def planned():
        made = Task(
            config(
                retrieval={"sources": ["run"], "run": str(first_stage)},
                ranking={"rankers": {"shelf": {"model": str(folder)}}},
            )
        )
        submit.plan(made)
        return made

    made = planned()
    assert members.members(made) == ["shelf", "hybrid"]
    assert made.step(RankedRun("shelf", "en", "dev")) in members.inputs(made, "en", "dev")
    before = made.step(TrainedRanker("shelf")).fingerprint
    weights = submit.plan(made)["ensemble-weights"].fingerprint
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"layer_norm_eps": 1e-6}))
    made = planned()
    assert made.step(TrainedRanker("shelf")).fingerprint != before
    assert submit.plan(made)["ensemble-weights"].fingerprint != weights
