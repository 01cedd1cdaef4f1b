import pytest

from core.collection import Collection
from core.errors import InputError
from core.sources.resplit import resplit


def test_training_queries_move_and_nothing_else_changes(folder, tmp_path):
    with (
        (folder / "en" / "topics" / "topics.en-train.tsv").open("a") as topics,
        (folder / "en" / "qrels" / "qrels.en-train.tsv").open("a") as qrels,
    ):
        for number in range(10, 20):
            topics.write(f"{number}\tquestion {number}\n")
            qrels.write(f"{number} Q0 a#0 1\n")
        topics.write("99\tnot judged\n")
    source = Collection(folder, ["de", "en"])
    lines = resplit(source, tmp_path / "out", {"dev": 3, "testA": 2}, 0)
    assert (
        lines[:1] == ["de: no training queries; dev, testA as they are"]
        and lines[1].startswith("en: dev 3 queries, ")
        and "train 7 queries" in lines[1]
    )
    made = Collection(tmp_path / "out")
    ids = {split: {q.qid for q in made.queries("en", split)} for split in ("train", "dev", "testA")}
    assert (
        len(ids["dev"]) == 3
        and len(ids["testA"]) == 2
        and sum(map(len, ids.values())) == len(set().union(*ids.values())) == 12
        and "99" not in set().union(*ids.values())
    )
    assert made.judgments("en", "dev").keys() == ids["dev"]
    assert made.corpus_files("en")[0].read_bytes() == source.corpus_files("en")[0].read_bytes()
    assert (tmp_path / "out" / "de" / "qrels" / "qrels.de-testA.tsv").read_text() == (
        folder / "de" / "qrels" / "qrels.de-testA.tsv"
    ).read_text()
    assert resplit(source, tmp_path / "out", {"dev": 3, "testA": 2}, 0) == [
        "de: is there already",
        "en: is there already",
    ]
    resplit(source, tmp_path / "again", {"dev": 3, "testA": 2}, 0)
    assert (tmp_path / "again" / "en" / "topics" / "topics.en-dev.tsv").read_text() == (
        tmp_path / "out" / "en" / "topics" / "topics.en-dev.tsv"
    ).read_text()


def test_too_few(folder, tmp_path):
    with pytest.raises(
        InputError, match="en has 2 judged training queries, 2 are to be moved and some must stay"
    ):
        resplit(Collection(folder, ["en"]), tmp_path / "out", {"dev": 1, "testA": 1}, 0)
