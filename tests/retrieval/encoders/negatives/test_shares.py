"""What became of a chain's candidates."""

import pytest

from retrieval.encoders.negatives.__main__ import table
from retrieval.encoders.negatives.pools import Candidate, write_pools
from retrieval.encoders.negatives.shares import of_chain

LINKS = ["from_ensemble", "judge", "generate"]


def candidate(dropped="", origin="from_ensemble"):
    return Candidate("d", 1, 1.0, origin, dropped)


@pytest.fixture
def folder(tmp_path):
    """English: of ten read two are refused and one has no verdict; then seven stay and one comes.

    Swahili: nothing is refused.
    """
    refused = [candidate("judged 1"), candidate("judged 2"), candidate("not judged")]
    read = [*refused, candidate("relevant"), *[candidate()] * 7]
    new = candidate(origin="generate")
    write_pools(tmp_path / "2-judge" / "en.parquet", [("1", read), ("2", [])])
    filled = [("1", [*read, new]), ("2", [candidate("relevant")])]
    write_pools(tmp_path / "3-generate" / "en.parquet", filled)
    write_pools(tmp_path / "2-judge" / "sw.parquet", [("1", [candidate()])])
    write_pools(tmp_path / "3-generate" / "sw.parquet", [("1", [candidate(), new])])
    return tmp_path


def test_shares_by_hand(folder):
    average, english, swahili = of_chain(folder, LINKS, ["en", "sw"])
    assert english.figures == {
        "negatives a query": 4.0,
        "from retrieval": 7 / 8,
        "from new queries": 1 / 8,
        "eliminated by the judge": 0.3,
    }
    assert list(swahili.figures.values()) == [2.0, 0.5, 0.5, 0.0]
    assert average.language == "avg"
    assert list(average.figures.values()) == [3.0, 0.6875, 0.3125, 0.15]


def test_the_table(folder):
    rows = of_chain(folder, LINKS, ["en", "sw"])
    assert table(rows) == [
        "| | avg | en | sw |",
        "| --- | ---: | ---: | ---: |",
        "| negatives a query | 3.0 | 4.0 | 2.0 |",
        "| from retrieval | 68.8% | 87.5% | 50.0% |",
        "| from new queries | 31.2% | 12.5% | 50.0% |",
        "| eliminated by the judge | 15.0% | 30.0% | 0.0% |",
    ]


def test_a_chain_without_a_judge_or_without_candidates(tmp_path):
    write_pools(tmp_path / "1-from_run" / "en.parquet", [("1", [])])
    average, english = of_chain(tmp_path, ["from_run"], ["en"])
    assert set(english.figures.values()) == set(average.figures.values()) == {None}
    assert table([average, english])[2] == "| negatives a query | – | – |"
