"""The instruction set for a model that is to sum up."""

import json

import little
import pytest

from core.errors import InputError
from core.settings import Config
from retrieval.encoders import instructions
from retrieval.encoders.negatives import __main__ as negatives
from tests import loopback


@pytest.fixture
def config(tmp_path, little_body):
    little.write_collection(tmp_path / "little")

    def make(**encoders):
        return Config.model_validate(
            {
                "name": "test",
                "work": str(tmp_path / "work"),
                "collection": {"path": str(tmp_path / "little")},
                "retrieval": {
                    "sources": ["dense"],
                    "dense": {"backbone": str(little_body)},
                    "encoders": encoders,
                },
            }
        )

    return make


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_an_example_a_training_query(config, tmp_path):
    assert instructions.run(config(), tmp_path / "out") == {"en": 12, "sw": 12}
    first, *_ = lines(tmp_path / "out" / "sw.jsonl")
    word = little.word(0, 1)
    assert first == {
        "instruction": instructions.INSTRUCTIONS["sw"],
        "input": f"{word}?\n\n{word} is a thing.",
        "output": f"{word} is a thing.",
    }


def test_every_language_of_miracl_has_its_own():
    codes = "ar bn de en es fa fi fr hi id ja ko ru sw te th yo zh".split()
    assert sorted(instructions.INSTRUCTIONS) == codes
    assert len(set(instructions.INSTRUCTIONS.values())) == 18


def test_summaries_of_a_language_model(config, tmp_path, little_body):
    server = loopback.Server(
        lambda m: (
            loopback.says('{"query": "?"}')
            if "summary" in m
            else loopback.says(json.dumps({"summary": f"on {m['question']}"}))
        )
    )
    with server.running():
        own = config(
            mine={
                "backbone": str(little_body),
                "negatives": ["from_ensemble", "generate"],
                "from_ensemble": {"systems": ["dense"], "depth": 3},
                "generate": {
                    "by": "endpoint",
                    "number": 3,
                    "endpoint": {"base_url": server.url, "model": "toy"},
                },
            },
            other={"backbone": str(little_body)},
        )
        with pytest.raises(InputError, match="no language model has written summaries for its"):
            instructions.run(own, tmp_path / "out", "mine")
        negatives.run(own)
    counts = instructions.run(own, tmp_path / "out", "mine")
    assert 0 < sum(counts.values()) == len(server.materials()) // 2
    for example in lines(tmp_path / "out" / "en.jsonl"):
        query, _, _ = example["input"].partition("\n")
        assert example["output"] == f"on {query}"
    with pytest.raises(InputError, match="found 'other', expected one whose generate is .*: mine"):
        instructions.run(own, tmp_path / "out", "other")


def test_a_language_without_an_instruction(tmp_path):
    path = tmp_path / "xx.jsonl"
    assert instructions.write(path, "xx", iter([("q", "p", "s")])) == 1
    assert lines(path)[0]["instruction"] == instructions.INSTRUCTIONS["en"]
