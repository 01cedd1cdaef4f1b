"""The methods of negative-sampling-2024 all the way, with a little body."""

import json
from pathlib import Path

import little
import pytest
from little import train, train_until, weights

from core.artefacts import TrainedEncoder
from core.config import load_config, merged
from core.encoders import METHODS, Encoder
from core.errors import InputError
from core.settings import Config
from core.task import Task
from retrieval import search

ROOT = Path(__file__).parents[3]
PAPER = ["dpr", "dpr_bm25", "tas_q", "tas_p", "ance", "ict_q", "ict_p"]


@pytest.fixture
def task(tmp_path, little_body):
    """A function of encoders' settings: their task, planned."""
    little.write_collection(tmp_path / "little")
    (tmp_path / "runs").mkdir()
    for language in ("en", "sw"):
        for split in ("train", "dev"):
            (tmp_path / "runs" / f"{language}-{split}.trec").write_text("")
    below = {
        "backbone": str(little_body),
        "steps": 6,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "evaluate_every": 2,
        "precision": "fp32",
        "deepspeed": str(ROOT / "configs" / "deepspeed" / "zero0.json"),
        "query_length": 12,
        "passage_length": 24,
        "dev": {"queries": 2, "passages": 20},
    }

    def make(work="work", **methods) -> Task:
        values = {
            "name": "test",
            "work": str(tmp_path / work),
            "collection": {"source": "disk", "path": str(tmp_path / "little")},
            "retrieval": {
                "sources": ["run"],
                "run": str(tmp_path / "runs"),
                "encoders": {name: merged(below, own) for name, own in methods.items()},
            },
        }
        made = Task(Config.model_validate(values))
        search.plan(made)
        return made

    return make


def methods(little_body):
    """Two clusterings or searches in six steps of four of the 24 queries."""
    teacher = str(little_body)
    return {
        "tas_q": {"clustered": {"clusters": 5, "teacher": teacher}},
        "ict_p": {"clustered": {"clusters": 5, "every": 1}, "batch_size": 8},
        "ance": {"refresh": {"every": 3, "unit": "steps", "depth": 10}},
    }


@pytest.mark.parametrize("method", ["tas_q", "ict_p", "ance"])
def test_a_stopped_training_goes_on_to_the_same_bytes(task, little_body, method):
    own = {"method": method, **methods(little_body)[method]}
    whole = train(task("whole", mine=own), "mine")
    train_until(5, task("stopped", mine=own), "mine")
    again = train(task("stopped", mine=own), "mine")
    assert weights(again) == weights(whole)
    history = json.loads((again / "training.json").read_text())["history"]
    assert [step for step, _ in history] == [2, 4, 6]
    if method == "ance":
        found = sorted(path.name for path in (again / "negatives").iterdir())
        assert found == ["step-0", "step-3"]
        for language in ("en", "sw"):
            file = Path("negatives", "step-3", "1-refresh", f"{language}.parquet")
            assert (again / file).read_bytes() == (whole / file).read_bytes()


def test_a_teacher_may_be_another_encoder_of_the_configuration(task):
    made = task(
        teacher={"steps": 2}, pupil={"method": "tas_p", "clustered": {"teacher": "teacher"}}
    )
    plan = made.step(TrainedEncoder("pupil"))
    assert made.step(TrainedEncoder("teacher")) in plan.inputs


def test_an_encoder_is_not_its_own_teacher(task):
    with pytest.raises(InputError, match="mine needs mine; by start, .* or a teacher"):
        task(mine={"method": "tas_q", "clustered": {"teacher": "mine"}})


def test_a_teacher_that_is_not_there(task):
    with pytest.raises(InputError, match="nowhere"):
        task(mine={"method": "tas_q", "clustered": {"teacher": "nowhere"}})


def test_another_teacher_is_another_training(task, tmp_path, little_body):
    other = little.write(tmp_path / "other", seed=1)
    recipes = []
    for teacher in (little_body, other):
        made = task(mine={"method": "tas_q", "clustered": {"teacher": str(teacher)}})
        recipes.append(made.step(TrainedEncoder("mine")).fingerprint)
    assert recipes[0] != recipes[1]


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"method": "ict_q", "balance": "uniform"},
            "batches=clustered takes examples as they lie together, so balance=uniform has no say",
        ),
        (
            {"method": "tas_q", "clustered": {"teacher": "embedded", "every": 2}},
            "mine.clustered has teacher=embedded and every=2; a teacher's vectors do not change",
        ),
        (
            {"negatives": ["from_run", "refresh"]},
            "refresh begins a chain, so what from_run found before it would be lost",
        ),
        ({"clustered": {"clusters": 3}}, "mine.clustered: is set, but clustered is not among"),
        ({"refresh": {"every": 3}}, "mine.refresh: is set, but refresh is not among"),
    ],
)
def test_what_cannot_be_is_said_when_the_plan_is_made(task, settings, message):
    with pytest.raises(InputError, match=message):
        task(mine=settings)


def test_all_methods_of_the_paper_are_rows():
    assert set(PAPER) <= set(METHODS)
    for method in PAPER:
        assert Encoder(method=method).void == []
    assert (
        Encoder(method="ict_p").clustered
        == Encoder(batches="clustered", clustered={"of": "passages", "every": 10}).clustered
    )


def test_an_encoder_without_clusters_or_refresh_has_the_recipe_that_it_had():
    assert {"clustered", "refresh"}.isdisjoint(Encoder(method="dpr").recipe_settings)


def test_the_papers_configuration_has_all_methods_at_one_budget_and_two_seeds():
    config = load_config(ROOT / "configs" / "encoders" / "negative_sampling.yaml")
    by_seed: dict[int, list[str]] = {0: [], 1: []}
    budgets = set()
    for encoder in config.retrieval.encoders.values():
        assert encoder.method
        by_seed[encoder.seed].append(encoder.method)
        budgets.add(
            (encoder.steps, encoder.batch_size, encoder.accumulation, encoder.learning_rate)
        )
    assert by_seed == {0: PAPER, 1: PAPER}
    assert len(budgets) == 1
    other = config.retrieval.conditions["out-of-distribution"].data
    assert load_config(ROOT / other).collection.source == "atlas"
