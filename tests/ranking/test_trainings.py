"""What a ranker's training is known by, and how its batch is divided."""

import pytest

from core.errors import InputError
from core.files import digest
from core.settings import Fgm, Ranker
from core.task import Task
from ranking import trainings
from training import engine


@pytest.mark.parametrize(
    "ranker, expected",
    [
        (Ranker(), "5b6400080ee5b6cf"),
        (
            Ranker(
                steps=7,
                batch_size=3,
                precision="bf16",
                start="x",
                loss="kl_divergence",
                teacher="t",
                tensorboard=True,
                fgm=Fgm(epsilon=0.5, share=0.5),
                seed=3,
            ),
            "3b99d543860217dc",
        ),
    ],
)
def test_a_recipe_is_what_it_was_before_trainings_had_a_part_of_their_own(ranker, expected):
    assert digest(ranker.recipe_settings) == expected


@pytest.mark.parametrize(
    "wanted, resolved, counted",
    [
        ("auto", "fp32", "auto"),  # what was trained on a CPU still stands
        ("auto", "bf16", "bf16"),
        ("bf16", "bf16", "bf16"),  # so both are one training
        ("fp32", "fp32", "fp32"),
    ],
)
def test_the_number_format_that_auto_comes_to_is_in_the_recipe(
    config, monkeypatch, wanted, resolved, counted
):
    task = Task(config(ranking={"rankers": {"a": {"precision": wanted}}}))
    monkeypatch.setattr(engine, "precision", lambda *_: resolved)  # a machine's answer
    assert trainings.recipe(task, "a")["precision"] == counted


def test_processes_that_cannot_share_a_batch_are_told_before_anything_is_trained(
    config, monkeypatch
):
    rankers = {"a": {"batch_size": 32}, "b": {"batch_size": 12}}
    task = Task(config(ranking={"rankers": rankers}))
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(InputError, match="b: batch_size 12 .* among 8; set batch_size to 8 or 16"):
        trainings.check_division(task)
    monkeypatch.setenv("WORLD_SIZE", "4")
    trainings.check_division(task)
