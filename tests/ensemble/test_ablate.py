"""The ablation runner: configurations of rows, the comparison by hand, and a tiny run.

The run is stopped and goes on.
"""

import csv
import gc
import json
import weakref

import pytest

from core.errors import InputError
from ensemble import ablate
from ranking import rank

ROWS = """
base: base.yaml
set: {candidates: 7, data_aug: {ns1: {negatives: 1}}}
ranker:
  {layers: 1, prune_vocabulary: true, steps: 1, batch_size: 2, max_length: 32, query_length: 8,
   learning_rate: 1.0e-3, evaluate_every: 1, dev_depth: 3, fgm: {epsilon: 0.0}}
seeds: [0, 1]
rows:
  first: {system: hybrid, paper: {known: 0.635}}
  baseline: {on: first}
  ns1: {on: baseline, ranker: {recipe: ns1, dropouts: [0.1]}, x: 1}
  wide: {on: ns1, ranker: {max_length: 40}, set: {candidates: 9}, x: 2}
  both: {on: first, system: ensemble, beside: [baseline, ns1]}
"""


@pytest.fixture
def path(tmp_path, small_collection, models, embedded_folder):
    small_collection(tmp_path / "small")
    (tmp_path / "base.yaml").write_text(f"""
collection: {{path: {tmp_path}/small}}
retrieval: {{sources: [dense], dense: {{layers: 1, max_length: 32}}, hybrid: {{weights: equal}}}}
data_aug: {{default: {{negatives: 2}}}}
ranking: {{rankers: {{of_the_base: {{}}}}, rerank: {{depth: 4}}}}
ensemble: {{stacking: null, weights: uniform}}
work: {models.parent}
""")
    (tmp_path / "rows.yaml").write_text(ROWS)
    return tmp_path / "rows.yaml"


def test_a_row_is_its_lineage_over_the_base(path):
    found = ablate.configuration(ablate.read(path), path, "wide", 1, ["seed=5"])
    assert (found.name, found.seed, found.candidates, list(found.ranking.rankers)) == (
        "rows-wide-1",
        5,
        9,
        ["wide"],
    )
    ranker = found.ranking.rankers["wide"]
    assert (ranker.seed, ranker.recipe, ranker.dropouts, ranker.max_length, ranker.steps) == (
        1,
        "ns1",
        [0.1],
        40,
        1,
    )
    assert ablate.configuration(ablate.read(path), path, "baseline", 0, []).candidates == 7
    both = ablate.configuration(ablate.read(path), path, "both", 0, [])
    assert (
        list(both.ranking.rankers) == ["baseline", "ns1"]
        and both.ranking.rankers["ns1"]
        == ablate.configuration(ablate.read(path), path, "ns1", 0, []).ranking.rankers["ns1"]
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (
            ("seeds: [0, 1]", "seedz: [0]"),
            r"rows.yaml: unknown key seedz; did you mean seeds\? "
            r"Known here: base, languages, ranker, rows, seeds, set, split",
        ),
        (
            ("x: 1}", "pape: 1}"),
            r"rows.yaml: unknown key rows.ns1.pape; did you mean rows.ns1.paper\? "
            r"Known here: beside, on, paper, ranker, set, system, x",
        ),
        (
            ("on: ns1", "on: ns2"),
            r"rows.wide: found the row 'ns2', expected one of first, baseline, ns1, wide, both",
        ),
        (("{on: first}", "{on: wide}"), r"rows .*baseline.*: built on each other in a ring"),
        (
            ("recipe: ns1", "recipe: ns7"),
            r"ranking.rankers.wide.recipe: found 'ns7', expected one of \['default', 'ns1'\]",
        ),
    ],
)
def test_what_is_wrong_is_said(path, change, message):
    path.write_text(ROWS.replace(*change))
    with pytest.raises(InputError, match=message):
        ablate.configuration(ablate.read(path), path, "wide", 0, [])


def test_the_comparison_by_hand():
    found = ablate.Ablation(base="", rows={"a": {}, "b": {"on": "a"}})
    seeds_a = {0: {"en": {"1": 0.2, "2": 0.4}, "de": {"1": 1.0}}}
    seeds_b = {
        0: {"en": {"1": 0.4, "2": 0.4}, "de": {"1": 1.0}},
        1: {"en": {"1": 0.8, "2": 0.6}, "de": {"1": 0.0}},
    }
    rows = {"a": ablate.Figures(seeds_a), "b": ablate.Figures(seeds_b)}
    a, b, *surprise = ablate.compare(found, rows, {"known": ["en"], "surprise": ["de"]})
    assert a["mean"] == pytest.approx(0.3) and "p" not in a and a["seeds"] == 1
    assert b["by_seed"] == pytest.approx([0.4, 0.7])
    assert b["mean"] == pytest.approx((0.4 + 0.7) / 2)
    assert b["difference"] == pytest.approx(0.25)
    assert b["p"] == b["holm"] and 0.4 < b["p"] <= 0.6, (
        "two differences of one sign: 2 of 4 signs are as far out"
    )
    assert surprise[1]["difference"] == pytest.approx(-0.5)


def test_the_deviation_over_seeds_is_that_of_a_sample():
    """Means .4 and .7: each .15 from .55, so the root of 2 · .0225 / (2 - 1) = .2121, not .15."""
    found = ablate.Ablation(base="", rows={"a": {}, "b": {}})
    rows = {
        "a": ablate.Figures({0: {"en": {"1": 0.4}}, 1: {"en": {"1": 0.7}}}),
        "b": ablate.Figures({0: {"en": {"1": 0.4}}}),
    }
    lines = ablate.compare(found, rows, {"known": ["en"]})
    assert lines[0]["standard deviation"] == pytest.approx(0.2121, abs=1e-4)
    assert lines[1]["standard deviation"] is None, "one seed shows none"
    head, a, b = ablate.table(lines, "testA")
    place = head.index("standard deviation")
    assert (a[place], b[place]) == ("0.2121", "")


def test_the_mean_over_languages_and_seeds_is_what_is_tested():
    """Over two seeds the two queries of sw gain .4 each, the four of en lose .2 each: +.1 is shown.

    The pooled queries are even, so a test of them would have p = 1. Of all signs, those of sw alike
    (1/2) are as far out as what is shown, and those of sw apart with all of en alike (1/2 · 2/16).
    """
    found = ablate.Ablation(base="", rows={"a": {}, "b": {"on": "a"}})
    sw, en = ["1", "2"], ["1", "2", "3", "4"]
    before = {"sw": dict.fromkeys(sw, 0.5), "en": dict.fromkeys(en, 0.5)}
    one = {"sw": dict.fromkeys(sw, 1.0), "en": dict.fromkeys(en, 0.1)}
    other = {"sw": dict.fromkeys(sw, 0.8), "en": dict.fromkeys(en, 0.5)}
    rows = {"a": ablate.Figures({0: before}), "b": ablate.Figures({0: one, 1: other})}
    _, b = ablate.compare(found, rows, {"known": ["sw", "en"]})
    assert b["difference"] == pytest.approx(0.1)
    assert b["p"] == pytest.approx(9 / 16, abs=0.02)


def test_a_given_model_is_a_row(path, tmp_path):
    """It has no settings of training, also not those of all rows, and one seed is enough."""
    path.write_text(ROWS + f"  shelf: {{on: first, ranker: {{model: {tmp_path}, depth: 3}}}}\n")
    ablation = ablate.read(path)
    ranker = ablate.configuration(ablation, path, "shelf", 1, []).ranking.rankers["shelf"]
    assert ranker.model_fields_set == {"model", "depth"}
    seeded = [name for name in ablation.rows if ablate.depends_on_seed(ablation, path, name)]
    assert seeded == ["baseline", "ns1", "wide", "both"]


def test_a_row_on_a_later_one(path):
    path.write_text(
        ROWS.replace("baseline: {on: first}", "baseline: {on: zeroth}") + "  zeroth: {}\n"
    )
    with pytest.raises(
        InputError,
        match=r"rows.yaml: rows.baseline.on: found 'zeroth', which comes after it, "
        r"expected one of first$",
    ):
        ablate.read(path)
    path.write_text(ROWS.replace("first: {system", "first: {on: last, system") + "  last: {}\n")
    with pytest.raises(
        InputError,
        match=r"rows.first.on: found 'last', which comes after it, expected none: it is the first",
    ):
        ablate.read(path)


def test_a_row_beside_one_without_a_ranker(path):
    path.write_text(ROWS.replace("beside: [baseline, ns1]", "beside: [baseline, first]"))
    with pytest.raises(
        InputError,
        match=r"rows.both.beside: found 'first', which measures hybrid and has no ranker of its "
        r"own, expected rows with rankers",
    ):
        ablate.read(path)


@pytest.mark.parametrize("system", ["bm52", "untrained", "ensemble"])
def test_a_system_that_a_row_does_not_have(path, system):
    """Without rankers beside it, a row has the first stage alone: no ensemble of a placeholder."""
    path.write_text(ROWS.replace("first: {system: hybrid", f"first: {{system: {system}"))
    with pytest.raises(
        InputError, match=rf"rows.first.system: found '{system}', expected one of dense, hybrid$"
    ):
        ablate.run(path, [])
    config = ablate.configuration(ablate.read(path), path, "first", 0, [])
    with pytest.raises(
        InputError,
        match=rf"rows-first-0: the system to measure: found '{system}', expected one of dense, ",
    ):
        ablate.make(config, system, "testA", ["sw"])


def test_what_no_row_can_measure_is_said_before_the_first(path, capsys):
    path.write_text(ROWS.replace("system: ensemble", "system: ensembel"))
    with pytest.raises(
        InputError,
        match=r"rows.both.system: found 'ensembel', "
        r"expected one of dense, hybrid, baseline, ns1, ensemble-rankers, ensemble",
    ):
        ablate.run(path, [])
    path.write_text(ROWS + "languages: [fi]\n")
    with pytest.raises(
        InputError, match="languages: fi have no judged testA queries; those with are de, en, sw"
    ):
        ablate.run(path, [])
    assert "row first" not in capsys.readouterr().out


def test_a_row_makes_what_its_figures_need_and_no_more(path):
    found = ablate.configuration(ablate.read(path), path, "baseline", 0, [])
    task, runs = ablate.make(found, "baseline", "testA", ["sw", "de"])
    assert list(runs) == ["sw", "de"] and all(run.done for run in runs.values())
    made = json.loads((found.folder / "recipes.json").read_text())
    assert {"ranker/baseline", "baseline/sw-testA", "groups/default"} <= set(made)
    assert not {"baseline/en-testA", "baseline/sw-dev", "groups/ns1"} & set(made)
    assert list(ablate.make(found, "hybrid", "testA", [])[1]) == ["de", "en", "sw"]
    model = weakref.ref(rank.plan(task)["baseline/sw-testA"].build)
    assert model()
    del task, runs
    gc.collect()
    assert model() is None, "a row's models go with it"


def test_a_row_of_a_later_round(path):
    path.write_text(
        ROWS.replace(
            "{negatives: 1}}",
            "{negatives: 1}, pl: {negatives: 0, pseudo_label: {teacher: baseline}}}",
        )
        + "  pl: {on: baseline, ranker: {recipe: pl, round: 1}, beside: [baseline]}\n"
    )
    found = ablate.configuration(ablate.read(path), path, "pl", 0, [])
    task, runs = ablate.make(found, "pl", "testA", ["sw"])
    assert (
        runs["sw"].done
        and (found.folder / "rounds" / "0" / "baseline" / "sw-testA.trec").is_file()
        and not (found.folder / "rounds" / "1").exists()
    )


def test_some_rows_with_those_that_they_need(path):
    assert list(ablate.read(path, ["ns1"]).rows) == ["first", "baseline", "ns1"] and list(
        ablate.read(path, ["both"]).rows
    ) == ["first", "baseline", "ns1", "both"]
    with pytest.raises(
        InputError, match="--rows: found ns3, expected some of first, baseline, ns1, wide, both"
    ):
        ablate.read(path, ["ns3"])


def test_a_file_goes_on_from_another(path):
    other = path.with_name("more.yaml")
    other.write_text(
        "extends: rows.yaml\nseeds: [4]\nrows: {ns2: {on: ns1, ranker: {steps: 2}}, ns1: {x: 9}}\n"
    )
    found = ablate.read(other)
    assert (
        list(found.rows) == ["first", "baseline", "ns1", "wide", "both", "ns2"]
        and found.seeds == [4]
        and found.rows["ns1"].x == 9
    )
    config = ablate.configuration(found, other, "ns2", 4, [])
    assert (
        config.name == "more-ns2-4"
        and config.ranking.rankers["ns2"].recipe == "ns1"
        and config.ranking.rankers["ns2"].steps == 2
    )


def test_a_table_that_is_stopped_and_goes_on(path, models, capsys, monkeypatch):
    work, make = models.parent / "small", ablate.make
    rows = iter(range(100))

    def stop(*arguments):
        if next(rows) == 3:
            raise KeyboardInterrupt
        return make(*arguments)

    monkeypatch.setattr(ablate, "make", stop)
    with pytest.raises(KeyboardInterrupt):
        ablate.run(path, [])
    partial = json.loads((work / "rows" / "ablation.json").read_text())
    assert {line["row"] for line in partial} == {"first", "baseline", "ns1"}
    monkeypatch.setattr(ablate, "make", make)
    capsys.readouterr()
    found = ablate.run(path, [])
    out = capsys.readouterr().out
    assert "ranker/baseline: " in out and out.count("ranker/baseline:") == 1, (
        "seed 1 alone: seed 0 was there"
    )
    assert {n: sorted(row.by_seed) for n, row in found.items()} == {
        "first": [0],
        **{n: [0, 1] for n in ("baseline", "ns1", "wide", "both")},
    }
    with (work / "rows" / "ablation.csv").open() as file:
        cells = list(csv.DictReader(file))
    known = {c["row"]: c for c in cells if c["languages"] == "known"}
    assert (
        known["first"]["paper"] == "0.635"
        and [c["paper"] for c in cells if c["row"] == "first" and c["languages"] == "surprise"]
        == [""]
        and known["baseline"]["seeds"] == "2"
        and known["baseline"]["pairs"] == "2"
        and known["wide"]["on"] == "ns1"
    )
    assert {c["languages"] for c in cells} == {"known", "surprise"}
    page = (work / "rows" / "ablation.html").read_text()
    assert "<svg" in page and "on baseline, known" in page and "one-dropout" not in page
    text = (work / "rows" / "ablation.txt").read_text()
    assert "p (Holm)" in text and text.count("\n") == 11
