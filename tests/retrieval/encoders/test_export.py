"""An encoder out of the house: the same vectors in sentence-transformers, with its card."""

import json

import little
import numpy as np
import pytest
import yaml

from core.artefacts import TrainedEncoder
from core.errors import InputError
from core.settings import Config
from core.task import Task
from retrieval import retrievers, search
from retrieval.encoders import dev, encoders
from retrieval.encoders.export import export

SHORT = {
    "steps": 2,
    "batch_size": 4,
    "evaluate_every": 1,
    "precision": "fp32",
    "learning_rate": 1e-3,
    "query_length": 12,
    "passage_length": 24,
    "dev": {"queries": 2, "passages": 12},
}


@pytest.fixture(scope="module")
def task(tmp_path_factory, little_body):
    """``first`` has learned from spans; ``tuned``, of two bodies, from queries; ``late`` not."""
    folder = tmp_path_factory.mktemp("export")
    little.write_collection(folder / "little")
    (folder / "runs").mkdir()
    for language in ("en", "sw"):
        for split in ("train", "dev"):
            (folder / "runs" / f"{language}-{split}.trec").write_text("")
    first = {"pairs": "crop", "crop": {"document": 20}, "similarity": "dot"}
    drawn = {"backbone": str(little_body), "random_weights": True}
    tuned = {"method": "dpr", "start": "first", "towers": "separate", "similarity": "cosine"}
    encoders_of = {
        "first": {**SHORT, **first, **drawn},
        "tuned": {**SHORT, **tuned},
        "late": {**SHORT, "backbone": str(little_body)},
    }
    values = {
        "name": "test",
        "work": str(folder / "work"),
        "collection": {"path": str(folder / "little")},
        "retrieval": {
            "sources": ["run"],
            "run": str(folder / "runs"),
            "encoders": encoders_of,
        },
    }
    made = Task(Config.model_validate(values))
    search.plan(made)
    encoders.make(made, [made.step(TrainedEncoder("tuned"))])
    return made


@pytest.mark.parametrize("name", ["first", "tuned"])
def test_sentence_transformers_gives_the_vectors_of_the_pipeline(task, tmp_path, name):
    from sentence_transformers import SentenceTransformer

    export(task, name, tmp_path / "out")
    opened = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    ours = retrievers.encoder_of(task, task.step(TrainedEncoder(name)))
    texts = ["bado?", "bado is a thing. more", "abc " * 60]
    for own, theirs in (
        (ours.encode_queries(texts), opened.encode_query(texts)),
        (ours.encode_passages(texts), opened.encode_document(texts)),
    ):
        assert np.allclose(own, theirs, atol=1e-5)
    assert opened.similarity_fn_name == ("cosine" if name == "tuned" else "dot")


def test_the_card_and_where_it_came_from(task, tmp_path):
    export(task, "tuned", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["language"] == ["en", "sw"] and head["pipeline_tag"] == "sentence-similarity"
    assert "base_model" not in head, "its weights were drawn anew"
    step = task.step(TrainedEncoder("tuned"))
    best_step = json.loads((step.path / "training.json").read_text())["best_step"]
    values = dev.read(step.path)[best_step]
    row = f"(step {best_step}) | {values['MRR@100']:.4f} | {values['Recall@100']:.4f} |"
    assert row in text and "before training | " in text
    assert "by method `dpr`: all layers of body (its architecture, weights drawn anew)" in text
    assert "first → tuned" in text and step.fingerprint in text
    assert "judged queries in en, sw" in text and "2 steps of 4 examples" in text
    assert str(tmp_path.parent) not in text, "no place of this machine"
    noted = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert noted["recipe"] == step.recipe
    assert not [p for p in (tmp_path / "out").rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]


def test_the_embedded_encoder_is_the_base(task):
    from retrieval.encoders.export import about, base_of

    own = task.config.retrieval.encoders["late"].model_copy(update={"backbone": "embedded"})
    retrieval = task.config.retrieval.model_copy(update={"encoders": {"late": own}})
    other = Task(task.config.model_copy(update={"retrieval": retrieval}))
    assert base_of(other, "late") == "intfloat/multilingual-e5-small"
    assert "by settings of its own: all layers of intfloat/multilingual-e5-small, late." in about(
        other, "late"
    )
    assert base_of(task, "late") is None, "a folder's"


def test_errors(task, tmp_path):
    message = "found the encoder 'huge', expected one of first, tuned, late"
    with pytest.raises(InputError, match=message):
        export(task, "huge", tmp_path / "out")
    with pytest.raises(InputError, match="late is not trained with these settings; run python -m"):
        export(task, "late", tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="out: is there already; name a new folder"):
        export(task, "first", tmp_path / "out")
