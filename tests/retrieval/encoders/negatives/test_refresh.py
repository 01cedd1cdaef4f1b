"""The search by a model in training, on the little collection's English passages.

A query i against passage j#part scores 2·i·j - j² and a bonus of the part: 1/4 for #2, 1/8
for #1. So its own three passages come first, then those of its neighbours, i - 1 and i + 1 alike.
"""

import sys

import little
import numpy as np
import pytest

from core.encoders import Encoder
from core.errors import InputError
from core.settings import Config
from core.task import Task
from retrieval import dense, search
from retrieval.encoders.material import Material
from retrieval.encoders.negatives import NEGATIVES, refresh
from retrieval.encoders.negatives.mining import Mining
from retrieval.encoders.negatives.pools import Pools
from retrieval.encoders.negatives.refresh import Refreshed
from retrieval.encoders.pairs.labelled import Labelled
from retrieval.encoders.texts import Corpus

NUMBERS = {little.word(number, 0): number for number in range(16)}
PARTS = {"is": 0, "was": 1, "will": 2}


class Encode:
    """Vectors of two numbers, of which ``bonus`` adds to a passage's score by its part."""

    def __init__(self, bonus=(0.0, 0.125, 0.25)):
        self.bonus = bonus

    def texts(self, texts, side):
        assert side == "query"
        numbers = [NUMBERS[text.rstrip("?")] for text in texts]
        return np.array([[2 * number, 1] for number in numbers], np.float32)

    def own(self, texts, side):
        assert side == "passage"
        vectors = []
        for text in texts:
            word, filling = text.split()[:2]
            number = NUMBERS[word]
            vectors.append([number, self.bonus[PARTS[filling]] - number**2])
        return np.array(vectors, np.float32).reshape(-1, 2)


@pytest.fixture
def task(tmp_path):
    values = {
        "name": "test",
        "work": str(tmp_path / "work"),
        "collection": {
            "source": "disk",
            "path": str(little.write_collection(tmp_path / "little", languages=["en"])),
        },
        "retrieval": {"sources": ["bm25"]},
    }
    made = Task(Config.model_validate(values))
    store = search.plan(made)["passages/en"]
    store.path.mkdir(parents=True)
    store.build(store.path)
    return made


def made(task, tmp_path, **settings):
    encoder = Encoder(**{"method": "ance", "batch_size": 4, "refresh": {"depth": 4}, **settings})
    corpus = Corpus(["en"], task.passages)
    material = Material("mine", encoder, task, ["en"], corpus, None, tmp_path / "training")
    mining = Mining("mine", encoder, task, ["en"])
    chain = {link: NEGATIVES[link] for link in encoder.negatives}
    return Refreshed(material, Labelled(material), mining, chain)


def candidates(refreshed, step, qid):
    return Pools(refreshed.folder(step) / "1-refresh" / "en.parquet").of(qid)


@pytest.mark.parametrize("block, at_once", [(262144, 16384), (7, 3)])
def test_the_best_of_all_passages_as_worked_out_by_hand(
    task, tmp_path, monkeypatch, block, at_once
):
    monkeypatch.setattr(dense, "BLOCK", block)
    monkeypatch.setattr(sys.modules[refresh.__module__], "AT_ONCE", at_once)
    refreshed = made(task, tmp_path)
    refreshed.begin(0, Encode())
    # Query 0: its #2 and #0 are relevant, and its #1 scores 1/8; then passage 1#2 at -1 + 1/4
    found = [(c.docid, c.score, c.dropped) for c in candidates(refreshed, 0, "0")]
    assert found == [
        ("p0#2", 0.25, "relevant"),
        ("p0#1", 0.125, ""),
        ("p0#0", 0.0, "relevant"),
        ("p1#2", -0.75, ""),
    ]
    # Query 1: its own at 1.25, 1.125 and 1; 0#2 and 2#2 have 1/4 each, and the first row is taken
    found = [(c.docid, c.score, c.dropped) for c in candidates(refreshed, 0, "1")]
    assert found == [
        ("p1#2", 1.25, ""),
        ("p1#1", 1.125, ""),
        ("p1#0", 1.0, "relevant"),
        ("p0#2", 0.25, ""),
    ]
    assert {c.origin for c in candidates(refreshed, 0, "1")} == {"refresh"}


def test_a_relevant_passage_that_was_not_found_has_its_score_behind_the_others(task, tmp_path):
    refreshed = made(task, tmp_path, refresh={"depth": 1})
    refreshed.begin(0, Encode())
    found = [(c.docid, c.place, c.dropped) for c in candidates(refreshed, 0, "1")]
    assert found == [("p1#2", 1, ""), ("p1#0", 2, "relevant")]
    assert candidates(refreshed, 0, "1")[1].score == 1.0


def test_select_measures_by_a_relevant_passage_below_the_depth(task, tmp_path):
    # Query 1's relevant passage has 1, so 1.25 and 1.125 are too much. One of query 0's has 1/4
    refreshed = made(
        task,
        tmp_path,
        negatives=["refresh", "select"],
        refresh={"depth": 2},
        select={"margin": 0.05},
    )
    refreshed.begin(0, Encode())
    assert drawn(refreshed, 0) == {"p0#1"}
    assert drawn(refreshed, 1) == set()
    found = Pools(refreshed.folder(0) / "2-select" / "en.parquet").of("1")
    assert [(c.docid, c.dropped) for c in found] == [
        ("p1#2", "score"),
        ("p1#1", "score"),
        ("p1#0", "relevant"),
    ]


def drawn(refreshed, number):
    """All that are drawn for an example in many batches, as docids."""
    corpus = refreshed.material.corpus
    found = set()
    for batch in range(60):
        (row,) = refreshed.draw(np.array([number]), batch)
        found |= {docid for _, docid in corpus.docids(row[row >= 0])}
    return found


def test_negatives_are_drawn_from_what_was_found_last(task, tmp_path):
    refreshed = made(task, tmp_path, refresh={"every": 5, "unit": "steps", "depth": 4})
    assert [step for step in range(16) if refreshed.waits(step)] == [0, 5, 10, 15]
    refreshed.begin(0, Encode())
    assert drawn(refreshed, 1) == {"p1#2", "p1#1", "p0#2"}
    refreshed.begin(4, None)  # not time: no model is asked
    refreshed.begin(5, Encode(bonus=(0.0, 0.25, -9.0)))
    assert drawn(refreshed, 1) == {"p1#1", "p0#1", "p2#1"}
    assert refreshed.folder(0).exists(), "what was found before can still be looked at"


def test_an_epoch_is_as_many_steps_as_the_examples_fill(task, tmp_path):
    # 12 queries in steps of 4
    refreshed = made(task, tmp_path, refresh={"every": 2, "depth": 4})
    assert [step for step in range(13) if refreshed.waits(step)] == [0, 6, 12]


def test_goes_on_from_its_state_and_searches_again_what_was_stopped(task, tmp_path):
    settings = {"refresh": {"every": 5, "unit": "steps", "depth": 4}}
    refreshed = made(task, tmp_path, **settings)
    refreshed.begin(0, Encode())
    state = refreshed.state()
    refreshed.begin(5, Encode(bonus=(0.0, 0.25, -9.0)))
    again = made(task, tmp_path, **settings)
    again.restore(state)
    assert drawn(again, 1) == {"p1#2", "p1#1", "p0#2"}
    again.begin(5, Encode(bonus=(9.0, 0.0, 0.25)))  # other weights: the files are not taken
    assert drawn(again, 1) == {"p0#0", "p2#0", "p3#0"}


def test_a_query_whose_best_are_all_relevant_has_no_negative(task, tmp_path):
    refreshed = made(task, tmp_path, refresh={"depth": 1})
    refreshed.begin(0, Encode())
    assert drawn(refreshed, 0) == set()  # p0#2 alone was looked at
    assert refreshed.draw(np.array([0, 1]), 0)[0].tolist() == [-1]


def test_a_refresh_that_finds_no_negative(task, tmp_path):
    refreshed = made(task, tmp_path, refresh={"depth": 1, "every": 7, "unit": "steps"})
    refreshed.begin(0, Encode())
    with pytest.raises(
        InputError,
        match=r"encoders.mine.negatives: no training query has a negative: 12 queries, "
        r"dropped \d+ relevant; loosen select, raise the depth, or leave negatives out "
        r"\(searched before step 8: .*step-7\)",
    ):
        refreshed.begin(7, Encode(bonus=(0.5, 0.0, 0.0)))
