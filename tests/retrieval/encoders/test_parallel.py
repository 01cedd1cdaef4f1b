import little
import numpy as np
import pytest

from core.errors import InputError
from retrieval.encoders import align
from retrieval.encoders.parallel import Parallel, write


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "same.tsv"
    write(path, ["de", "es", "ru"], [{"de": "1", "es": "7"}, {"de": "2", "ru": "1", "es": "1"}])
    assert path.read_text() == "de\tes\tru\n1\t7\t-\n2\t1\t1\n"
    found = Parallel(path)
    assert found.ids("es", "de") == {"7": "1", "1": "2"}
    assert found.ids("de", "ru") == {"2": "1"}
    assert found.ids("de", "de") == {"1": "1", "2": "2"}


@pytest.mark.parametrize(
    "text, message",
    [
        ("de\tde\n", "same.tsv, line 1: found de, de, expected each language once"),
        ("de\tes\n1\n", "same.tsv, line 2: found 1 columns, expected 2, one of each of de, es"),
        (
            "de\tes\n1\t2\n3\t2\n",
            "same.tsv, line 3: found query 2 of es a second time, expected each query in one",
        ),
    ],
)
def test_lines_that_are_none(tmp_path, text, message):
    (tmp_path / "same.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        Parallel(tmp_path / "same.tsv")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no such file, expected query ids of the same questions"):
        Parallel(tmp_path / "same.tsv")
    (tmp_path / "same.tsv").write_text("de\tes\n")
    with pytest.raises(InputError, match="same.tsv: no column of ru, expected one of de, es"):
        Parallel(tmp_path / "same.tsv").ids("ru", "de")


# ---- Finding them


def test_margins_by_hand(monkeypatch):
    monkeypatch.setattr(align, "NEIGHBOURS", 1)
    first = np.array([[1.0, 0.0], [0.0, 1.0]])
    second = np.array([[0.6, 0.8], [1.0, 0.0], [0.8, 0.6]])
    # Cosines: .6, 1, .8 and .8, 0, .6; the best of each is 1 and .8, and .8, 1 and .8
    expected = [[0.6 / 0.9, 1.0, 0.8 / 0.9], [0.8 / 0.8, 0.0, 0.6 / 0.8]]
    assert align.margins(first, second) == pytest.approx(np.array(expected))
    monkeypatch.setattr(align, "NEIGHBOURS", 2)
    # Means of the best two: .9 and .7, and .7, .5 and .7
    assert align.margins(first, second)[0, 1] == pytest.approx(1 / ((0.9 + 0.5) / 2))


def test_pairs_are_each_others_best_and_good_enough():
    margin = np.array([[1.2, 1.3, 0.9], [1.25, 1.4, 0.8], [0.2, 0.3, 1.05]])
    assert align.pairs_of(margin, 1.0) == {1: 1, 2: 2}, "0 likes 1, which likes another"
    assert align.pairs_of(margin, 1.1) == {1: 1}


def test_questions_of_a_collection(tmp_path, capsys):
    task = little.task(little.write_collection(tmp_path / "c"), tmp_path / "work")
    # The second and the last of en's four dev queries are the first and the second of sw's
    questions = align.questions_of(task, "dev", "en", {"sw": {1: 0, 3: 1}})
    assert questions == [{"en": "13", "sw": "12"}, {"en": "15", "sw": "13"}]
    assert "sw: 2 of 4 queries ask what one of en asks" in capsys.readouterr().out


def test_all_the_way_and_a_pivot_that_is_not_there(tmp_path, little_body):
    collection = little.write_collection(tmp_path / "c", languages=("en", "sw"))
    for kind in ("topics", "qrels"):  # the same words in both
        text = (collection / "en" / kind / f"{kind}.en-dev.tsv").read_text()
        (collection / "sw" / kind / f"{kind}.sw-dev.tsv").write_text(text)
    retrieval = {"sources": ["dense"], "dense": {"backbone": str(little_body)}}
    task = little.task(collection, tmp_path / "work", retrieval=retrieval)
    found = align.align(task, "dev", "en", 0.0)
    assert found == [{"en": qid, "sw": qid} for qid in ("12", "13", "14", "15")]
    with pytest.raises(InputError, match="found the pivot de, expected .* dev topics: en, sw"):
        align.align(task, "dev", "de", 0.0)
