"""A trained ranker packed as the embedded one, and used as such: with a tiny encoder."""

import json

import numpy as np
import pytest
import small
import yaml

from core import backbones, embedded, embedded_ranker
from core.artefacts import TrainedRanker
from core.config import load_config
from core.errors import InputError
from core.task import Task
from data_aug import build
from ranking import Reranker, embed, rank, rankers
from ranking.export import export
from ranking.scores import Scores, keys
from retrieval import search

LICENCES = """# The collection

Small.

## Sources and licences

| source | licence |
|---|---|
| Oslo | CC BY-SA 4.0 |

## Contents

None of it.
"""
PAIRS = (
    ["where grows tea", "capital of norway", "tea"],
    ["Tea\nTea grows in Kenya. " * 4, "Oslo\nOslo is the capital of Norway.", "fjord"],
)
TRAINING = """
    trained: &trained {freeze_embeddings: true, recipe: ns2, steps: 4, batch_size: 4, group_size: 2,
                       loss: listwise_softmax, max_length: 32, query_length: 12, evaluate_every: 4,
                       learning_rate: 1e-3, precision: fp32, fgm: {epsilon: 0.0}}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder in which a tiny encoder stands for the embedded one, and a file for the ranker's."""
    folder = tmp_path_factory.mktemp("embed")
    encoder = folder / "encoder"
    body = small.body()
    body.bert.pooler = None
    body.bert.save_pretrained(encoder)
    small.tokenizer().save_pretrained(encoder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "folder", lambda models: encoder)
        patch.setattr(embedded, "folder_name", lambda: "tiny")
        patch.setattr(embedded_ranker, "FILE", folder / "packed" / "ranker.safetensors")
        yield folder


def configured(tiny, name, rankers_):
    (tiny / f"{name}.yaml").write_text(f"""
collection: {{path: {tiny}/small}}
retrieval: {{sources: [dense], dense: {{max_length: 32}}, hybrid: {{weights: equal}}}}
data_aug: {{ns2: {{negatives: 2}}}}
work: {tiny}/work
ranking:
  rankers:{rankers_}
  rerank: {{depth: 4, tolerance: 1.0}}
""")
    return load_config(tiny / f"{name}.yaml")


@pytest.fixture(scope="module")
def trained(tiny, small_collection):
    """A ranker trained from the tiny encoder, and others that can't be packed. (task)."""
    small_collection(tiny / "small")
    (tiny / "small" / "README.md").write_text(LICENCES)
    rankers_ = f"""{TRAINING}
    thin: {{<<: *trained, layers: 1}}
    moved: {{<<: *trained, freeze_embeddings: false}}
"""
    config = configured(tiny, "trained", rankers_)
    search.run(config)
    build.run(config)
    rank.run(config)
    return Task(config)


@pytest.fixture(scope="module")
def packed(trained, tiny):
    """The ranker as the embedded one. (folder)."""
    embed.embed(trained, "trained", tiny / "packed", "python -m ranking.embed c.yaml trained x")
    return tiny / "packed"


@pytest.fixture(scope="module")
def used(packed, tiny):
    """As a given ranker, a start, and a teacher. (task)."""
    rankers_ = f"""{TRAINING}
    given: {{model: embedded-ranker}}
    longer: {{<<: *trained, start: embedded-ranker, steps: 1, evaluate_every: 1}}
    taught: {{<<: *trained, loss: margin_mse, teacher: given, steps: 1, evaluate_every: 1}}
"""
    config = configured(tiny, "used", rankers_)
    rank.run(config)
    return Task(config)


def scorer_of(task, name):
    return rankers.load(task, name, rank.plan(task)[TrainedRanker(name).step_name])


# ---- What is packed


def test_scores_are_nearly_those_of_the_training(trained, packed, used):
    before = scorer_of(trained, "trained")(*PAIRS)
    after = scorer_of(used, "given")(*PAIRS)
    untrained = Reranker(small.write(packed.parent / "plain"), query_length=12, max_length=32)
    drawn = [untrained.score(query, [text])[0] for query, text in zip(*PAIRS, strict=True)]
    assert np.abs(before - after).max() < 0.2 * np.abs(before - drawn).max()
    assert not np.array_equal(before, after)


def test_the_file(trained, packed):
    ranker = embedded_ranker.read(packed / "ranker.safetensors")
    step = rank.plan(trained)["ranker/trained"]
    assert (ranker.query_length, ranker.max_length) == (12, 32)
    assert ranker.training == step.fingerprint
    assert {path.name for path in packed.iterdir()} == {"ranker.safetensors", "README.md"}


def test_the_card(trained, packed):
    text = (packed / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["language"] == ["en", "sw"]
    assert head["base_model"] == "intfloat/multilingual-e5-small"
    sample = rankers.DevSample(trained, trained.config.ranking.rankers["trained"], 50, 4)
    runs = sample.rerank(scorer_of(trained, "trained"))
    assert f"| first stage | {sample.first_stage:.4f} |" in text
    assert f"| this ranker as trained | {sample.mean(runs):.4f} |" in text
    assert "nDCG@10 on 2 dev queries of small, 4 candidates" in text
    assert "32 pieces, of which at most 12 are the query's" in " ".join(text.split())
    assert "    python -m ranking.embed c.yaml trained x\n" in text
    assert "Sources and licences of the training data:" in text
    assert "| Oslo | CC BY-SA 4.0 |" in text and "None of it." not in text
    assert rank.plan(trained)["ranker/trained"].fingerprint in text
    assert "\n    steps: 4\n" in text


def test_a_collection_without_licences(trained, packed, tiny):
    readme = tiny / "small" / "README.md"
    readme.write_text("# The collection\n\nSmall.\n")
    assert embed.licences(trained) == (
        "The collection small names no licence of its passages; "
        "ask whoever made it before this file is shared."
    )


def test_scores_that_are_known_are_not_made_again(trained, tmp_path):
    scorer = scorer_of(trained, "trained")
    store = Scores(tmp_path)
    store.put(keys(*PAIRS)[1:2], np.array([7], np.float32))
    scores = embed.Remembered(scorer, store)(*PAIRS)
    assert scores[1] == 7
    own = scorer(*PAIRS)
    assert scores[[0, 2]] == pytest.approx(own[[0, 2]], abs=1e-5)
    store.put(keys(*PAIRS), own)
    assert embed.Remembered(scorer, store)(*PAIRS).tolist() == [own[0], 7, own[2]]


# ---- How it is used


def test_a_given_ranker_with_its_own_lengths(used):
    step = rank.plan(used)["ranker/given"]
    assert step.recipe["settings"] == {
        "model": backbones.fingerprint("embedded-ranker", used.config.models),
        "query_length": None,
        "max_length": None,
        "precision": "auto",
    }
    tokenize = scorer_of(used, "given").tokenize
    assert (tokenize.query_length, tokenize.max_length) == (12, 32)
    assert used.run("given", "de", "testA")


def test_another_file_makes_its_outputs_stale(used, packed):
    models = used.config.models
    before = backbones.fingerprint("embedded-ranker", models)
    file = packed / "ranker.safetensors"
    content = file.read_bytes()
    file.write_bytes(content + b" ")
    assert backbones.fingerprint("embedded-ranker", models) != before
    file.write_bytes(content)
    assert backbones.fingerprint("embedded-ranker", models) == before


def test_a_start(used):
    from safetensors.torch import load_file

    step = rank.plan(used)["ranker/longer"]
    assert step.recipe["settings"]["weights"] == backbones.fingerprint(
        "embedded-ranker", used.config.models
    )
    start = load_file(embedded_ranker.folder(used.config.models) / "model.safetensors")
    longer = load_file(step.path / "model" / "model.safetensors")
    moved = {name: float((longer[name] - start[name]).abs().max()) for name in start}
    words = "bert.embeddings.word_embeddings.weight"
    assert moved[words] == 0
    assert 0 < moved["classifier.weight"] < 2e-3  # one step at a rate of 1e-3
    assert rankers.note_chain(used, "longer") == "embedded-ranker → longer"


def test_a_teacher(used):
    steps = rank.plan(used)
    inputs = steps["ranker/taught"].recipe["inputs"]
    assert inputs["ranker/given"] == steps["ranker/given"].fingerprint


@pytest.mark.parametrize("backend, within", [("torch", 1e-5), ("openvino", 1e-4)])
def test_from_python(used, backend, within):
    """Without a configuration; the models' folder is the work folder's."""
    expected = scorer_of(used, "given")(*PAIRS)
    reranker = Reranker("embedded-ranker", backend, models=used.config.models)
    own = [reranker.score(query, [text])[0] for query, text in zip(*PAIRS, strict=True)]
    assert own == pytest.approx(expected, abs=within)


def test_exported(used, tmp_path):
    from sentence_transformers import CrossEncoder

    export(used, "given", tmp_path / "out")
    theirs = CrossEncoder(str(tmp_path / "out"), device="cpu")
    expected = scorer_of(used, "given")(*PAIRS)
    assert theirs.predict(list(zip(*PAIRS, strict=True))) == pytest.approx(expected, abs=1e-5)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["continuum"] == {"query_length": 12, "max_length": 32}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "base_model: intfloat/multilingual-e5-small" in card


def test_it_can_be_packed_again(used, tmp_path):
    """A training that started from it is again a difference of the encoder."""
    embed.embed(used, "longer", tmp_path / "again", "")
    again = embedded_ranker.read(tmp_path / "again" / "ranker.safetensors")
    first = embedded_ranker.read(embedded_ranker.FILE)
    assert again.encoder == first.encoder and again.training != first.training


# ---- What is refused


@pytest.mark.parametrize(
    "name, message",
    [
        ("thin", "ranker thin: has another body than the embedded encoder: it lacks bert.encoder"),
        ("moved", "word_embeddings.weight is not the embedded encoder's: its word embeddings were"),
        ("none", "found the ranker 'none', expected one of trained, thin, moved"),
    ],
)
def test_rankers_that_are_none(trained, tmp_path, name, message):
    with pytest.raises(InputError) as error:
        embed.embed(trained, name, tmp_path / "out", "")
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_given_model_is_not_packed(used, tmp_path):
    with pytest.raises(
        InputError, match="ranking: given is a given model; only a training can be embedded"
    ):
        embed.embed(used, "given", tmp_path / "out", "")


def test_a_folder_of_something_else(trained, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError) as error:
        embed.embed(trained, "trained", tmp_path, "")
    assert str(error.value) == (
        f"{tmp_path}: holds notes.txt, expected a new folder, or one with "
        "README.md and ranker.safetensors alone; name another"
    )


def test_bits_that_cost_too_much(trained, tmp_path):
    cost = embed.Cost(20, 0.8, 0.9, 0.85, 0.7)
    rerank = trained.config.ranking.rerank.model_copy(update={"tolerance": 0.002})
    ranking = trained.config.ranking.model_copy(update={"rerank": rerank})
    task = Task(trained.config.model_copy(update={"ranking": ranking}))
    with pytest.raises(InputError) as error:
        embed.refuse_dear(task, "trained", cost)
    assert str(error.value).startswith(
        "trained as packed: nDCG@10 0.8500 against 0.9000 as trained on 20 dev queries, Kendall's "
        "tau of a query's candidates 0.700: differs by more than ranking.rerank.tolerance=0.002"
    )


def test_its_name_is_its_own(tiny, trained):
    config = configured(tiny, "named", "\n    embedded-ranker: {recipe: ns2}")
    with pytest.raises(InputError) as error:
        rank.plan(Task(config))
    assert str(error.value) == (
        "ranking: a ranker cannot be named 'embedded-ranker', that is the ranker that comes with "
        "Continuum; give it another name (its model or start may be embedded-ranker)"
    )


def test_it_is_no_body(tiny, packed):
    with pytest.raises(InputError) as error:
        backbones.backbone("embedded-ranker")
    assert str(error.value) == (
        "embedded-ranker is a finished cross-encoder, expected a body; "
        "name it as model=embedded-ranker or start=embedded-ranker of a ranker"
    )
    assert backbones.sized("embedded-ranker").hidden == 384


def test_a_start_that_is_none(tiny, trained):
    config = configured(tiny, "starts", "\n    a: {recipe: ns2, start: embeded-ranker}")
    with pytest.raises(InputError) as error:
        rank.plan(Task(config))
    assert str(error.value) == (
        "ranking: a starts from 'embeded-ranker', expected one of embedded-ranker, "
        "or a folder with a cross-encoder"
    )
