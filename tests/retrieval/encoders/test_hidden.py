"""Relevant passages that are hidden from a training, and how well filters find them again."""

import json
from pathlib import Path

import little
import numpy as np
import pytest

from core.artefacts import TrainedEncoder
from core.encoders import Encoder
from core.errors import InputError
from core.settings import Config
from core.task import Task
from retrieval import search
from retrieval.encoders import encoders, hidden
from retrieval.encoders.hidden import Found
from retrieval.encoders.hiding import known

ROOT = Path(__file__).parents[3]
QRELS = {
    "1": {"a": 1, "b": 1, "x": 0},
    "2": {"c": 1},
    "3": {"d": 1, "e": 1, "f": 1},
    "4": {"x": 0},
}


def test_each_query_keeps_one_relevant_passage():
    whole = known(QRELS, "en", Encoder())
    assert whole.relevant == {"1": ["a", "b"], "2": ["c"], "3": ["d", "e", "f"]}
    assert whole.hidden == {}
    all_of_them = known(QRELS, "en", Encoder(hidden=1.0))
    assert {qid: len(kept) for qid, kept in all_of_them.relevant.items()} == {
        "1": 1,
        "2": 1,
        "3": 1,
    }
    assert {qid: len(own) for qid, own in all_of_them.hidden.items()} == {"1": 1, "3": 2}
    for qid, docids in all_of_them.hidden.items():
        assert docids | set(all_of_them.relevant[qid]) == set(whole.relevant[qid])
    some = known(QRELS, "en", Encoder(hidden=0.34))
    assert sum(map(len, some.hidden.values())) == 1, "a third of three"
    assert some == known(QRELS, "en", Encoder(hidden=0.34)), "the same each time"
    drawn = [known(QRELS, "en", Encoder(hidden=0.34, seed=seed)).hidden for seed in range(20)]
    assert any(own != drawn[0] for own in drawn)


def test_counts_by_hand():
    found = Found()
    assert (found.share, found.precision, found.recall) == (None, None, None)
    for is_hidden, is_dropped in [(1, 1), (1, 0), (1, 1), (0, 1), (0, 0), (0, 0), (0, 1), (0, 1)]:
        found.add(bool(is_hidden), bool(is_dropped))
    assert (found.candidates, found.hidden, found.dropped, found.found) == (8, 3, 5, 2)
    assert found.share == 5 / 8 and found.precision == 2 / 5 and found.recall == 2 / 3


@pytest.fixture
def config(tmp_path, little_body):
    """A function of encoders. Queries 0, 4 and 8 of each language have two relevant passages.

    In the given run they stand first and third, in either order; others stand second and fourth.
    """
    little.write_collection(tmp_path / "little")
    (tmp_path / "runs").mkdir()
    for language in ("en", "sw"):
        lines = []
        for qid in range(12):
            docids = [f"p{qid}#0", f"p{(qid + 1) % 12}#1", f"p{qid}#2", f"p{(qid + 2) % 12}#1"]
            for rank, docid in enumerate(docids):
                lines.append(f"{qid} Q0 {docid} {rank + 1} {10.0 - rank} x\n")
        (tmp_path / "runs" / f"{language}-train.trec").write_text("".join(lines))
        (tmp_path / "runs" / f"{language}-dev.trec").write_text("")
    below = {
        "backbone": str(little_body),
        "steps": 3,
        "batch_size": 4,
        "precision": "fp32",
        "deepspeed": str(ROOT / "configs" / "deepspeed" / "zero0.json"),
        "query_length": 12,
        "passage_length": 24,
        "dev": {"queries": 2, "passages": 20},
        "from_run": {"system": "run", "depth": 4},
        "negatives": ["from_run"],
    }

    def make(**methods) -> Config:
        values = {
            "name": "test",
            "work": str(tmp_path / "work"),
            "collection": {"source": "disk", "path": str(tmp_path / "little")},
            "retrieval": {
                "sources": ["run"],
                "run": str(tmp_path / "runs"),
                "encoders": {name: {**below, **own} for name, own in methods.items()},
            },
        }
        return Config.model_validate(values)

    return make


def test_rules_by_hand(config, capsys):
    """Of the six queries with a hidden passage: three candidates each, the hidden one first or
    second of them, as the known one stands third or first of four."""
    select = {"negatives": ["from_run", "select"], "hidden": 1.0}
    made = config(
        shifted={**select, "select": {"shift": 2}},
        above={**select, "select": {"margin": 0.0}},
        told={"negatives": ["from_run", "select"], "select": {"shift": 2}},
    )
    found = hidden.run(made)
    assert set(found) == {"shifted", "above"}, "the third hides nothing"
    shifted, above = found["shifted"]["select"], found["above"]["select"]
    assert shifted.candidates == above.candidates == 18 and shifted.hidden == above.hidden == 6
    # how many of the hidden ones stand first in the run, before the known one
    first = above.found
    assert 0 < first < 6
    # places 1 and 2 are dropped: one wrong passage each, and the hidden one where it is first
    assert shifted.dropped == 6 + first and shifted.found == first
    # above the known one: nothing where that is first; the hidden one and the wrong one between
    assert above.dropped == 2 * first
    figures = json.loads((made.folder / "hidden.json").read_text())
    assert figures["above"]["select"]["found"] == first
    lines = (made.folder / "hidden.md").read_text().splitlines()
    assert lines[0] == "| encoder | filter | candidates | hidden | dropped | precision | recall |"
    assert (
        lines[3] == f"| above | select | 18 | 6 | {2 * first / 18:.3f} | 0.500 | {first / 6:.3f} |"
    )
    assert lines[3] in capsys.readouterr().out


def test_a_filter_may_drop_all(config):
    made = config(
        all={"hidden": 1.0, "negatives": ["from_run", "select"], "select": {"below": 0.0}}
    )
    found = hidden.run(made)["all"]["select"]
    assert (found.dropped, found.share, found.recall) == (18, 1.0, 1.0)


def test_the_training_does_not_know_them(config):
    task = Task(config(told={}, mine={"hidden": 1.0}))
    search.plan(task)
    steps = [task.step(TrainedEncoder(name)) for name in ("told", "mine")]
    plan = search.plan(task)
    mined = [plan["negatives/told"], plan["negatives/mine"]]
    assert mined[0].fingerprint != mined[1].fingerprint
    assert "hidden" not in steps[0].settings and steps[1].settings["hidden"] == 1.0
    encoders.make(task, mined)
    learner = encoders.learner(task, "mine", task.config.folder / "x")
    own = known(task.judgments("en", "train"), "en", task.config.retrieval.encoders["mine"])
    relevant = learner.pairs.relevant(np.arange(12))
    docids = [docid for _, docid in learner.material.corpus.docids(relevant.id)]
    assert sorted(docids) == sorted(docid for kept in own.relevant.values() for docid in kept)
    assert len(docids) == 12
    drawn = learner.negatives.draw(np.arange(4, 5), 0)
    assert drawn.shape == (1, 1)


@pytest.mark.parametrize("trained", [False, True])
def test_labels_of_a_step_are_measured_on_the_same_candidates(config, trained):
    made = config(
        mine={
            "hidden": 1.0,
            "batches": "by_language",
            "in_batch": ["queue", "false_negatives"],
            "queue": {"size": 20, "by": "language"},
            "false_negatives": {"clusters": 2, "temperature": 0.01},
        }
    )
    found = hidden.run(made, trained=trained)["mine"]
    assert set(found) == {"false_negatives"}
    own = found["false_negatives"]
    assert own.candidates == 18 and own.hidden == 6
    assert 0 < own.dropped < 18, "of two clusters, a passage is in one or the other"
    task = Task(made)
    search.plan(task)
    assert task.step(TrainedEncoder("mine")).done == trained


@pytest.mark.parametrize(
    "own, message",
    [
        ({}, "test: no encoder hides relevant passages, so there are none to find; set hidden"),
        ({"hidden": 0.5, "negatives": []}, "mine: hidden passages are looked for among the cand"),
        (
            {"hidden": 0.5, "negatives": ["refresh"]},
            "mined before the training; set negatives to a chain that begins with from_run",
        ),
    ],
)
def test_nothing_to_measure(config, own, message):
    made = config(mine=own)
    if "negatives" in own:
        values = made.model_dump(mode="json", exclude_unset=True)
        del values["retrieval"]["encoders"]["mine"]["from_run"]
        made = Config.model_validate(values)
    with pytest.raises(InputError, match=message):
        hidden.run(made)
