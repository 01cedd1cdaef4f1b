"""New queries from what a positive says about a query."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from core.encoders import Encoder
from core.errors import InputError
from core.passages import Passages, build_passages
from core.records import Document
from retrieval.encoders.negatives.writers import (
    QUERY,
    SUMMARY,
    Keywords,
    LanguageModel,
    Similar,
    summary,
    words,
)
from tests import loopback

TEXTS = {
    "p0": "The river Tana rises in the Aberdare range. It flows to the ocean. It is long.",
    "p1": "The ocean is deep. The river is long.",
    "p2": "The range is in the north.",
    "p3": "It is long. The ocean and the river meet there.",
}


@pytest.fixture
def mining(tmp_path):
    (tmp_path / "en").mkdir()
    build_passages((Document(docid, "", text) for docid, text in TEXTS.items()), tmp_path / "en")

    def make(**generate):
        return SimpleNamespace(
            name="mine",
            settings=Encoder(generate=generate),
            queries=lambda language: {"1": "where does the Tana rise?", "2": "?", "3": "gone"},
            passages=lambda language: Passages(tmp_path / language),
            reference=lambda language, qid: {"1": "p0", "2": "p3"}.get(qid),
            answers=tmp_path / "answers",
        )

    return make


# ---- Keywords


def test_the_rarest_words_of_what_is_said():
    passage = "One thing. Nairobi is large! A second thing? Nairobi lies high.\nThe last."
    assert summary("how large is Nairobi", passage) == "Nairobi is large! Nairobi lies high."
    assert summary("ქართული", passage) == "One thing.", "another script"
    assert summary("x", "") == ""


def test_keywords_by_hand(mining):
    own = Keywords(mining(keywords=3), "en")
    assert own.passages_with["river"] == 3 and own.passages_with["tana"] == 1
    # aberdare, flows, rises, tana and to are in one passage of four: equal, so by the alphabet,
    # and then as they stand in the passage. The third query has no passage
    assert own.queries(["1", "3"]) == {"1": "rises aberdare flows"}
    assert own.described() == ""


def test_words_of_languages_with_and_without_spaces():
    assert words("It's A mother-in-law, 42 _x_", "en") == ["it's", "mother-in-law", "42"]
    assert words("東京都 は", "ja") == ["東京", "京都"]
    assert words("สวัสดีครับ", "th") == ["สวัสดี", "ครับ"]


# ---- Similar training queries


def test_neighbours_among_the_training_queries(mining, monkeypatch):
    vectors = np.array([[1, 0], [0.9, 0.1], [0, 1]], np.float32)
    own = mining(by="similar", neighbours=1)
    own.task = None
    own.runs = {("bm25", "en"): "lexical", ("dense", "en"): "dense"}
    behind = {
        "lexical": SimpleNamespace(vectors=None),
        "dense": SimpleNamespace(vectors="vectors"),
    }
    encoder = SimpleNamespace(encode_queries=lambda texts: vectors)
    monkeypatch.setattr("retrieval.searching.behind", lambda step, language: behind[step])
    monkeypatch.setattr("retrieval.searching.encoder", lambda task, made_from: encoder)
    writer = Similar(own, "en")
    assert writer.queries(["1", "3"]) == {"1": "?", "3": "?"}
    assert writer.queries([]) == {}
    behind["dense"] = behind["lexical"]
    with pytest.raises(InputError, match="mine.generate.by: found similar, but none of .*has vec"):
        Similar(own, "en")


# ---- A language model


def replies(material):
    if "passage" in material:
        return loopback.says(json.dumps({"summary": f"about {material['question'][:5]}"}))
    return loopback.says(json.dumps({"query": f"more {material['summary']}"}))


def test_a_summary_and_a_query_from_it(mining, tmp_path):
    server = loopback.Server(replies)
    with server.running():
        settings = {"base_url": server.url, "model": "toy", "longest": 9}
        own = LanguageModel(mining(by="endpoint", endpoint=settings), "en")
        assert own.queries(["1", "2", "3"]) == {"1": "more about where", "2": "more about ?"}
    first, _, third, _ = server.materials()
    assert {"where does the Tana rise?", "?"} == {m["question"] for m in server.materials()[:2]}
    assert first["passage"] in ("The river", "It is lon")
    assert set(third) == {"summary"}, "the passage is not shown again"
    assert own.described().startswith("4 requests")


def test_a_model_that_gives_no_summary(mining):
    server = loopback.Server(
        lambda m: loopback.says("?") if m.get("question") == "?" else replies(m)
    )
    with server.running():
        settings = {"base_url": server.url, "model": "toy", "attempts": 1, "unanswered": 0.5}
        own = LanguageModel(mining(by="endpoint", endpoint=settings), "en")
        assert own.queries(["1", "2"]) == {"1": "more about where"}


@pytest.mark.parametrize(
    "text, fault",
    [
        ("{", "it is not JSON"),
        ('{"query": "a"}', "no object with the key summary alone"),
        ('{"summary": " "}', "summary is no text"),
        ('{"summary": 3}', "summary is no text"),
    ],
)
def test_replies_that_are_none(text, fault):
    with pytest.raises(ValueError, match=fault):
        SUMMARY.read(text)
    assert QUERY.read('{"query": " a? "}') == "a?"
