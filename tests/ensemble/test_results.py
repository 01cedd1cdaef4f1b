"""Figures of known and surprise languages, what is compared with what, and given rankers."""

import json

import pytest

from core.config import load_config
from core.evaluate import mean_over_languages
from core.task import Task
from data_aug import build
from ensemble import fuse, results
from ensemble import run as ensemble_stage
from ranking import rank
from retrieval import search
from tests.ranking import small

QUERIES = [("sw", "1"), ("en", "1"), ("en", "2"), ("en", "3"), ("en", "4")]
BEFORE = dict.fromkeys(QUERIES, 0.5)
AFTER = dict(zip(QUERIES, [0.9, 0.4, 0.4, 0.4, 0.4], strict=True))


def test_the_difference_of_a_mean_over_languages_is_that_of_the_means():
    """sw +.4 and en -.1 are +.15 on average; of the pooled queries it would be 0.

    Whatever the signs, sw's ±.4 and en's mean, at most ±.1, are as far out: p is 1.
    """
    both = results.paired(BEFORE, AFTER, ["sw", "en"], seed=0)
    assert both.pop("difference") == pytest.approx(0.15)
    assert both == {"queries": 5, "wins": 1, "losses": 4, "p": 1.0}
    en = results.paired(BEFORE, AFTER, ["en"], seed=0)
    assert en["difference"] == pytest.approx(-0.1)
    assert en["p"] == pytest.approx(2 / 16, abs=0.01), "all signs kept, or all flipped"


def test_significance_shows_the_change_of_the_column(config):
    """en and sw are known, de is not; each column's change is the one of its own figure."""
    task = Task(config(ensemble={"stacking": None}))
    by_system: dict = {}
    for i, system in enumerate(results.systems(task)):
        by_system[system] = {key: value + 0.01 * i for key, value in BEFORE.items()}
        by_system[system]["de", "1"] = 0.25
    by_system["hybrid"] |= AFTER
    figures: dict = {"testA": {}}
    for system, values in by_system.items():
        figures["testA"][system] = {
            kind: {
                "nDCG@10": mean_over_languages(
                    [value for key, value in values.items() if key[0] in languages],
                    [key[0] for key in values if key[0] in languages],
                )
            }
            for kind, languages in (("known", ["en", "sw"]), ("surprise", ["de"]))
        }
    compared = results.significance(task, figures, {"testA": by_system})
    assert compared["testA"]["hybrid"]["against"] == "bm25", "the first source without dev"
    for system, note in compared["testA"].items():
        base = note["against"]
        for kind in ("known", "surprise"):
            shown = figures["testA"][system][kind]["nDCG@10"]
            of_base = figures["testA"][base][kind]["nDCG@10"]
            assert note["columns"][kind]["difference"] == pytest.approx(shown - of_base)
    known = compared["testA"]["hybrid"]["columns"]["known"]
    assert known["difference"] == pytest.approx(0.15)
    assert (known["queries"], known["wins"], known["losses"]) == (5, 1, 4)
    row = next(r for r in results.comparison_rows(compared, "testA") if r[0] == "hybrid")
    assert row[:7] == ["hybrid", "bm25", "known", "5", "+0.1500", "1", "4"]


def test_the_stage_before_is_the_best_on_dev(config):
    task = Task(config(ensemble={"stacking": None}))
    of_dev = {"bm25": 0.2, "dense": 0.3, "hybrid": 0.5, "base": 0.4}
    figures = {"dev": {name: {"known": {"nDCG@10": v}} for name, v in of_dev.items()}}
    assert results.bases(task, figures) == {
        "dense": "bm25",
        "hybrid": "dense",
        "base": "hybrid",
        "ensemble-rankers": "base",
        "ensemble": "hybrid",
    }


def test_given_rankers_are_shown_without_a_training(
    tmp_path, models, embedded_folder, small_collection
):
    """All figures and the page of a configuration whose rankers were trained elsewhere."""
    small_collection(tmp_path / "small")
    model = small.write(tmp_path / "model")
    (tmp_path / "shelf.yaml").write_text(f"""
collection: {{path: {tmp_path}/small}}
retrieval: {{sources: [dense], dense: {{layers: 1, max_length: 32}}, hybrid: {{weights: equal}}}}
ranking:
  rankers: {{shelf: {{model: {model}, query_length: 16, max_length: 32}}}}
  rerank: {{depth: 4}}
ensemble: {{stacking: null, weights: uniform}}
work: {models.parent}
""")
    config = load_config(tmp_path / "shelf.yaml")
    for stage in (search, build, rank, ensemble_stage):
        stage.run(config)
    task = Task(config)
    figures = json.loads((config.folder / "results.json").read_text("utf-8"))
    assert set(figures["testA"]) == {"dense", "hybrid", "shelf", *fuse.systems(task)}
    page = (config.folder / "report" / "index.html").read_text("utf-8")
    assert f"Given, not trained here: shelf ({model})." in page
    assert "Scores of shelf" in page and "<td>shelf</td><td>hybrid</td>" in page
    assert "Trainings, nDCG@10" not in page and "Training loss" not in page
