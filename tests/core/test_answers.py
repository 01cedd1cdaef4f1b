"""Answers on disk."""

import pytest

from core.answers import Answers, key
from core.errors import InputError


def test_keys_are_of_the_content():
    assert key({"a": 1, "b": ["é"]}) == key({"b": ["é"], "a": 1}) != key({"a": 1, "b": ["e"]})
    assert len(key("")) == 32 and key("\ud800") != key(""), "half a character is one, too"


def test_what_is_put_is_there_for_all(tmp_path):
    one, other = Answers(tmp_path / "new" / "a.sqlite"), Answers(tmp_path / "new" / "a.sqlite")
    one.put({"1": 2, "2": None, "3": {"text": "ñ"}})
    assert other.get(["3", "2", "x"]) == {"2": None, "3": {"text": "ñ"}}
    other.put({"1": 0.1})
    assert one.get(["1"]) == {"1": 0.1} and len(one) == 3
    many = {str(number): number for number in range(1201)}
    one.put(many)
    assert one.get([*many]) == many, "more than one look-up takes"
    assert one.get([]) == {}
    assert Answers(tmp_path / "new" / "a.sqlite").get(["7"]) == {"7": 7}


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "a.sqlite").write_text("no database " * 100)
    with pytest.raises(InputError, match=r"a.sqlite: cannot be read as a database of answers \(.*"):
        Answers(tmp_path / "a.sqlite")
