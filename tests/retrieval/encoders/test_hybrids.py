"""Tuned BM25 and hybrids as systems of a comparison, and the shape of mhfn-2022's Table 2."""

import json
from pathlib import Path

import little
import numpy as np
import pytest

from core.config import load_config
from core.encoders import Encoder
from core.errors import InputError
from core.evaluate import evaluate, means
from core.settings import Condition, Config
from core.task import Task
from retrieval import hybrid, search
from retrieval.encoders import __main__ as command
from retrieval.encoders import compare, encoders, hybrids
from retrieval.encoders.compare import Row, turned

ROOT = Path(__file__).parents[3]


def test_reciprocal_ranks_by_hand():
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 1.0, 5.0], [2.0, 1.0, -np.inf]])
    is_relevant = np.array([[0, 0, 1], [0, 1, 0], [0, 0, 0]], bool)
    # third; third, as the first of two equal ones stands before; none
    assert hybrids.reciprocal_ranks(scores, is_relevant).tolist() == [1 / 3, 1 / 3, 0.0]
    many = np.arange(150.0)[None]
    assert hybrids.reciprocal_ranks(many, many == 50)[0] == 1 / 100
    assert hybrids.reciprocal_ranks(many, many == 49)[0] == 0, "below the depth"


def test_alpha_by_hand():
    """Sparse scores are 1 and 0 after normalising, dense ones 0 and 1: the relevant passage wins
    from alpha > 1 on for the first query, and as long as alpha < 1 for the second and third."""
    sparse = {"1": {"a": 9.0, "b": 1.0}, "2": {"a": 9.0, "b": 1.0}, "3": {"a": 2.0, "b": 1.0}}
    dense = {qid: {"a": 0.1, "b": 0.3} for qid in sparse}
    qrels = {"1": {"b": 1}, "2": {"a": 1}, "3": {"a": 1, "b": 0}}
    runs = {"bm25-tuned": sparse, "mine": dense}
    assert hybrids.best_alpha(runs, qrels) == 0.1, "the first of those below 1"
    qrels["3"] = {"b": 1}
    assert hybrids.best_alpha(runs, qrels) == pytest.approx(1.0)  # b stands before a when equal


def test_the_chosen_alpha_is_the_best_of_the_measured_ones():
    random = np.random.default_rng(0)
    qrels = {str(q): {f"d{q % 7}": 1} for q in range(40)}
    runs = {}
    for system, noise in (("bm25-tuned", 1.0), ("mine", 0.7)):
        runs[system] = {
            qid: {f"d{d}": float(f"d{d}" in own) + noise * random.normal() for d in range(12)}
            for qid, own in qrels.items()
        }
    values = {}
    for alpha in hybrid.ALPHAS:
        weights = {"bm25-tuned": 1.0, "mine": alpha}
        fused = dict(hybrid.fused(runs, weights, hybrids.PRESETS[hybrids.PRESET], 100))
        values[alpha] = means(evaluate(fused, qrels, ["RR@100"]))["RR@100"]
    chosen = hybrids.best_alpha(runs, qrels)
    assert values[chosen] == pytest.approx(max(values.values()))
    assert values[chosen] > min(values.values()) + 0.01


def test_a_table_with_a_row_a_system():
    rows = [
        Row("en", {"bm25": 0.5, "dpr": 0.25}, 0.2),
        Row("sw", {"bm25": 0.125, "dpr": 0.5}, 0.04),
    ]
    assert turned(rows) == [
        "| | en | sw |",
        "| --- | ---: | ---: |",
        "| bm25 | **0.5000** | 0.1250 |",
        r"| dpr | 0.2500 | **0.5000** \* |",
    ]


@pytest.fixture
def config(tmp_path, little_body):
    """A function of conditions: BM25, mHFN in small with all its parts, and a second seed."""
    little.write_collection(tmp_path / "little")
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 0}}')
    encoder = {
        "method": "mhfn",
        "backbone": str(little_body),
        "queue": {"size": 20},
        "false_negatives": {"most": 3},
        "share_languages": {"parallel": "same_ids"},
        "steps": 3,
        "batch_size": 4,
        "precision": "fp32",
        "deepspeed": str(tmp_path / "ds.json"),
        "query_length": 12,
        "passage_length": 24,
        "dev": {"queries": 2, "passages": 20},
    }

    def make(conditions, sources=("bm25",), **more) -> Config:
        values = {
            "name": "test",
            "work": str(tmp_path / "work"),
            "collection": {"source": "disk", "path": str(tmp_path / "little")},
            "retrieval": {
                "sources": [*sources],
                "dense": {"backbone": str(little_body)},
                "encoders": {"mhfn": encoder, "mhfn-1": {**encoder, "seed": 1}, **more},
                "conditions": conditions,
            },
        }
        return Config.model_validate(values)

    return make


def test_table_2_all_the_way(config, capsys):
    condition = {"split": "dev", "hybrids": ["mhfn"], "rows": "systems"}
    made = config({"known": condition})
    command.run(made, comparing=True)
    figures = json.loads((made.folder / "encoders.json").read_text())["known"]
    systems = ["bm25", "bm25-tuned", "mhfn", "mhfn-hybrid"]
    assert [*figures["MRR@100"]["en"]] == [*systems, "p"]
    lines = (made.folder / "encoders.md").read_text().splitlines()
    assert lines[2] == "| | en | sw | mean |"
    assert [line.split(" | ")[0][2:] for line in lines[4:8]] == systems
    values = figures["MRR@100"]["mean"]
    assert values["bm25-tuned"] >= values["bm25"], "on the queries that it was tuned on"
    assert values["mhfn-hybrid"] > 0
    task = Task(made)
    search.plan(task)
    compare.conditions(task)
    point = json.loads((path_of(task, "bm25-tuning/en") / "point.json").read_text())
    assert set(point) == {"k1", "b"}
    alpha = json.loads((path_of(task, "mhfn-alpha/sw", "mhfn-hybrid-") / "alpha.json").read_text())
    assert alpha["alpha"] in hybrid.ALPHAS
    assert "mhfn: en: 12 of 12 queries have versions in other languages" in capsys.readouterr().out


def path_of(task, name, prefix=None):
    """The folder of a step that only a comparison plans."""
    stem = name.replace("mhfn-", prefix, 1) if prefix else name
    folder = task.config.home / "shared" / "retrieval"
    (found,) = folder.glob(f"{stem.replace('/', '-')}-*[!t]")
    return found


@pytest.mark.parametrize(
    "named, more, message",
    [
        ("mhnf", {}, "found 'mhnf', expected encoders: mhfn; did you mean mhfn"),
        (
            "mhfn",
            {"mhfn-hybrid": {"backbone": "embedded"}},
            "'mhfn-hybrid' is what a condition's hybrids call a system of their own",
        ),
    ],
)
def test_hybrids_that_cannot_be(config, named, more, message):
    task = Task(config({"known": {"split": "dev", "hybrids": [named]}}, **more))
    search.plan(task)
    with pytest.raises(InputError, match=message):
        compare.conditions(task)


def test_a_collection_that_bm25_does_not_search(config):
    task = Task(config({}))
    other = Task(config({}, sources=("dense",)))
    with pytest.raises(InputError, match="hybrids are fused with BM25, which is not among retriev"):
        hybrids.add(task, other, ["mhfn"], [("en", "dev")])


def test_every_part_can_be_switched_off():
    parts = {
        "share_languages": {"negatives": ["from_run"]},
        "interpolate": {"in_batch": ["queue", "false_negatives"]},
        "queue": {"in_batch": ["interpolate", "false_negatives"]},
        "false_negatives": {"in_batch": ["interpolate", "queue"]},
    }
    whole = Encoder(method="mhfn")
    assert whole.void == [] and set(parts) <= set(whole.chosen)
    assert whole.queue.size == 20000 and whole.queue.by == "language"
    assert whole.false_negatives.temperature == 100 and whole.false_negatives.start == 0.2
    assert whole.batches == "by_language" and whole.from_run.depth == 30
    for part, without in parts.items():
        made = Encoder(method="mhfn", **without)
        assert made.void == [] and part not in made.chosen, part
        encoders.check_in_batch("mine", made)
    said = Encoder(method="mhfn", in_batch=[], queue={"size": 5})
    assert said.void == ["queue"], "what is set and has no say is still told"


def test_the_papers_configuration_has_the_rows_of_table_2_at_one_budget():
    config = load_config(ROOT / "configs" / "encoders" / "mhfn.yaml")
    (condition,) = config.retrieval.conditions.values()
    assert condition.hybrids == ["mhfn"] and condition.rows == "systems"
    groups: dict[str, set] = {}
    for name, encoder in config.retrieval.encoders.items():
        parts = tuple(sorted({*encoder.negatives, *encoder.in_batch}))
        groups.setdefault(name.removesuffix("-1"), set()).add(
            (parts, encoder.steps, encoder.batch_size, encoder.learning_rate, encoder.layers)
        )
    assert all(len(own) == 1 for own in groups.values())
    assert len({own[1:] for (own,) in groups.values()}) == 1, "one budget"
    every = {"from_run", "share_languages", "interpolate", "queue", "false_negatives"}
    missing = {name: every - set(own[0]) for name, (own,) in groups.items()}
    assert missing == {
        "mdpr-ft": every - {"from_run"},
        "mhfn": set(),
        "mhfn-32": set(),
        "without-sharing": {"share_languages"},
        "without-interpolation": {"interpolate"},
        "without-augmentation": {"share_languages", "interpolate"},
        "without-queue": {"queue"},
        "without-filter": {"false_negatives"},
    }


def test_a_cross_lingual_condition_has_no_hybrids():
    with pytest.raises(ValueError, match="no hybrids with passages: BM25 is tuned on"):
        Condition(passages="en", parallel="same.tsv", hybrids=["mhfn"])
