"""A trained ranker out of the house: the same scores in sentence-transformers, in plain transformers and from Python."""

import json

import numpy as np
import pytest
import torch
import yaml

from core.errors import InputError
from core.task import Task
from ranking import Reranker, backends, rank, rankers
from ranking.export import export

TEXTS = (
    ["capital of Kenya", "what is a fjord"],
    ["Nairobi\nNairobi is the capital of Kenya. " * 9, "A fjord is a long narrow inlet."],
)


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "large"
    export(trained[0], "large", folder)
    return folder


@pytest.fixture(scope="module")
def expected(trained):
    task, _ = trained
    return rankers.load(task, "large", rank.plan(task)["ranker/large"])(*TEXTS)


def test_sentence_transformers_scores_as_we_do(folder, expected):
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu")
    assert model.predict(list(zip(*TEXTS))) == pytest.approx(expected, abs=1e-5)


def test_plain_transformers_scores_as_we_do(folder, expected):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(folder)(
        *TEXTS, truncation="only_second", padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        assert AutoModelForSequenceClassification.from_pretrained(folder).eval()(**inputs).logits[
            :, 0
        ].numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "backend, precision, within",
    [("torch", "auto", 1e-4), ("openvino", "auto", 1e-4), ("openvino", "bf16", 0.05)],
)
def test_from_python(folder, expected, backend, precision, within):
    reranker = Reranker(folder, backend, precision)
    assert [reranker.score(q, [p])[0] for q, p in zip(*TEXTS)] == pytest.approx(
        expected, abs=within
    )
    scores = reranker.score("tea", [*TEXTS[1], TEXTS[1][0]])
    found = reranker.rank("tea", [*TEXTS[1], TEXTS[1][0]])
    assert (
        [i for i, _ in found] == sorted(range(3), key=lambda i: -scores[i])
        and reranker.rank("tea", TEXTS[1], k=1) == found[:1]
        or len(found) == 3
    )
    assert np.isfinite(scores).all()


def test_scores_of_two_number_formats_are_kept_apart(folder):
    assert [backends.openvino_backend(folder, f)[2] for f in ("fp32", "bf16", "fp16")] == [
        "openvino fp32",
        "openvino bf16",
        "openvino fp32",
    ]


def test_the_card_and_where_it_came_from(folder, trained):
    text = (folder / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert (
        head["language"] == ["en", "sw"] and head["base_model"] == "intfloat/multilingual-e5-small"
    )
    step = rank.plan(trained[0])["ranker/large"]
    state = json.loads((step.path / "training.json").read_text())
    assert (
        "pre → large" in text
        and f"| first stage | {state['first_stage']:.4f} |" in text
        and step.fingerprint in text
    )
    assert json.loads((folder / "provenance.json").read_text())["recipe"] == step.recipe
    assert not [p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pkl")]


def test_errors(trained, folder, tmp_path):
    task, _ = trained
    with pytest.raises(
        InputError, match="found the ranker 'huge', expected one of pre, large, small, taught"
    ):
        export(task, "huge", tmp_path / "x")
    with pytest.raises(InputError, match="is there already; name a new folder"):
        export(task, "large", folder)
    other = Task(
        task.config.model_copy(
            update={
                "ranking": task.config.ranking.model_copy(
                    update={
                        "rankers": {
                            "small": task.config.ranking.rankers["small"].model_copy(
                                update={"steps": 77}
                            )
                        }
                    }
                )
            }
        )
    )
    with pytest.raises(
        InputError, match="small is not trained with these settings; run ranking/run.sh"
    ):
        export(other, "small", tmp_path / "x")
    with pytest.raises(
        InputError, match="holds no config.json; expected a folder with a cross-encoder"
    ):
        Reranker(tmp_path)
    (tmp_path / "config.json").write_text('{"id2label": {"0": "a", "1": "b"}}')
    with pytest.raises(InputError, match="has 2 labels, expected a cross-encoder with one"):
        Reranker(tmp_path)
