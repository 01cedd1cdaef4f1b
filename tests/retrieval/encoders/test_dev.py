"""What a training is measured by, on samples worked out by hand."""

import json
import re

import little
import numpy as np
import pytest

from core.encoders import EncoderDev
from core.records import Query
from retrieval.encoders.dev import Dev, Sample, Values, best, measured, of_run, sample
from retrieval.encoders.texts import Tokens


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Eight training and six dev queries in two languages: 42 passages each."""
    folder = tmp_path_factory.mktemp("dev")
    return little.task(little.write_collection(folder / "c", queries=8, dev=6), folder / "work")


def test_a_sample_has_what_is_judged_and_others_at_random(task):
    own = sample(task, "en", EncoderDev(queries=3, passages=12), seed=5)
    assert len(own.queries) == 3 and set(own.qrels) == {query.qid for query in own.queries}
    judged = {docid for gains in own.qrels.values() for docid in gains}
    assert judged < set(own.docids) and len(own.docids) == len(set(own.docids)) == 12
    store = task.passages("en")
    assert own.docids == [store.docid(row) for row in own.rows] and sorted(own.rows) == [*own.rows]
    again = sample(task, "en", EncoderDev(queries=3, passages=12), seed=5)
    assert again.docids == own.docids and again.queries == own.queries
    other = sample(task, "en", EncoderDev(queries=3, passages=12), seed=6)
    assert (other.docids, other.queries) != (own.docids, own.queries)


def test_a_sample_of_all_and_one_with_room_for_the_judged_alone(task):
    whole = sample(task, "sw", EncoderDev(queries=100, passages=1000), seed=0)
    assert len(whole.queries) == 6 and len(whole.docids) == 42
    small = sample(task, "sw", EncoderDev(queries=2, passages=1), seed=0)
    assert set(small.docids) == {docid for gains in small.qrels.values() for docid in gains}


OWN = Sample(
    queries=[Query("1", "x"), Query("2", "y")],
    rows=np.arange(4),
    docids=["a", "b", "c", "d"],
    qrels={"1": {"b": 1, "d": 1}, "2": {"a": 1, "c": 0}},
)


def test_mrr_and_recall_by_hand(monkeypatch):
    scores = np.array([[0.9, 0.8, 0.1, 0.7], [0.1, 0.4, 0.3, 0.2]], np.float32)
    run = best(OWN, scores)
    # first relevant at 2 and at 4; all relevant ones are among the four
    assert measured(run, OWN.qrels) == {"MRR@100": pytest.approx((1 / 2 + 1 / 4) / 2),
                                        "Recall@100": 1.0}  # fmt: skip
    from retrieval.encoders import dev

    monkeypatch.setattr(dev, "DEPTH", 2)
    run = best(OWN, scores)
    assert {qid: set(found) for qid, found in run.items()} == {"1": {"a", "b"}, "2": {"b", "c"}}
    assert measured(run, OWN.qrels) == {"MRR@100": 0.25, "Recall@100": 0.25}


def test_another_systems_order_of_the_sample():
    run = {"1": {"z": 9.0, "c": 5.0, "b": 4.0}, "9": {"a": 1.0}}
    # z is not in the sample, so b is second; query 2 is not answered
    assert of_run(run, OWN) == {"MRR@100": 0.25, "Recall@100": 0.25}


class Known:
    """Stands for the model: a text's vector is by its letters; notes what it is asked."""

    def __init__(self, blind=False):
        self.blind = blind

    def rows(self, rows, side):
        vectors = np.zeros((len(rows), 82), np.float32)
        for number, row in enumerate(rows):
            for piece in row[1:5]:
                vectors[number, piece] += 1
        return np.ones_like(vectors) if self.blind else vectors


def test_means_over_languages(task):
    prefixes = {"query": "", "passage": ""}
    tokens = Tokens(little.tokenizer(), prefixes, {"query": 20, "passage": 40})
    dev = Dev(task, ["en", "sw"], EncoderDev(queries=6, passages=42), 0, tokens)
    values = dev.measure(Known())
    assert set(values.languages) == {"en", "sw"} and values.warning is None
    assert values.mean["MRR@100"] == pytest.approx(
        (values.languages["en"]["MRR@100"] + values.languages["sw"]["MRR@100"]) / 2
    )
    assert 0.4 < values.mean["MRR@100"] < 1.0 and values.mean["Recall@100"] == 1.0
    collapsed = dev.measure(Known(blind=True))
    assert "the encoder has collapsed; lower learning_rate" in collapsed.warning


def test_notes_of_steps_that_are_taken_again_go(task, tmp_path):
    prefixes = {"query": "", "passage": ""}
    tokens = Tokens(little.tokenizer(), prefixes, {"query": 20, "passage": 40})
    dev = Dev(task, ["en"], EncoderDev(queries=2, passages=5), 0, tokens)
    for step, value in ((0, 0.1), (2, 0.2), (4, 0.3), (2, 0.4)):
        dev.note(tmp_path, step, Values({"MRR@100": value}, {"en": {"MRR@100": value}}))
    lines = [json.loads(line) for line in (tmp_path / "dev.jsonl").read_text().splitlines()]
    assert [(line["step"], line["MRR@100"]) for line in lines] == [(0, 0.1), (2, 0.4)]
    assert lines[1]["languages"] == {"en": {"MRR@100": 0.4}}


def test_the_closing_line(task, capsys):
    dev = object.__new__(Dev)
    dev.tell("mine", {"base": 0.5, "best": 0.625, "best_step": 40})
    dev.tell("mine", {"base": 0.5, "best": 0.5, "best_step": 20})
    said = capsys.readouterr().out
    assert "mine, dev MRR@100:  base 0.5000   tuned 0.6250 (step 40)\n" in said
    assert len(re.findall("no better than before its training", said)) == 1
