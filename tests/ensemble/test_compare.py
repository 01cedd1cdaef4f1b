import pytest

from core.errors import InputError
from core.evaluate import holm
from core.files import write_json
from core.runs import write_run
from ensemble import compare

QRELS = {str(q): {"a": 1, "b": 0} for q in range(8)}
RIGHT = {str(q): {"a": 2.0, "b": 1.0} for q in range(8)}
WRONG = {str(q): {"a": 1.0, "b": 2.0} for q in range(8)}


@pytest.fixture
def files(tmp_path):
    write_run(tmp_path / "right.trec", RIGHT, "x")
    write_run(tmp_path / "wrong.trec", {q: WRONG[q] for q in "0123456"}, "x")
    (tmp_path / "qrels").write_text(
        "".join(f"{q} Q0 {d} {g}\n" for q, judged in QRELS.items() for d, g in judged.items())
    )
    return tmp_path


def shown(capsys, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["compare", *map(str, arguments)])
    compare.main()
    return capsys.readouterr().out


def test_files(files, capsys, monkeypatch):
    out = shown(
        capsys,
        monkeypatch,
        "--qrels",
        files / "qrels",
        files / "right.trec",
        files / "wrong.trec",
        "--queries",
        "1",
    )
    lines = [line.split() for line in out.splitlines()]
    assert ["nDCG@10", "right.trec", "1.0000"] in lines and [
        "nDCG@10",
        "wrong.trec",
        f"{7 / 8 * 0.63093:.4f}",
    ] in lines, "the unanswered query counts as 0"
    assert "note: wrong.trec: 1 judged queries unanswered, they count as 0; first 7" in out
    test = next(line for line in lines if line[:2] == ["wrong.trec", "right.trec"])
    assert test[2:6] == [f"{7 / 8 * 0.63093 - 1:+.4f}", "0", "0", "8"] and float(test[6]) < 0.02
    assert lines[-1][:4] == ["7", "1.0000", "0.0000", "-1.0000"]


def test_t_test(files, capsys, monkeypatch):
    from scipy.stats import ttest_rel

    out = shown(
        capsys,
        monkeypatch,
        "--qrels",
        files / "qrels",
        files / "right.trec",
        files / "wrong.trec",
        "--test",
        "t",
    )
    expected = ttest_rel([0.63093] * 7 + [0.0], [1.0] * 8).pvalue
    assert f"{expected:.4f}" in out and "paired t test over 8 queries" in out


def uneven():
    """Two languages: b gains .4 on the one query of sw and loses .1 on each of the four of en."""
    queries = [("sw", "1"), *(("en", str(q)) for q in range(4))]
    gains = dict(zip(queries, [0.4, -0.1, -0.1, -0.1, -0.1], strict=True))
    return {
        "a": {"nDCG@10": dict.fromkeys(queries, 0.5), "R@100": dict.fromkeys(queries, 1.0)},
        "b": {
            "nDCG@10": {key: 0.5 + gain for key, gain in gains.items()},
            "R@100": dict.fromkeys(queries, 1.0),
        },
    }


def test_the_difference_is_that_of_the_means_that_are_shown():
    """Means over languages: .5, and (.9 + .4) / 2 = .65. The pooled queries would be even."""
    values = uneven()
    means = [row[1:] for row in compare.mean_rows(values, ["sw", "en"]) if row[0] == "nDCG@10"]
    assert means == [["a", "0.5000", "0.5000", "0.5000"], ["b", "0.9000", "0.4000", "0.6500"]]
    head, row = compare.test_rows(values, "randomisation")
    assert head[:3] == ["better?", "than", "difference"]
    assert row[:6] == ["b", "a", "+0.1500", "1", "0", "4"]
    # Whatever the signs, sw's ±.4 and en's at most ±.1 are .15 or more on either side.
    assert row[6:] == ["1.0000", "1.0000"]
    values["b"]["nDCG@10"] |= {("en", str(q)): 0.6 for q in range(4)}  # gains of .4 and four of .1
    _, row = compare.test_rows(values, "randomisation")
    assert row[2] == "+0.2500"
    assert float(row[6]) == pytest.approx(2 / 32, abs=0.01), "all signs kept, or all flipped"


def test_a_t_test_of_a_language_with_one_query():
    with pytest.raises(InputError, match="sw: found 1 judged query, expected 2 or more"):
        compare.test_rows(uneven(), "t")


def test_no_queries_where_none_are_asked_for():
    assert len(compare.query_rows(uneven(), {}, "a", "b", 0)) == 1
    assert [row[0] for row in compare.query_rows(uneven(), {}, "a", "b", 1)[1:]] == ["en/0", "sw/1"]


def test_holm_by_hand():
    assert (
        holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
        and holm([0.5, 0.9]) == [1.0, 1.0]
        and holm([]) == []
    )


def test_remarks_on_uneven_runs():
    judged = compare.Compared(
        {
            "deep": {"en": {"1": {"a": 1.0, "b": 1.0, "c": 1.0}}},
            "short": {"en": {"1": {"a": 1.0}, "2": {"b": 0.5}}},
        },
        {"en": {"1": {"a": 1}, "2": {"b": 1}}},
        {},
    )
    assert compare.remarks(judged) == [
        "deep: 1 judged queries unanswered, they count as 0; first en/2",
        "deep: 1 queries with all scores equal, their order is by docid alone; first en/1",
        "depths differ: deep 3, short 1; recall below the smallest is not comparable",
    ]
    assert (
        compare.remarks(compare.Compared({"x": {"": RIGHT}, "y": {"": WRONG}}, {"": QRELS}, {}))
        == []
    )


@pytest.mark.parametrize(
    "run, message",
    [
        ({"99": {"a": 1.0}}, "other: answers none of the 8 judged queries"),
        (
            {"1": {"z": 1.0}},
            "other: holds none of the judged passages; is it a run of another collection?",
        ),
    ],
)
def test_a_run_of_another_collection(run, message):
    with pytest.raises(InputError, match=message):
        compare.values_of(compare.Compared({"other": {"": run}}, {"": QRELS}, {}))


def result(config, name, **values):
    c = config(name=name, **values)
    for la, run in {
        "en": {"4": {"b#0": 2.0, "a#0": 1.0}},
        "sw": {"3": {"b#0": 1.0}},
        "de": {"2": {"a#0": 2.0, "b#0": 1.0}},
    }.items():
        for system in ("ensemble", "hybrid"):
            (c.folder / "runs" / system).mkdir(parents=True, exist_ok=True)
            write_run(c.folder / "runs" / system / f"{la}-testA.trec", run, system)
    write_json(c.folder / "config.json", c.model_dump(mode="json"))
    return c.folder


def test_named_results_of_one_collection(config, capsys, monkeypatch):
    one, two = result(config, "one"), result(config, "two")
    out = shown(capsys, monkeypatch, one, two / "runs" / "hybrid")
    lines = [line.split() for line in out.splitlines()]
    assert (
        lines[0] == ["metric", "run", "de", "en", "sw", "mean"]
        and ["nDCG@10", "one", "0.6309", "1.0000", "1.0000", "0.8770"] in lines
    )
    assert ["hybrid", "one", "+0.0000", "0", "3", "0", "1.0000", "1.0000"] in lines


def test_results_that_cannot_be_compared(config, files, monkeypatch, capsys):
    one, other = result(config, "one"), result(config, "other", languages=["en", "de"])
    with pytest.raises(
        InputError,
        match="its queries of sw-testA are not those of .*one; compare results of one collection",
    ):
        compare.from_results([one, other], None)
    with pytest.raises(InputError, match="neither a TREC file nor a folder"):
        compare.from_results([files / "nothing"], None)
    with pytest.raises(
        InputError, match="no language has judgments for train2; choose another with --split"
    ):
        compare.from_results([one], "train2")
    with pytest.raises(InputError, match="is named twice"):
        compare.short_names([one, one])
    with pytest.raises(
        InputError, match="TREC files are compared with each other and need --qrels FILE"
    ):
        shown(capsys, monkeypatch, files / "right.trec", files / "wrong.trec")
