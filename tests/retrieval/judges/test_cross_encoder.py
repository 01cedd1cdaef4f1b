"""A cross-encoder's scores as grades."""

import json

import numpy as np
import pytest
import torch

from core.answers import Answers
from core.errors import InputError
from core.judging import CrossEncoderJudge, Judge
from retrieval.judges import Question, fingerprint, judge
from retrieval.judges.cross_encoder import CrossEncoder, grade
from tests.ranking import small

QUERY = "where is tea"
TEXTS = ["tea grows in kenya", "nairobi", "the capital of norway " * 9, "tea"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small.write(tmp_path_factory.mktemp("small") / "judge")


def logit(model, passage):
    """By transformers, one pair alone."""
    own = small.body()
    tokenizer = small.tokenizer()
    inputs = tokenizer(QUERY, passage, truncation=True, max_length=40, return_tensors="pt")
    with torch.no_grad():
        return float(own.eval()(**inputs).logits[0, 0])


def test_thresholds():
    settings = CrossEncoderJudge(partial=-3.0, full=-1.0)
    assert [grade(score, settings) for score in (-3.1, -3.0, -1.1, -1.0, 5.0)] == [0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="partial at most full; 1 > -1"):
        CrossEncoderJudge(partial=1.0)


def test_scores_are_the_models_own(model, tmp_path):
    settings = CrossEncoderJudge(model=str(model), batch_tokens=64)
    own = CrossEncoder(settings, False, tmp_path, tmp_path / "a.sqlite")
    scores = own.scores([(QUERY, text) for text in TEXTS])
    for text in TEXTS:
        assert scores[QUERY, text] == pytest.approx(logit(model, text), abs=1e-5)


@pytest.mark.parametrize("reference", [True, False])
def test_grades_by_the_score_or_by_its_distance_from_the_references(model, tmp_path, reference):
    alone = [logit(model, text) for text in TEXTS]
    measured = np.array(alone) - (alone[0] if reference else 0.0)
    partial, full = sorted(measured)[1] - 1e-4, sorted(measured)[2] - 1e-4
    thresholds = {"model": str(model), "partial": float(partial), "full": float(full)}
    settings = Judge(reference=reference, cross_encoder=CrossEncoderJudge(**thresholds))
    own = judge(settings, tmp_path, tmp_path / "answers")
    found = own.grades([Question(QUERY, TEXTS[0], text) for text in TEXTS])
    expected = [int(value >= partial) + int(value >= full) for value in measured]
    assert found == expected and sorted(expected) == [0, 1, 2, 2]
    assert own.described() == ""


def test_no_score_is_made_twice(model, tmp_path, monkeypatch):
    settings = Judge(cross_encoder=CrossEncoderJudge(model=str(model)))
    questions = [Question(QUERY, TEXTS[0], text) for text in TEXTS]
    first = judge(settings, tmp_path, tmp_path / "answers").grades(questions)
    made = []
    logits = CrossEncoder.logits
    monkeypatch.setattr(CrossEncoder, "logits", lambda o, p: made.append(p) or logits(o, p))
    again = judge(settings, tmp_path, tmp_path / "answers")
    assert again.grades(questions) == first and made == [] and again.model is None
    assert again.grades([Question(QUERY, TEXTS[0], "norway")]) in ([0], [1], [2])
    assert made == [[(QUERY, "norway")]]
    other = Judge(cross_encoder=CrossEncoderJudge(model=str(model), max_length=12))
    judge(other, tmp_path, tmp_path / "answers").grades(questions)
    assert len(made[-1]) == 4, "other lengths are other scores"


def test_a_stopped_judging_has_kept_its_parts(model, tmp_path, monkeypatch):
    monkeypatch.setattr("retrieval.judges.cross_encoder.AT_ONCE", 2)
    settings = CrossEncoderJudge(model=str(model))
    own = CrossEncoder(settings, False, tmp_path, tmp_path / "a.sqlite")
    logits = CrossEncoder.logits

    def stopped(self, pairs):
        if (QUERY, TEXTS[2]) in pairs:
            raise KeyboardInterrupt
        return logits(self, pairs)

    monkeypatch.setattr(CrossEncoder, "logits", stopped)
    with pytest.raises(KeyboardInterrupt):
        own.scores([(QUERY, text) for text in TEXTS])
    assert len(Answers(tmp_path / "a.sqlite")) == 2


def test_models_that_are_none(model, tmp_path):
    def graded(name):
        own = CrossEncoder(
            CrossEncoderJudge(model=str(name)), False, tmp_path, tmp_path / "b.sqlite"
        )
        return own.grades([Question(QUERY, "", "tea")])

    small.write(tmp_path / "two", num_labels=2)
    with pytest.raises(InputError, match="has 2 labels, expected a cross-encoder with one"):
        graded(tmp_path / "two")
    broken = small.body()
    broken.classifier.bias.data.fill_(float("nan"))
    broken.save_pretrained(tmp_path / "nan")
    small.tokenizer().save_pretrained(tmp_path / "nan")
    with pytest.raises(InputError, match=r"the query 'where is tea' and the passage 'tea' is not"):
        graded(tmp_path / "nan")
    with pytest.raises(InputError, match="nowhere"):
        graded("nowhere")


def test_another_model_judges_by_itself(model, tmp_path):
    before = fingerprint(Judge(cross_encoder=CrossEncoderJudge(model=str(model))), tmp_path)
    other = small.write(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    after = fingerprint(Judge(cross_encoder=CrossEncoderJudge(model=str(other))), tmp_path)
    assert before != after
