"""Given rankers: off-the-shelf cross-encoders score as sentence-transformers scores them."""

import json

import numpy as np
import pytest
import small

from core import backbones
from core.artefacts import TrainedRanker
from core.config import load_config
from core.errors import InputError
from core.settings import Ranker
from core.task import Task
from data_aug import build
from ranking import Reranker, given, rank, rankers
from ranking.export import export
from retrieval import search

DENSE = {"sources": ["dense"], "dense": {"layers": 1, "max_length": 32}}
PAIRS = (
    ["where grows tea", "capital of norway", "tea"],
    ["Tea\nTea grows in Kenya. " * 4, "Oslo\nOslo is the capital of Norway.", "fjord"],
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """As sentence-transformers saves a cross-encoder."""
    from sentence_transformers import CrossEncoder

    folder = tmp_path_factory.mktemp("given")
    theirs = CrossEncoder(str(small.write(folder / "plain")), device="cpu")
    theirs.save_pretrained(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="module")
def made(model, models, embedded_folder, small_collection, tmp_path_factory):
    """A configuration with two given rankers, one behind the other, and a taught one. (task)."""
    folder = tmp_path_factory.mktemp("configured")
    small_collection(folder / "small")
    (folder / "given.yaml").write_text(f"""
collection: {{path: {folder}/small}}
retrieval:
  sources: [dense]
  dense: {{layers: 1, max_length: 32}}
  hybrid: {{weights: equal}}
data_aug: {{ns2: {{negatives: 2}}}}
work: {models.parent}
ranking:
  rankers:
    shelf: {{model: {model}, query_length: 16}}
    second: {{model: {model}, query_length: 16, max_length: 24, after: shelf, depth: 2}}
    taught: {{recipe: ns2, start: shelf, teacher: shelf, loss: margin_mse, group_size: 2,
              steps: 1, batch_size: 2, max_length: 32, query_length: 8, evaluate_every: 1}}
  rerank: {{depth: 4}}
""")
    config = load_config(folder / "given.yaml")
    search.run(config)
    build.run(config)
    rank.run(config)
    return Task(config)


def loaded(task, name, **more):
    rank.plan(task)
    return rankers.load(task, name, task.step(TrainedRanker(name)), **more)


@pytest.mark.parametrize("name, max_length", [("shelf", 40), ("second", 24)])
def test_scores_are_those_of_sentence_transformers(made, model, name, max_length):
    """With the model's own length where none is set; the first pair is cut in both."""
    import torch
    from sentence_transformers import CrossEncoder

    theirs = CrossEncoder(str(model), max_length=max_length, device="cpu")
    expected = theirs.predict(
        list(zip(*PAIRS, strict=True)), activation_fn=torch.nn.Identity(), show_progress_bar=False
    )
    scorer = loaded(made, name)
    assert scorer.tokenize.max_length == max_length
    assert scorer(*PAIRS) == pytest.approx(expected, abs=1e-5)
    assert np.ptp(expected) > 0.01


def test_nothing_is_trained(made, model):
    step = rank.plan(made)["ranker/shelf"]
    assert step.recipe["settings"] == {
        "model": backbones.fingerprint(str(model), made.config.models),
        "query_length": 16,
        "max_length": None,
        "precision": "auto",
    }
    assert step.recipe["inputs"] == {}
    state = json.loads((step.path / "training.json").read_text())
    assert (state["given"], state["history"]) == (str(model), [])
    files = {path.name for path in (step.path / "model").iterdir()}
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= files
    assert not (step.path / "training.jsonl").exists()


def test_a_cascade_and_a_teacher(made):
    steps = rank.plan(made)
    note = json.loads((steps["cascade/second"].path / "cascade.json").read_text())
    # as many dev queries as choose weights: two languages with training topics, one query each
    assert (note["after"], note["depth"], note["queries"]) == ("shelf", 2, 2)
    run = made.run("second", "en", "testA")
    before = made.run("shelf", "en", "testA")
    assert run.keys() == before.keys()
    taught = steps["ranker/taught"]
    assert taught.recipe["inputs"]["ranker/shelf"] == steps["ranker/shelf"].fingerprint
    assert rankers.note_chain(made, "taught") == "shelf → taught"
    assert not rankers.transductive(made, "shelf")


def test_from_python_and_exported(made, tmp_path):
    scores = loaded(made, "second")(*PAIRS)
    for folder in (made.step(TrainedRanker("second")).path / "model", tmp_path / "out"):
        if not folder.exists():
            export(made, "second", folder)
        reranker = Reranker(folder)
        own = [reranker.score(query, [text])[0] for query, text in zip(*PAIRS, strict=True)]
        assert own == pytest.approx(scores, abs=1e-5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "taken as it is" in card and "max_length 24" in card


def test_int8_is_calibrated_on_candidates(made):
    config = made.config
    rerank = config.ranking.rerank.model_copy(update={"backend": "int8", "tolerance": 1.0})
    only = {"shelf": config.ranking.rankers["shelf"]}
    ranking = config.ranking.model_copy(update={"rankers": only, "rerank": rerank})
    task = Task(config.model_copy(update={"name": "int8", "ranking": ranking}))
    rank.run(task.config)
    note = json.loads((rank.plan(task)["int8/shelf"].path / "int8.json").read_text())
    assert note["queries"] == 2


def test_a_collection_without_training_topics(model, config, tmp_path):
    """De has dev and test topics alone: nothing is trained, so nothing is missing."""
    ranking = {"rankers": {"shelf": {"model": str(model)}}}
    task = Task(config(languages=["de"], ranking=ranking, retrieval={"sources": ["dense"]}))
    steps = rank.plan(task)
    assert "shelf/de-testA" in steps
    assert not [name for name in build.plan(task) if name.startswith("groups/")]
    assert rankers.dev_languages(task, task.config.ranking.rankers["shelf"]) == ["de"]


# ---- What is refused


def written(tmp_path, model, name, **values):
    """A copy of the model with other values in one of its files."""
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(model, folder)
    file = folder / name
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(values["whole"] if "whole" in values else content | values))
    return folder


def build_given(config, tmp_path, **settings):
    task = Task(config(ranking={"rankers": {"shelf": settings}}))
    (tmp_path / "built").mkdir()
    given.build(task, "shelf", tmp_path / "built")


@pytest.mark.parametrize(
    "file, values, message",
    [
        (
            "config_sentence_transformers.json",
            {"prompts": {"rank": "Judge: "}, "default_prompt_name": "rank"},
            "config_sentence_transformers.json has the prompt rank='Judge: ' for all texts",
        ),
        (
            "sentence_bert_config.json",
            {"do_lower_case": True},
            "sentence_bert_config.json sets do_lower_case=True, which changes its input",
        ),
        (
            "sentence_bert_config.json",
            {"transformer_task": "text-generation"},
            "transformer_task=text-generation, expected sequence-classification",
        ),
        (
            "modules.json",
            {
                "whole": [
                    {"type": "sentence_transformers.models.LogitScore", "path": "1_LogitScore"}
                ]
            },
            "modules.json has the module LogitScore in 1_LogitScore, expected a transformer",
        ),
    ],
)
def test_models_with_more_than_a_logit(config, model, tmp_path, file, values, message):
    folder = written(tmp_path, model, file, **values)
    with pytest.raises(InputError) as error:
        build_given(config, tmp_path, model=str(folder), query_length=16)
    assert message in str(error.value)


def test_an_encoder_without_a_head(config, model, tmp_path):
    """Also where it claims to have one: transformers would draw the weights at random."""
    from transformers import BertModel

    folder = written(tmp_path, model, "config.json")
    BertModel.from_pretrained(model).save_pretrained(folder)
    task = Task(config(ranking={"rankers": {"shelf": {"model": str(folder)}}}))
    with pytest.raises(InputError) as error:
        rank.plan(task)
    assert str(error.value) == (
        f"{folder}: is a BertModel, which has no label, expected a cross-encoder with one; "
        "name one, or train a ranker from it (backbone=…)"
    )
    config_file = folder / "config.json"
    claims = {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "a"},
        "label2id": {"a": 0},
    }
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | claims))
    with pytest.raises(InputError, match="its weights lack classifier.bias, classifier.weight"):
        build_given(config, tmp_path, model=str(folder), query_length=16)


@pytest.mark.parametrize("labels", [0, 2, 3])
def test_models_with_another_number_of_labels(config, tmp_path, labels):
    """Found as soon as the plan is made. Transformers writes no labels down where there are two."""
    folder = small.write(tmp_path / "labels", num_labels=max(labels, 1))
    file = folder / "config.json"
    content = json.loads(file.read_text())
    assert ("id2label" in content) == (labels != 2)
    if labels == 0:
        file.write_text(json.dumps(content | {"id2label": {}}))
    task = Task(config(ranking={"rankers": {"shelf": {"model": str(folder)}}}))
    message = f"{folder}: has {labels} labels, expected a cross-encoder with one"
    for plan in (rank.plan, lambda task: given.build(task, "shelf", tmp_path)):
        with pytest.raises(InputError) as error:
            plan(task)
        assert str(error.value) == message


def test_code_of_a_models_own_is_not_run(config, model, tmp_path):
    """Transformers would run its own class of the same name in its place, without a word."""
    code = {"auto_map": {"AutoModelForSequenceClassification": "modeling_x.XForRanking"}}
    folder = written(tmp_path, model, "config.json", **code)
    marker = tmp_path / "ran"
    (folder / "modeling_x.py").write_text(f"open({str(marker)!r}, 'w')\n")
    task = Task(config(ranking={"rankers": {"shelf": {"model": str(folder)}}}))
    message = (
        f"{folder}: its config.json names code of its own (auto_map: modeling_x.XForRanking), "
        "which is never run; name a model of an architecture that transformers has"
    )
    for use in (rank.plan, lambda task: given.build(task, "shelf", tmp_path)):
        with pytest.raises(InputError) as error:
            use(task)
        assert str(error.value) == message
    with pytest.raises(InputError, match="names code of its own"):
        Reranker(folder)
    assert not marker.exists()


def test_a_model_brings_its_lengths(config, made, tmp_path):
    """One that Continuum exported; settings come before them."""
    export(made, "second", tmp_path / "out")

    def lengths(number, **settings):
        ranker = {"model": str(tmp_path / "out"), **settings}
        task = Task(config(ranking={"rankers": {"shelf": ranker}}, retrieval=DENSE))
        folder = tmp_path / str(number)
        folder.mkdir()
        given.build(task, "shelf", folder)
        settings = rank.plan(task)["ranker/shelf"].recipe["settings"]
        tokenize = rankers.tokenizer_of(task, "shelf", folder / "model")
        return settings["query_length"], tokenize.query_length, tokenize.max_length

    assert lengths(1) == (None, 16, 24)
    assert lengths(2, query_length=12, max_length=20) == (12, 12, 20)


def test_lengths_that_the_model_does_not_bear(config, model, tmp_path):
    with pytest.raises(
        InputError, match="max_length: found 64, expected at most 40, the positions that the model"
    ):
        build_given(config, tmp_path, model=str(model), query_length=16, max_length=64)
    (tmp_path / "built").rmdir()
    with pytest.raises(
        InputError, match="shelf: query_length 64 does not fit into the 40 pieces that the model"
    ):
        build_given(config, tmp_path, model=str(model))


@pytest.mark.parametrize(
    "own, settings, expected", [(512, {}, 512), (10**30, {}, 512), (512, {"max_length": 200}, 200)]
)
def test_positions_behind_the_padding_pieces(own, settings, expected):
    """XLM-R has 514 positions, of which the first two are none of a text's."""
    from transformers import XLMRobertaConfig

    ranker = Ranker(model="owner/model", **settings)
    tokenizer = small.tokenizer(max_length=own)
    tokenizer.pad_token_id = 1
    shape = XLMRobertaConfig(max_position_embeddings=514, pad_token_id=1)
    assert given.max_length(ranker, "owner/model", shape, tokenizer) == expected


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"steps": 100, "recipe": "default"},
            "shelf has model=MODEL and recipe, steps; a given model is not trained, "
            "take the setting away (to train it further, start another ranker from it: "
            "start=shelf)",
        ),
        ({"start": "FOLDER"}, "shelf has model=MODEL and start; a given model is not trained"),
    ],
)
def test_a_given_model_has_no_settings_of_training(config, model, tmp_path, settings, message):
    settings = {key: str(tmp_path) if v == "FOLDER" else v for key, v in settings.items()}
    ranker = {"model": str(model), **settings}
    with pytest.raises(InputError) as error:
        rank.plan(Task(config(ranking={"rankers": {"shelf": ranker}})))
    assert message.replace("MODEL", str(model)) in str(error.value)


def test_no_such_model(config, tmp_path):
    for name, message in (
        ("nothing", "unknown backbone 'nothing'"),
        (str(tmp_path), "holds no config.json; expected a folder with a cross-encoder"),
    ):
        with pytest.raises(InputError, match=message):
            rank.plan(Task(config(ranking={"rankers": {"shelf": {"model": name}}})))


def test_a_recipe_is_not_asked_for(tmp_path, model, folder):
    (tmp_path / "c.yaml").write_text(
        f"collection: {{path: {folder}}}\ndata_aug: {{other: {{}}}}\n"
        f"ranking: {{rankers: {{shelf: {{model: {model}}}}}}}\n"
    )
    assert load_config(tmp_path / "c.yaml").ranking.trained == {}


def test_recipes_of_trainings_are_what_they_were():
    assert "model" not in Ranker(steps=3).recipe_settings
