"""Hard negatives shared across languages: equations 2 and 3 of mhfn-2022 by hand."""

import json

import little
import numpy as np
import pytest

from core.artefacts import RankedRun
from core.encoders import Encoder
from core.errors import InputError
from core.runs import write_run
from retrieval.encoders.negatives import NEGATIVES
from retrieval.encoders.negatives.mining import Mining, mine
from retrieval.encoders.negatives.pools import Pools
from retrieval.encoders.negatives.share_languages import ELSEWHERE

# Passage pN#0 is relevant to query N, and p0#2 to query 0, too
RUNS = {
    "en": {"0": {"p1#1": 9.0, "p0#0": 8.0, "p2#1": 7.0}, "1": {"p3#0": 2.0}},
    "sw": {"0": {"p3#1": 6.0, "p2#1": 5.0, "p4#1": 4.0, "p0#0": 3.0}, "5": {"p4#0": 1.0}},
}
QUERIES = "en\tsw\tde\n0\t0\t-\n5\t2\t1\n"
PASSAGES = """\
sw\ten
p1#2\tp1#1
p2#1\tp2#1
p3#1\tp4#0
p4#1\tp0#2
p5#0\tp5#0
p0#1\t-
"""


def mining_of(folder, parallel, languages=("en", "sw"), **settings):
    """Six queries in each of two languages, with runs of BM25's name."""
    root = folder / "c"
    if not root.exists():
        little.write_collection(root, queries=6, dev=1)
    task = little.task(root, folder / "work")
    steps = {}
    for language, run in RUNS.items():
        step = task.step(RankedRun("bm25", language, "train"))
        step.path.mkdir(parents=True, exist_ok=True)
        write_run(step.path / "run.trec", run, "bm25")
        steps["bm25", language] = step
    chosen = Encoder(
        negatives=["from_run", "share_languages"],
        from_run={"depth": 3},
        share_languages={"parallel": parallel, **settings},
    )
    return Mining("mine", chosen, task, list(languages), steps)


def shared(mining, folder):
    """(language, query id) -> (docid, place, origin, dropped) of each candidate."""
    chain = {name: NEGATIVES[name] for name in ("from_run", "share_languages")}
    last = mine(mining, chain, folder)
    found = {}
    for language in mining.languages:
        for qid, candidates in Pools(last / f"{language}.parquet"):
            rows = [(c.docid, c.place, c.origin, c.dropped) for c in candidates]
            found[language, qid] = rows
    return found


def aligned(folder, queries=QUERIES, passages=PASSAGES):
    """The settings of an alignment whose files hold this."""
    (folder / "queries.tsv").write_text(queries)
    (folder / "passages.tsv").write_text(passages)
    return {
        "parallel": "alignment",
        "queries": str(folder / "queries.tsv"),
        "passages": str(folder / "passages.tsv"),
    }


def test_the_union_is_given_back_to_each_language(tmp_path, capsys):
    found = shared(mining_of(tmp_path, **aligned(tmp_path)), tmp_path / "out")
    other = "share_languages:"
    assert found["en", "0"] == [
        ("p1#1", 1, "bm25", ""),
        ("p0#0", 2, "bm25", "relevant"),
        ("p2#1", 3, "bm25", ""),
        ("p4#0", 1, other + "sw", ""),  # sw's p3#1
        # p2#1 is there already; sw's p4#1 is p0#2 here, which is relevant
    ]
    assert found["sw", "0"] == [
        ("p3#1", 1, "bm25", ""),
        ("p2#1", 2, "bm25", ""),
        ("p4#1", 3, "bm25", ELSEWHERE),  # en's p0#2, which is relevant there
        ("p0#0", 4, "bm25", "relevant"),
        ("p1#2", 1, other + "en", ""),  # en's p1#1
    ]
    assert found["en", "1"] == [("p3#0", 1, "bm25", "")], "no version, nothing added"
    assert found["sw", "5"] == [("p4#0", 1, "bm25", "")], "the file does not name it"
    out = capsys.readouterr().out
    # en's 0 and 5 have versions in sw; 0's own relevant p0#0 has no version in the file
    assert (
        "mine: en: 2 of 6 queries have versions in other languages, which add 1 candidates" in out
    )
    counts = json.loads((tmp_path / "out" / "2-share_languages" / "counts.json").read_text())
    assert counts["sw"][ELSEWHERE] == 1


def test_the_same_ids_are_versions(tmp_path):
    found = shared(mining_of(tmp_path, "same_ids"), tmp_path / "out")
    other = "share_languages:"
    assert [row for row in found["en", "0"] if row[2] != "bm25"] == [
        ("p3#1", 1, other + "sw", ""),
        ("p4#1", 3, other + "sw", ""),
    ]
    assert [row for row in found["sw", "0"] if row[2] != "bm25"] == [("p1#1", 1, other + "en", "")]
    assert found["en", "5"] == [("p4#0", 1, other + "sw", "")], "it had no candidate of its own"


@pytest.mark.parametrize(
    "files, message",
    [
        (
            {"passages": "sw\ten\np3#1\tp1#0\np3#1\tp2#0\n"},
            "passages.tsv, line 3: found passage p3#1 of sw a second time, expected each",
        ),
        (
            {"queries": "en\tsw\n1\n"},
            "queries.tsv, line 2: found 1 columns, expected 2, one of each of",
        ),
        ({"passages": "sw\ten\np3#1\tgone\n"}, "gone"),
    ],
)
def test_what_files_may_not_hold(tmp_path, files, message):
    with pytest.raises(InputError, match=message):
        shared(mining_of(tmp_path, **aligned(tmp_path, **files)), tmp_path / "out")


def test_of_passages_those_are_read_that_are_asked_for(tmp_path):
    more = PASSAGES + "x\ty\nx\ty\n"  # no candidate: that it stands twice is not seen
    mining = mining_of(tmp_path, **aligned(tmp_path, passages=more))
    shared(mining, tmp_path / "out")
    (made,) = mining.parallels.values()
    assert ("sw", "p3#1") in made.said and ("sw", "x") not in made.said


# ---- Neighbours: vectors in two dimensions, by their angle in degrees


def angles(*degrees):
    turned = np.deg2rad(np.array(degrees, np.float64))
    return np.stack([np.cos(turned), np.sin(turned)], 1).astype(np.float32)


class Neighboured(Mining):
    """Query n of en lies at 15 n degrees, of sw at 15 n + 2; a passage at 4 a row, of sw 1 more."""

    def vectors(self, language):
        rows = np.arange(len(self.passages(language)))
        return angles(*(4.0 * rows + (language == "sw"))).astype(np.float16)

    def encoded_queries(self, texts):
        degrees = {}
        for language, more in (("en", 0.0), ("sw", 2.0)):
            for qid, text in self.queries(language).items():
                degrees[text] = 15.0 * int(qid) + more
        return 3 * angles(*(degrees[text] for text in texts))  # lengths do not count


def neighboured(folder, degrees):
    plain = mining_of(folder, "neighbours", threshold=float(np.cos(np.deg2rad(degrees))))
    return Neighboured(plain.name, plain.settings, plain.task, plain.languages, plain.runs)


def test_the_nearest_are_versions_where_they_are_near_enough(tmp_path):
    found = shared(neighboured(tmp_path, degrees=2.5), tmp_path / "out")
    # a passage of sw lies 1 degree behind the one of en in its row, and 3 before the next
    assert [row[0] for row in found["en", "0"] if row[2] != "bm25"] == ["p3#1", "p4#1"]
    assert [row[0] for row in found["sw", "0"] if row[2] != "bm25"] == ["p1#1"]
    assert [row[0] for row in found["en", "5"]] == ["p4#0"]
    for rows in shared(neighboured(tmp_path, degrees=1.5), tmp_path / "far").values():
        assert all(row[2] == "bm25" for row in rows), "queries are 2 degrees apart"


def test_a_language_without_judged_queries_has_no_versions(tmp_path):
    mining = neighboured(tmp_path, degrees=2.5)
    mining.judged = {"en": mining.judged["en"], "sw": {}}
    found = shared(mining, tmp_path / "out")
    assert {language for language, _ in found} == {"en"}
    assert all(row[2] == "bm25" for rows in found.values() for row in rows)


# ---- Plans


@pytest.fixture
def plan(tmp_path, little_body):
    """A function of the settings of an encoder's chain: its task, planned."""
    from core.settings import Config
    from core.task import Task
    from retrieval import search

    little.write_collection(tmp_path / "little")

    def make(retrieval=None, **own):
        encoder = {"backbone": str(little_body), "negatives": ["from_run", "share_languages"]}
        values = {
            "name": "test",
            "work": str(tmp_path / "work"),
            "collection": {"source": "disk", "path": str(tmp_path / "little")},
            "retrieval": {
                "dense": {"backbone": str(little_body)},
                **(retrieval or {}),
                "encoders": {"mine": {**encoder, **own}},
            },
        }
        task = Task(Config.model_validate(values))
        return search.plan(task)

    return make


def test_neighbours_stand_on_the_dense_sources_vectors(plan):
    names = [step.name for step in plan()["negatives/mine"].inputs]
    assert names[:4] == ["bm25/en-train", "bm25/sw-train", "vectors/en", "vectors/sw"]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"languages": ["en"]}, "share_languages: found one language, en, so nothing is shared"),
        ({"retrieval": {"sources": ["bm25"]}}, "neighbours are found by the vectors of retrieval"),
        (
            {"retrieval": {"dense": {"backbone": "mine"}}},
            "with a backbone that is not trained here",
        ),
        (
            {"share_languages": {"parallel": "alignment", "queries": "x"}},
            "parallel=alignment, queries=x and passages=None; two files are what",
        ),
        (
            {"share_languages": {"passages": "x"}},
            "parallel=neighbours, queries=None and passages=x",
        ),
        (
            {
                "share_languages": {
                    "parallel": "alignment",
                    "queries": "nowhere",
                    "passages": "nowhere",
                }
            },
            "share_languages: nowhere is not there; python -m retrieval.encoders.align finds",
        ),
        (
            {
                "negatives": ["refresh", "share_languages"],
                "share_languages": {"parallel": "translation"},
            },
            "the chain has to begin with from_run",
        ),
        (
            {"in_batch": ["interpolate"]},
            "interpolate mixes two negatives of a query, found draw.number=1",
        ),
        (
            {"negatives": [], "in_batch": ["interpolate"]},
            "interpolate mixes two negatives of a query, found no negatives",
        ),
        (
            {"in_batch": ["false_negatives", "queue"]},
            "false_negatives stands before queue, whose passages it would not see",
        ),
    ],
)
def test_what_cannot_be_is_said_when_the_plan_is_made(plan, settings, message):
    with pytest.raises(InputError, match=message):
        plan(**settings)


def test_an_alignment_counts_by_its_content(plan, tmp_path):
    prints = []
    for passages in (PASSAGES, PASSAGES + "p0#0\tp0#0\n"):
        chosen = aligned(tmp_path, passages=passages)
        prints.append(plan(share_languages=chosen)["negatives/mine"].fingerprint)
    assert prints[0] != prints[1]


def test_unit_vectors():
    from retrieval.encoders.negatives.parallels import unit

    assert unit(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[0.6, 0.8], [0.0, 0.0]]
