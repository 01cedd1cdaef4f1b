"""A ranker out of the house: the same scores in sentence-transformers, transformers and Python."""

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
    assert model.predict(list(zip(*TEXTS, strict=True))) == pytest.approx(expected, abs=1e-5)


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
    own = [reranker.score(query, [text])[0] for query, text in zip(*TEXTS, strict=True)]
    assert own == pytest.approx(expected, abs=within)
    passages = [*TEXTS[1], TEXTS[1][0]]
    scores = reranker.score("tea", passages)
    ranking = reranker.rank("tea", passages)
    assert [place for place, _ in ranking] == sorted(range(3), key=lambda place: -scores[place])
    assert [score for _, score in ranking] == sorted(scores, reverse=True)
    assert reranker.rank("tea", passages, k=1) == ranking[:1]
    assert np.isfinite(scores).all()


def test_scores_of_two_number_formats_are_kept_apart(folder):
    assert [backends.openvino_backend(folder, f)[2] for f in ("fp32", "bf16", "fp16")] == [
        "openvino fp32",
        "openvino bf16, head in fp32",
        "openvino fp32",
    ]


def test_a_model_that_overflows_in_fp16(tmp_path, monkeypatch):
    """``Reranker`` asked for fp16 where the configuration's own scoring refuses it."""
    import small

    small.tokenizer().save_pretrained(tmp_path)
    config = {"model_type": "deberta-v2", "id2label": {"0": "LABEL_0"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(InputError, match="found fp16, expected bf16 or fp32: this backbone over"):
        Reranker(tmp_path, precision="fp16")


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


@pytest.mark.parametrize(
    "words",
    [
        ["CONFIG", "seed=3", "large", "OUT"],
        ["CONFIG", "large", "OUT", "seed=3"],
        ["CONFIG", "large", "seed=3", "OUT"],
    ],
)
def test_settings_may_stand_anywhere(tmp_path, monkeypatch, words):
    """``CONFIG RANKER FOLDER key=value`` refused the ranker as a setting."""
    from core.config import from_arguments
    from ranking.export import add_arguments

    path = tmp_path / "one.yaml"
    path.write_text(f"collection: {{path: {tmp_path}}}\n")
    places = {"CONFIG": str(path), "OUT": str(tmp_path / "out")}
    monkeypatch.setattr("sys.argv", ["export", *(places.get(word, word) for word in words)])
    config, options = from_arguments("test", add_arguments)
    assert (config.seed, options.ranker, options.folder) == (3, "large", tmp_path / "out")


def test_a_word_that_is_no_setting(tmp_path, monkeypatch):
    from core.config import from_arguments
    from ranking.export import add_arguments

    path = tmp_path / "one.yaml"
    path.write_text(f"collection: {{path: {tmp_path}}}\n")
    monkeypatch.setattr("sys.argv", ["export", str(path), "seed", "large", "out"])
    with pytest.raises(InputError, match="argument 'seed': expected key=value"):
        from_arguments("test", add_arguments)
