"""The methods of contriever-2022 all the way, with a little body drawn at random."""

import json
import shutil
from pathlib import Path

import little
import numpy as np
import pytest
import torch
from little import train, train_until, weights

from core.artefacts import PassageStore, TrainedEncoder
from core.config import load_config, merged
from core.encoders import Encoder
from core.errors import InputError
from core.settings import Config
from core.task import Task
from retrieval import search
from retrieval.encoders import encoders
from training import engine as deep
from training.loop import Loop

ROOT = Path(__file__).parents[3]


@pytest.fixture
def task(tmp_path, little_body):
    """A function of encoders' settings: their task, planned; sw has no training topics."""
    collection = little.write_collection(tmp_path / "little")
    for kind in ("topics", "qrels"):
        (collection / "sw" / kind / f"{kind}.sw-train.tsv").unlink()
    (tmp_path / "runs").mkdir()
    for pair in ("en-train", "en-dev", "sw-dev"):
        (tmp_path / "runs" / f"{pair}.trec").write_text("")
    below = {
        "steps": 4,
        "batch_size": 4,
        "evaluate_every": 2,
        "precision": "fp32",
        "deepspeed": str(ROOT / "configs" / "deepspeed" / "zero0.json"),
        "query_length": 12,
        "passage_length": 24,
        "dev": {"queries": 2, "passages": 20},
    }

    def make(work="work", **methods) -> Task:
        own = {}
        for name, settings in methods.items():
            start = {} if "start" in settings else {"backbone": str(little_body)}
            own[name] = merged({**below, **start}, settings)
        values = {
            "name": "test",
            "work": str(tmp_path / work),
            "collection": {"source": "disk", "path": str(collection)},
            "retrieval": {
                "sources": ["run"],
                "run": str(tmp_path / "runs"),
                "encoders": own,
            },
        }
        made = Task(Config.model_validate(values))
        search.plan(made)
        return made

    return make


MOCO = {"method": "mcontriever", "crop": {"document": 20}, "queue": {"size": 10}}


@pytest.mark.parametrize("average", [None, {"decay": 0.9}])
def test_a_stopped_training_goes_on_to_the_same_bytes(task, average):
    """Crops, momentum encoder and a queue that is full: all of their state is kept."""
    settings = {**MOCO, "average": average}
    whole = train(task("whole", mine=settings), "mine")
    train_until(3, task("stopped", mine=settings), "mine")
    again = train(task("stopped", mine=settings), "mine")
    assert weights(again) == weights(whole)
    for line in ("training.jsonl", "dev.jsonl"):
        assert (again / line).read_bytes() == (whole / line).read_bytes()


def test_the_average_is_kept_and_the_momentum_encoder_follows_the_weights_in_training(
    task, monkeypatch
):
    """The mean over the last two of four steps, worked out from the weights after each."""
    from safetensors.torch import load_file

    trained, keys = [], []
    step = Loop.step

    def noted(self, number, ahead=None):
        entry = step(self, number, ahead)
        parameters = self.engine.module.named_parameters()
        trained.append({name: p.detach().clone() for name, p in parameters})
        (momentum, _) = self.learner.links
        keys.append({name: weight.clone() for name, weight in momentum.weights.items()})
        return entry

    monkeypatch.setattr(Loop, "step", noted)
    settings = {"average": {"last": 2}, "momentum": {"decay": 0.5}, "evaluate_every": 4}
    folder = train(task(mine={**MOCO, **settings, "learning_rate": 1e-2}), "mine")
    kept = load_file(folder / "model" / "model.safetensors")
    assert len(kept) == len(trained[0])
    moved = 0.0
    for name, tensor in kept.items():
        third, fourth = (trained[place][f"towers.shared.{name}"] for place in (2, 3))
        moved = max(moved, float((fourth - third).abs().max()))
        assert torch.allclose(tensor, (third + fourth) / 2, atol=1e-6), name
        followed = (keys[2][f"towers.shared.{name}"] + third) / 2
        assert torch.allclose(keys[3][f"towers.shared.{name}"], followed, atol=1e-6), name
    assert moved > 1e-4


def test_pre_training_on_passages_then_fine_tuning_by_a_chain(task):
    made = task(
        pre={
            "method": "contriever_in_batch",
            "crop": {"document": 20},
            "random_weights": True,
            "layers": 1,
        },
        tuned={"method": "contriever_tuned", "start": "pre"},
    )
    names = {source.name for source in made.step(TrainedEncoder("pre")).inputs}
    assert {"passages/en", "passages/sw"} <= names
    assert not any("train" in name for name in names), "no training query, no training judgment"
    train(made, "tuned")
    log = made.step(TrainedEncoder("pre")).path / "training.jsonl"
    losses = [json.loads(line)["loss"] for line in log.read_text().splitlines()]
    assert len(losses) == 4 and all(0 < loss < 100 for loss in losses)
    outcome = json.loads((made.step(TrainedEncoder("tuned")).path / "training.json").read_text())
    assert outcome["settings"]["temperature"] == 0.05 and len(outcome["history"]) == 2


def learner(task, name, tmp_path):
    deep.start()
    encoders.make(task, [task.step(PassageStore(language)) for language in ("en", "sw")])
    return encoders.learner(task, name, tmp_path)


def test_all_languages_are_pre_trained_on(task, tmp_path):
    made = task(mine={**MOCO, "steps": 300, "batch_size": 10}, one={**MOCO, "languages": ["sw"]})
    own = learner(made, "mine", tmp_path)
    assert own.pairs.spans == {"en": range(48), "sw": range(48, 96)}
    numbers = np.concatenate([own.order.of_step(step)[0] for step in range(300)])
    of_sw = int((numbers >= 48).sum())
    assert 1370 <= of_sw <= 1630, "half of 3000, five standard deviations of 27 at most"
    assert learner(made, "one", tmp_path).pairs.spans == {"sw": range(48)}


def test_weights_drawn_anew_are_the_seed_s(task, tmp_path, little_body):
    below = {"method": "contriever_in_batch", "crop": {"document": 20}}
    made = task(
        kept=below,
        drawn={**below, "random_weights": True},
        again={**below, "random_weights": True},
        other={**below, "random_weights": True, "seed": 1},
    )
    found = {}
    for name in ("kept", "drawn", "again", "other"):
        model = learner(made, name, tmp_path).model
        found[name] = model.towers["shared"].encoder.layer[0].attention.self.query.weight.detach()
    assert found["drawn"].equal(found["again"])
    assert not found["drawn"].equal(found["other"]) and not found["drawn"].equal(found["kept"])
    # the little body is drawn with a standard deviation of .2; 256 weights
    assert 0.15 < float(found["drawn"].std()) < 0.25
    recipes = [encoders.recipe(made.config.retrieval.encoders[name]) for name in ("kept", "drawn")]
    assert "random_weights" not in recipes[0] and recipes[1]["random_weights"] is True


def test_what_the_rows_say():
    """Appendices A and B."""
    contriever = Encoder(method="contriever")
    assert contriever.pairs == "crop" and contriever.in_batch == ["momentum", "queue"]
    assert contriever.queue.model_dump() == {"size": 131072, "by": "all", "alone": True}
    assert contriever.momentum.decay == 0.9995 and contriever.temperature == 0.05
    assert contriever.perturb.model_dump() == {"delete": 0.1, "mask": 0.0, "replace": 0.0}
    assert contriever.crop.model_dump() == {"document": 256, "shortest": 0.05, "longest": 0.5}
    in_batch = Encoder(method="contriever_in_batch")
    assert in_batch.in_batch == [] and in_batch.pairs == "crop"
    cloze = Encoder(method="contriever_cloze")
    assert cloze.pairs == "cloze" and cloze.cloze.kept == 0.1 and cloze.perturb.delete == 0
    several = Encoder(method="mcontriever")
    assert several.balance == "uniform" and several.queue.size == 32768 and several.queue.alone
    assert several.momentum.decay == 0.999
    tuned = Encoder(method="contriever_tuned")
    assert (
        tuned.draws and not tuned.negatives and tuned.draw.mined == 0 and tuned.pairs == "labelled"
    )
    mined = Encoder(method="contriever_mined", from_run={"system": "tuned"})
    assert mined.negatives == ["from_run"] and mined.draw.mined == 0.1 and mined.draw.number == 1
    for row in (contriever, in_batch, cloze, several, tuned, mined):
        assert row.void == []


# ---- Bad input


def test_negatives_cannot_be_mined_for_crops(task):
    with pytest.raises(InputError) as error:
        task(mine={"method": "contriever_in_batch", "negatives": ["from_run"]})
    assert str(error.value) == (
        "retrieval.encoders.mine: pairs=crop has no queries that negatives could be mined for, so "
        "negatives=from_run has no say in it; leave negatives out, or set pairs=labelled"
    )


def test_a_part_of_views_without_views(task):
    with pytest.raises(InputError, match=r"encoders.mine.perturb: is set, but perturb is not amon"):
        task(mine={"perturb": {"delete": 0.1}})
    with pytest.raises(InputError, match=r"encoders.mine.cloze: is set, but cloze is not among"):
        task(mine={"method": "contriever_in_batch", "cloze": {"kept": 0.5}})


def test_a_start_with_random_weights(task):
    with pytest.raises(InputError) as error:
        task(mine={"start": "pre", "random_weights": True}, pre={})
    assert str(error.value) == (
        "retrieval.encoders.mine has start=pre and random_weights=true; a start is had for its "
        "weights, take one of the two away"
    )


def test_languages_without_passages_to_crop(task, tmp_path):
    with pytest.raises(InputError, match="an encoder's languages: .* no topics for language fi; "):
        task(mine={**MOCO, "languages": ["fi"]})
    shutil.rmtree(tmp_path / "little" / "sw" / "corpus")
    with pytest.raises(InputError, match=r"no corpus for sw, expected sw/corpus/docs-\*.jsonl.gz"):
        task(mine=MOCO)


def test_a_queue_larger_than_the_passages(task, tmp_path):
    made = task(mine={**MOCO, "queue": {"size": 97}})
    with pytest.raises(InputError, match=r"encoders.mine.queue.size: found 97, .* only 96 passag"):
        learner(made, "mine", tmp_path)


def test_the_configuration_compares_methods_that_differ_in_one_thing():
    known = load_config(ROOT / "configs" / "encoders" / "contriever.yaml").retrieval.encoders
    recipes = {}
    for name, encoder in known.items():
        assert encoder.void == [], name
        recipes[name] = {name: repr(value) for name, value in encoder.recipe_settings.items()}

    def differing(one, other):
        names = recipes[one].keys() | recipes[other].keys()
        return {name for name in names if recipes[one].get(name) != recipes[other].get(name)}

    assert differing("crop", "crop-512") == differing("crop", "crop-16384") == {"queue"}
    assert differing("crop", "cloze") == {"pairs", "crop", "cloze"}
    assert differing("crop", "in_batch") == {"in_batch", "momentum", "queue"}
    assert differing("tuned", "mined") == {"negatives", "from_run", "draw"}
    assert differing("tuned", "unlearned") == {
        "start", "random_weights", "layers", "query_prefix", "passage_prefix", "similarity"
    }  # fmt: skip
