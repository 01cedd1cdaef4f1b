"""The bi-encoder: the same vectors by torch, by sentence-transformers and by the dense source."""

import json

import little
import numpy as np
import pytest
import torch

from core.errors import InputError
from retrieval import encoder
from retrieval.bodies import load_body

TEXTS = ["tea grows in kenya", "a", "where is it?", "oslo is a long way from there and back again"]
PREFIXES = {"query": "q: ", "passage": "p: "}
LENGTHS = {"query": 8, "passage": 20}


def made(towers="shared", pooling="mean", normalise=True):
    bodies = {"shared": little.body()}
    if towers == "separate":
        bodies = {"query": little.body(1), "passage": little.body(2)}
    return encoder.BiEncoder(bodies, pooling, normalise)


def by_hand(model, texts, side):
    """One text at a time, without padding."""
    tokenize = little.tokenizer()
    vectors = []
    for text in texts:
        ids = tokenize(PREFIXES[side] + text, truncation=True, max_length=LENGTHS[side])
        row = torch.tensor([ids["input_ids"]])
        hidden = model.towers[model.tower(side)](row, torch.ones_like(row)).last_hidden_state[0]
        vector = hidden[0] if model.pooling == "cls" else hidden.mean(0)
        vectors.append(vector / vector.norm() if model.normalise else vector)
    return torch.stack(vectors).detach().numpy()


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("towers, pooling", [("shared", "mean"), ("separate", "cls")])
def test_the_same_vectors_everywhere(tmp_path, towers, pooling, normalise):
    from sentence_transformers import SentenceTransformer

    model = made(towers, pooling, normalise)
    layout = encoder.Layout(pooling, normalise, PREFIXES)
    encoder.save(model.bfloat16().float(), little.tokenizer(), layout, LENGTHS, tmp_path / "m")
    expected = {side: by_hand(model, TEXTS, side) for side in encoder.SIDES}
    assert np.abs(expected["query"][0] - expected["passage"][0]).max() > 1e-3

    opened = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    assert np.allclose(opened.encode_query(TEXTS), expected["query"], atol=1e-5)
    assert np.allclose(opened.encode_document(TEXTS), expected["passage"], atol=1e-5)
    assert opened.similarity_fn_name == ("cosine" if normalise else "dot")

    body = load_body(str(tmp_path / "m"), tmp_path, None, 256, 64, "fp32", {}, "torch")
    assert np.allclose(body.encode(TEXTS, "query"), expected["query"], atol=1e-5)
    assert np.allclose(body.encode(TEXTS, "passage"), expected["passage"], atol=1e-5)

    again = encoder.load(str(tmp_path / "m"), tmp_path)
    assert again.layout == layout and set(again.bodies) == set(model.towers)
    second = encoder.BiEncoder(again.bodies, again.layout.pooling, again.layout.normalise)
    assert np.allclose(by_hand(second, TEXTS, "passage"), expected["passage"], atol=1e-6)


def test_weights_are_saved_in_fp32_whatever_they_were_trained_in(tmp_path):
    from safetensors.torch import load_file

    layout = encoder.Layout("mean", True, PREFIXES)
    encoder.save(made().bfloat16(), little.tokenizer(), layout, LENGTHS, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"


def test_a_batch_gives_the_vectors_of_its_texts_alone():
    model = made()
    tokenize = little.tokenizer()
    inputs = tokenize(
        [PREFIXES["query"] + text for text in TEXTS],
        padding=True,
        truncation=True,
        max_length=8,
        return_tensors="pt",
    )
    with torch.no_grad():
        vectors = model("shared", **inputs)
    assert vectors.dtype == torch.float32
    assert np.allclose(vectors.numpy(), by_hand(model, TEXTS, "query"), atol=1e-6)
    half = made().bfloat16()
    assert half("shared", **inputs).dtype == torch.float32


def test_a_backbone_has_the_ways_of_its_entry(tmp_path, embedded_folder, models):
    found = encoder.load("embedded", models, 1)
    assert found.layout == encoder.Layout(
        "mean", True, {"query": "query: ", "passage": "passage: "}
    )
    assert list(found.bodies) == ["shared"] and found.bodies["shared"].dtype == torch.float32


def test_two_bodies_begin_alike_and_do_not_become_one():
    one = {"shared": little.body()}
    two = encoder.parted(one, "separate", "mine")
    assert two["query"] is not two["passage"]
    for name, weight in two["query"].state_dict().items():
        assert torch.equal(weight, two["passage"].state_dict()[name])
    assert encoder.parted(one, None, "mine") is one and encoder.parted(two, None, "mine") is two
    with pytest.raises(InputError, match=r"encoders.mine.towers: found shared, .* two bodies"):
        encoder.parted(two, "shared", "mine")


def test_models_that_cannot_be_trained(tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    little.write(tmp_path / "body")
    first = Transformer(str(tmp_path / "body"))
    SentenceTransformer(modules=[first, Pooling(16, "max")], device="cpu").save(
        str(tmp_path / "max"), create_model_card=False
    )
    SentenceTransformer(modules=[first, Pooling(16, "cls"), Dense(16, 4)], device="cpu").save(
        str(tmp_path / "dense"), create_model_card=False
    )
    with pytest.raises(InputError, match="found the modules Transformer, Pooling with pooling max"):
        encoder.load(str(tmp_path / "max"), tmp_path)
    with pytest.raises(InputError, match="Transformer, Pooling, Dense .*cannot be trained here"):
        encoder.load(str(tmp_path / "dense"), tmp_path)


def test_dropout_of_a_body():
    body = little.body(hidden_dropout_prob=0.1)
    encoder.set_dropout(body, 0.3)
    rates = {m.p for m in body.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.3}
