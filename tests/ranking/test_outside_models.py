"""Models from outside: damaged, not of one piece, or with code of their own."""

import json
import shutil
import sys

import pytest
import small
from safetensors.torch import load_file, save_file

from core import backbones, cross_encoders
from core.errors import InputError
from core.settings import Ranker
from ranking import Reranker, backends, given
from ranking.trainings import check_positions

CODE = """
from pathlib import Path
Path({place!r}).write_text("foreign code ran")
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast
"""


@pytest.fixture
def folder(tmp_path):
    return small.write(tmp_path / "model")


def edit(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def with_code(folder, place):
    """``folder`` with a model, a configuration and a tokenizer of its own."""
    (folder / "own.py").write_text(CODE.format(place=str(place)))
    edit(
        folder / "config.json",
        model_type="own",
        auto_map={
            "AutoConfig": "own.BertConfig",
            "AutoModel": "own.BertForSequenceClassification",
            "AutoModelForSequenceClassification": "own.BertForSequenceClassification",
        },
    )
    edit(
        folder / "tokenizer_config.json",
        tokenizer_class="Own",
        auto_map={"AutoTokenizer": [None, "own.BertTokenizerFast"]},
    )


DOORS = {
    "Reranker": lambda folder: Reranker(folder),
    "score": lambda folder: backends.load_model(folder, "fp32"),
    "given": lambda folder: cross_encoders.load(str(folder)),
    "encoder": lambda folder: backbones.load_encoder(str(folder)),
    "cross_encoder": lambda folder: backbones.load_cross_encoder(str(folder)),
    "tokenizer": lambda folder: backbones.load_tokenizer(str(folder)),
}


@pytest.mark.parametrize("door", DOORS)
def test_code_of_a_model_is_not_run(door, folder, tmp_path, monkeypatch):
    """transformers asks, and a pipe answered yes."""
    with_code(folder, tmp_path / "ran")
    with (tmp_path / "yes").open("w+") as yes:
        yes.write("y\n" * 100)
        yes.seek(0)
        monkeypatch.setattr(sys, "stdin", yes)
        with pytest.raises(InputError):
            DOORS[door](folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("door", ["Reranker", "score", "given", "encoder", "cross_encoder"])
def test_weights_of_other_names_are_refused(door, folder):
    """Each tensor was drawn at random, and the scores meant nothing."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    save_file({f"x.{name}": tensor for name, tensor in tensors.items()}, file, {"format": "pt"})
    with pytest.raises(InputError, match="its weights lack"):
        DOORS[door](folder)


@pytest.mark.parametrize("door", ["Reranker", "score", "given", "encoder", "cross_encoder"])
def test_more_layers_than_the_weights_have(door, folder):
    edit(folder / "config.json", num_hidden_layers=7)
    with pytest.raises(InputError, match="its weights lack"):
        DOORS[door](folder)


@pytest.mark.parametrize("door", ["Reranker", "score", "given", "encoder", "cross_encoder"])
def test_fewer_layers_than_the_weights_have(door, folder):
    edit(folder / "config.json", num_hidden_layers=1)
    with pytest.raises(InputError, match="tensors of layers that its config.json does not know"):
        DOORS[door](folder)


def test_fewer_layers_that_were_asked_for(folder):
    assert backbones.load_encoder(str(folder), layers=1).config.num_hidden_layers == 1
    assert backbones.load_cross_encoder(str(folder), layers=1).config.num_hidden_layers == 1


CONFIGS = {
    "not JSON": "{",
    "a list": "[]",
    "empty": "",
    "null": "null",
    "of no architecture": "{}",
    "of texts": '{"model_type": "bert", "num_hidden_layers": "two", "hidden_size": []}',
    "of strange numbers": '{"model_type": "bert", "num_attention_heads": 0, "num_labels": 1}',
    "deep": "[" * 50000,
}


@pytest.mark.parametrize("content", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("door", [name for name in DOORS if name != "tokenizer"])
def test_broken_config(door, content, folder):
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match="model"):
        DOORS[door](folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff" * 40, b"null"])
def test_broken_files(name, content, folder):
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match="model: "):
        Reranker(folder)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "modules.json, line 1: found text that is not JSON"),
        ("[5]", "modules.json is no list of modules"),
        ('[{"type": 5, "path": ""}]', "modules.json is no list of modules"),
        ('[{"type": "Transformer", "path": ""}]', "modules.json is no list of modules"),
        ('{"a": 5}', "modules.json is no list of modules"),
    ],
)
def test_broken_modules(content, message, folder):
    (folder / "modules.json").write_text(content)
    with pytest.raises(InputError, match=message):
        given.refuse_modules(str(folder))


@pytest.mark.parametrize(
    "values, message",
    [
        ({"num_hidden_layers": "two"}, "num_hidden_layers: found 'two', expected a whole number"),
        ({"hidden_size": 0}, "hidden_size: found 0, expected a whole number above 0"),
    ],
)
def test_sizes_that_are_none(values, message, folder):
    edit(folder / "config.json", **values)
    with pytest.raises(InputError, match=message):
        backbones.sized(str(folder))


def test_pairs_that_are_longer_than_the_positions(folder):
    """It failed in the middle of the training, at the first long text."""
    body = backbones.load_cross_encoder(str(folder))
    tokenizer = backbones.load_tokenizer(str(folder))
    most = body.config.max_position_embeddings
    with pytest.raises(
        InputError, match=f"ranking: long: max_length: found {most + 1}, expected at most {most}, "
    ):
        check_positions("long", Ranker(max_length=most + 1), body, tokenizer)
    check_positions("long", Ranker(max_length=most), body, tokenizer)
    shutil.rmtree(folder)
