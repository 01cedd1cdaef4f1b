"""What a ranker's training is known by, and how its batch is divided."""

import pytest
import torch

from core.errors import InputError
from core.files import digest
from core.parts import Average
from core.settings import Fgm, Ranker
from core.task import Task
from ranking import given, rank, trainings
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


def test_a_rate_of_the_bodys_dropout_counts_where_it_is_set():
    assert "body_dropout" not in Ranker().recipe_settings
    assert Ranker(body_dropout=0.0).recipe_settings["body_dropout"] == 0.0


def test_an_average_of_the_weights_counts_where_it_is_set():
    assert "average" not in Ranker().recipe_settings
    assert Ranker(average=Average(last=9)).recipe_settings["average"] == {"last": 9}


@pytest.mark.parametrize(
    "more, attention",
    [
        ({}, "sdpa"),
        ({"body_dropout": 0.0}, "packed_sdpa"),
        ({"body_dropout": 0.0, "precision": "bf16"}, "packed_eager"),
        ({"precision": "bf16"}, "eager"),
        ({"body_dropout": 0.0, "attention": "eager"}, "packed_eager"),
    ],
)
def test_a_training_without_dropout_in_the_body_is_packed(trained, tmp_path, more, attention):
    """The body of a real configuration, made ready for its training."""
    task, _ = trained
    ranking = task.config.ranking
    ranker = ranking.rankers["small"].model_copy(update=more)
    rankers = {**ranking.rankers, "small": ranker}
    ranking = ranking.model_copy(update={"rankers": rankers})
    changed = Task(task.config.model_copy(update={"ranking": ranking}))
    body = trainings.learner(changed, "small", rank.plan(changed), tmp_path).model.body
    assert body.config._attn_implementation == attention
    encoder = body.get_submodule(body.base_model_prefix).train()
    ids = torch.tensor([[0, 5, 6, 2]])
    first, second = encoder(input_ids=ids)[0], encoder(input_ids=ids)[0]
    draws_dropout = "body_dropout" not in more
    assert torch.equal(first, second) is not draws_dropout


@pytest.mark.parametrize(
    "wanted, resolved, counted",
    [
        ("auto", "fp32", "auto"),  # what was trained on a CPU still stands
        ("auto", "bf16", "bf16"),
        ("bf16", "bf16", "bf16"),  # so both are one training
        ("fp32", "fp32", "fp32"),
        ("half", "bf16", "bf16"),
        ("half", "fp32", "half"),
    ],
)
def test_the_number_format_that_auto_comes_to_is_in_the_recipe(
    config, monkeypatch, wanted, resolved, counted
):
    task = Task(config(ranking={"rankers": {"a": {"precision": wanted}}}))
    monkeypatch.setattr(engine, "precision", lambda *_: resolved)  # a machine's answer
    assert trainings.recipe(task, "a")["precision"] == counted


def deberta(folder):
    """A folder that names no entry of BACKBONES."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "deberta-v2"}')
    return str(folder)


@pytest.mark.parametrize("setting", ["backbone", "start"])
def test_a_folder_that_overflows_in_fp16_is_known_by_its_type(
    config, monkeypatch, tmp_path, setting
):
    """On a GPU without bf16. The chain's first ranker decides for the later ones, too."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    rankers = {
        "a": {setting: deberta(tmp_path / "own"), "precision": "auto"},
        "b": {"start": "a", "precision": "fp16"},
    }
    task = Task(config(ranking={"rankers": rankers}))
    assert trainings.recipe(task, "a")["precision"] == "auto"  # comes to fp32
    with pytest.raises(InputError, match="found fp16, expected bf16 or fp32: this backbone over"):
        trainings.number_format(task, "b")
    (tmp_path / "own" / "config.json").write_text('{"model_type": "bert"}')
    assert trainings.recipe(task, "a")["precision"] == "fp16"


def test_a_given_model_that_overflows_in_fp16_is_known_by_its_type(config, monkeypatch, tmp_path):
    """Its recipe names the format that it is scored in."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    shelf = {"model": deberta(tmp_path / "own")}
    task = Task(config(ranking={"rankers": {"shelf": shelf}}))
    ranker = task.config.ranking.rankers["shelf"]
    assert given.resolved_precision(task, ranker) == "auto"  # comes to fp32
    (tmp_path / "own" / "config.json").write_text('{"model_type": "bert"}')
    assert given.resolved_precision(task, ranker) == "fp16"


def test_a_query_that_fills_a_pair_is_told_before_training(trained, tmp_path):
    """Of max_length 32, four are special pieces: known with the tokenizer, not when planned."""
    task, _ = trained

    def learner(query_length):
        ranking = task.config.ranking
        ranker = ranking.rankers["small"].model_copy(update={"query_length": query_length})
        rankers = {**ranking.rankers, "small": ranker}
        ranking = ranking.model_copy(update={"rankers": rankers})
        changed = Task(task.config.model_copy(update={"ranking": ranking}))
        return trainings.learner(changed, "small", rank.plan(changed), tmp_path)

    with pytest.raises(
        InputError,
        match="small: query_length 28 and the special pieces leave no room for a passage in "
        "max_length 32; lower query_length or raise max_length",
    ):
        learner(28)
    assert learner(27).tokenize.room == 1


def test_processes_that_cannot_share_a_batch_are_told_before_anything_is_trained(
    config, monkeypatch
):
    rankers = {"a": {"batch_size": 32}, "b": {"batch_size": 12}}
    task = Task(config(ranking={"rankers": rankers}))
    steps = rank.plan(task)
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(InputError, match="b: batch_size 12 .* among 8; set batch_size to 8 or 16"):
        trainings.check_division(task)
    monkeypatch.setenv("WORLD_SIZE", "4")
    trainings.check_division(task)
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(InputError, match="a: batch_size 32"):
        trainings.check_division(task)
    for name in rankers:
        steps[f"ranker/{name}"].path.mkdir(parents=True)
    trainings.check_division(task)  # five can score what is trained


def test_the_stage_refuses_an_uneven_share_before_it_begins(config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="base: batch_size 32 .* among 3; set batch_size to 30"):
        rank.run(config())
