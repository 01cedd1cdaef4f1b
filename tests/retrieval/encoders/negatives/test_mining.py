"""Candidates on disk, the chain of links, the rules of selection, and what is drawn of them."""

import json
from collections import Counter
from types import SimpleNamespace

import little
import numpy as np
import pytest

from core.artefacts import RankedRun
from core.encoders import Draw, Encoder, FromRun, SelectNegatives
from core.errors import InputError
from core.recipes import Bounds
from core.runs import write_run
from retrieval.encoders.material import Material
from retrieval.encoders.negatives import NEGATIVES
from retrieval.encoders.negatives.drawn import NONE, Drawn
from retrieval.encoders.negatives.from_run import candidates_of
from retrieval.encoders.negatives.mining import Mining, mine
from retrieval.encoders.negatives.pools import Candidate, Pools, write_pools
from retrieval.encoders.negatives.select import Rules, select, upper_bound

POOLS = [
    ("1", [Candidate("a", 1, 3.5, "bm25"), Candidate("b", 2, 0.1, "bm25", "relevant")]),
    ("2", []),
    ("3", [Candidate("c", 7, -1.0, "bm25", "", "sw")]),
]


# ---- Files


def test_a_file_holds_all_of_a_candidate(tmp_path):
    counts = write_pools(tmp_path / "en.parquet", POOLS)
    assert counts == {"queries": 3, "": 2, "relevant": 1, "empty": 1}
    pools = Pools(tmp_path / "en.parquet")
    assert list(pools) == [POOLS[0], POOLS[2]]
    assert pools.of("3") == POOLS[2][1] and pools.of("2") == pools.of("9") == []
    live = pools.live()
    names = [live.qid[1][code] for code in live.qid[0]]
    assert names == ["1", "3"] and [live.docid[1][code] for code in live.docid[0]] == ["a", "c"]
    assert [live.passage_language[1][code] for code in live.passage_language[0]] == ["", "sw"]


def test_files_that_are_empty_long_or_others(tmp_path, monkeypatch):
    from retrieval.encoders.negatives import pools as module

    write_pools(tmp_path / "none.parquet", [("1", [])])
    assert list(Pools(tmp_path / "none.parquet")) == []
    assert len(Pools(tmp_path / "none.parquet").live().qid[0]) == 0
    monkeypatch.setattr(module, "AT_ONCE", 2)
    many = [(str(i), [Candidate(f"d{i}", 1, 1.0, "x"), Candidate(f"d{i % 3}", 2, 0.5, "x")])
            for i in range(7)]  # fmt: skip
    write_pools(tmp_path / "many.parquet", many)
    assert list(Pools(tmp_path / "many.parquet")) == many, "in parts of two queries"
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"qid": ["1"]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match=r"other.parquet: found columns \['qid'\], expected"):
        Pools(tmp_path / "other.parquet")


# ---- Rules


def test_bounds_by_hand():
    assert upper_bound(Bounds(share=0.9), [-2.0, -5.0]) == pytest.approx(-2.2), "not flipped"
    assert upper_bound(Bounds(share=0.9), [2.0]) == pytest.approx(1.8)
    assert upper_bound(Bounds(margin=0.15, below=5.0), [2.0, 1.0]) == pytest.approx(1.85)
    assert upper_bound(Bounds(share=0.9, margin=1.0), []) == float("inf"), "nothing to be below"
    assert upper_bound(Bounds(below=0.6), []) == 0.6


def test_rules_of_one_query_by_hand():
    scores = {"a": 4.0, "b": 3.0, "c": 2.5}
    shifted = Rules(Bounds(shift=3), {"b"}, scores)
    assert shifted.reason_against("a", 3) == "rank" and shifted.reason_against("a", 4) == ""
    margin = Rules(Bounds(margin=0.5), {"b", "gone"}, scores)
    assert margin.limit == 2.5
    assert margin.reason_against("a", 1) == "score"
    assert margin.reason_against("c", 3) == "", "the bound itself is allowed"
    assert margin.reason_against("unknown", 9) == "", "below all"


def test_candidates_of_a_run():
    scores = {f"d{i}": 10.0 - i for i in range(6)}
    assert candidates_of(scores, {"d1", "d5", "gone"}, 3, "bm25") == [
        Candidate("d0", 1, 10.0, "bm25"),
        Candidate("d1", 2, 9.0, "bm25", "relevant"),
        Candidate("d2", 3, 8.0, "bm25"),
        Candidate("d5", 6, 5.0, "bm25", "relevant"),  # for what select measures by
    ]
    assert candidates_of({}, {"d1"}, 3, "bm25") == []


# One query: d0 scores 10 down to d9 with 1; d2 and d5 are relevant
CANDIDATES = candidates_of({f"d{i}": 10.0 - i for i in range(10)}, {"d2", "d5"}, 8, "dense")


def selected(other=None, **rules):
    """(docids that stay, why others were dropped) of the query."""
    mining = SimpleNamespace(
        settings=Encoder(select=SelectNegatives(**rules)),
        relevant=lambda language: {"1": {"d2", "d5"}},
        run=lambda system, language: {"other": other}[system],
    )
    ((qid, found),) = select(mining, "en", SimpleNamespace(of={"1": CANDIDATES}.get))
    assert qid == "1" and [c.docid for c in found] == [c.docid for c in CANDIDATES]
    kept = [c.docid for c in found if not c.dropped]
    return kept, Counter(c.dropped for c in found if c.dropped)


def test_the_five_rules():
    assert selected() == (["d0", "d1", "d3", "d4", "d6", "d7"], {"relevant": 2}), "naive top-k"
    assert selected(shift=4) == (["d4", "d6", "d7"], {"relevant": 2, "rank": 3})
    assert selected(below=6.5) == (["d4", "d6", "d7"], {"relevant": 2, "score": 3}), "Abs"
    assert selected(margin=1.5) == (["d4", "d6", "d7"], {"relevant": 2, "score": 3}), "8 - 1.5"
    assert selected(share=0.5) == (["d6", "d7"], {"relevant": 2, "score": 4}), "half of 8"


def test_rules_on_another_systems_scores():
    other = {"1": {"d0": 0.1, "d1": 0.9, "d2": 0.5}}
    kept, dropped = selected(other, scores="other", margin=0.0)
    assert kept == ["d0", "d3", "d4", "d6", "d7"], "what it does not know is below everything"
    assert dropped == {"relevant": 2, "score": 1}, "d1 is above the relevant d2 there"
    assert selected({}, scores="other", margin=0.0)[0] == ["d0", "d1", "d3", "d4", "d6", "d7"]


# ---- The chain


def mining_of(tmp_path, run, **more):
    """A collection of six queries in one language, with a run of BM25's name."""
    folder = little.write_collection(tmp_path / "c", queries=6, dev=1, languages=("en",))
    task = little.task(folder, tmp_path / "work")
    step = task.step(RankedRun("bm25", "en", "train"))
    step.path.mkdir(parents=True)
    write_run(step.path / "run.trec", run, "bm25")
    settings = Encoder(**more)
    return Mining("mine", settings, task, ["en"], {("bm25", "en"): step})


RUN = {
    # d is relevant to its own query: p0#0, p0#2 to 0, p1#0 to 1, …
    "0": {"p0#0": 9.0, "p1#1": 8.0, "p0#2": 7.0, "p2#1": 6.0},
    "1": {"p3#0": 5.0, "p1#0": 4.0, "p4#0": 3.0},
    "3": {"p3#0": 2.0},
}


def test_each_link_leaves_its_files(tmp_path, capsys):
    chosen = {"negatives": ["from_run", "select"], "select": SelectNegatives(margin=0.5)}
    mining = mining_of(tmp_path, RUN, from_run=FromRun(depth=3), **chosen)
    chain = {name: NEGATIVES[name] for name in ("from_run", "select")}
    last = mine(mining, chain, tmp_path / "out")
    assert last == tmp_path / "out" / "2-select"
    first = dict(Pools(tmp_path / "out" / "1-from_run" / "en.parquet"))
    assert [(c.docid, c.place, c.dropped) for c in first["0"]] == [
        ("p0#0", 1, "relevant"), ("p1#1", 2, ""), ("p0#2", 3, "relevant")
    ]  # fmt: skip
    second = dict(Pools(last / "en.parquet"))
    assert [(c.docid, c.dropped) for c in second["1"]] == [
        ("p3#0", "score"), ("p1#0", "relevant"), ("p4#0", "")
    ]  # fmt: skip
    counts = json.loads((last / "counts.json").read_text())
    assert counts == {"en": {"": 2, "relevant": 4, "score": 1, "queries": 6, "empty": 4}}
    assert (
        "mine: en: 2 negatives for 6 queries, 4 without any; dropped 4 relevant, 1 score"
        in capsys.readouterr().out
    )


def test_a_chain_that_was_stopped_goes_on(tmp_path):
    mining = mining_of(tmp_path, RUN)
    calls = []

    def once(mining, language, before):
        calls.append(language)
        yield from NEGATIVES["from_run"](mining, language, before)

    def broken(mining, language, before):
        yield next(iter(before))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mine(mining, {"from_run": once, "select": broken}, tmp_path / "out")
    assert not (tmp_path / "out" / "2-select" / "en.parquet").exists()
    mining.folders.clear()
    mine(mining, {"from_run": once, "select": NEGATIVES["select"]}, tmp_path / "out")
    assert calls == ["en"], "what is there is not made again"


def test_no_negative_at_all(tmp_path):
    mining = mining_of(tmp_path, RUN, select=SelectNegatives(shift=100))
    chain = {name: NEGATIVES[name] for name in ("from_run", "select")}
    with pytest.raises(
        InputError,
        match=r"encoders.mine.negatives: no training query has a negative: 6 queries, "
        r"dropped 4 rank, 4 relevant; loosen select",
    ):
        mine(mining, chain, tmp_path / "out")


# ---- Drawing


def drawn_of(tmp_path, chain=True, **draw):
    """Twelve examples in two languages: of en the first four have 0, 1, 2, 3 candidates."""
    texts = little.corpus(tmp_path / "texts", examples=12)
    settings = Encoder(draw=Draw(**draw))
    mined = None
    if chain:
        mined = tmp_path / "mined"
        of_en = []
        for count in range(4):
            places = range(1, count + 1)
            of_en.append((str(count), [Candidate(f"d{10 + p}", p, 1.0, "x") for p in places]))
        of_en.append(("99", [Candidate("d1", 1, 1.0, "x")]))  # a query that is no example
        dropped = Candidate("d20", 1, 1.0, "x", "score")
        of_sw = [("6", [dropped, Candidate("d2", 2, 1.0, "x", "", "en")])]
        write_pools(mined / "en.parquet", of_en)
        write_pools(mined / "sw.parquet", of_sw)
    material = Material("mine", settings, None, ["en", "sw"], texts, None, tmp_path, mined)
    return Drawn(material, little.ToyPairs(texts, None, examples=12))


def test_the_best_of_the_candidates(tmp_path):
    drawn = drawn_of(tmp_path, number=2, order="top")
    numbers = np.array([3, 0, 1, 6, 2])
    assert drawn.draw(numbers, 0).tolist() == [
        [11, 12], [NONE, NONE], [11, NONE], [2, NONE], [11, 12]
    ]  # fmt: skip
    assert np.array_equal(drawn.draw(numbers, 5), drawn.draw(numbers, 0))
    wide = drawn_of(tmp_path, number=5, order="top")
    assert wide.draw(np.array([3]), 0).tolist() == [[11, 12, 13, NONE, NONE]]


def test_candidates_at_random_are_different_ones(tmp_path):
    drawn = drawn_of(tmp_path, number=2)
    seen = Counter()
    for batch in range(300):
        three, one = drawn.draw(np.array([3, 1]), batch).tolist()
        assert len(set(three)) == 2 and set(three) <= {11, 12, 13} and one == [11, NONE]
        seen.update(three)
    assert {count for count in seen.values() if abs(count - 200) > 40} == set()
    assert np.array_equal(drawn.draw(np.array([3]), 4), drawn.draw(np.array([3]), 4))


def test_a_share_of_passages_at_random(tmp_path):
    drawn = drawn_of(tmp_path, number=2, mined=0.25)
    found = np.stack([drawn.draw(np.array([3, 8]), batch) for batch in range(500)])
    of_candidates = np.isin(found[:, 0], [11, 12, 13]).mean()
    assert 0.25 < of_candidates < 0.55, "a quarter, and those that are met at random: 3 of 18"
    assert found[:, 0].min() >= 0 and found[:, 0].max() < 18, "passages of en alone"
    others = found[:, 1][found[:, 1] != NONE]
    assert others.min() >= 18 and others.max() < 36 and len(set(others.tolist())) == 18
    assert (found[:, 1] == NONE).mean() == pytest.approx(0.25, abs=0.05), "no candidate to take"


def test_random_ones_alone_need_no_chain(tmp_path):
    drawn = drawn_of(tmp_path, chain=False, number=3)
    assert drawn.draw(np.array([0, 7]), 0).tolist() == [[NONE] * 3] * 2
    assert Encoder(draw=Draw(mined=0.0)).draws and not Encoder().draws
