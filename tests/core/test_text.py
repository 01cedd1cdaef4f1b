import json
import os

import pytest

from core import text
from core.collection import read_qrels, read_topics
from core.errors import InputError
from core.runs import StoredRun, read_rankings, read_run

BOM = b"\xef\xbb\xbf"


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


READERS = {
    "run": (read_run, b"1 Q0 d 1 0.5 t\n"),
    "rankings": (lambda path: list(read_rankings(path)), b"1 Q0 d 1 0.5 t\n"),
    "stored": (lambda path: dict(StoredRun(path)), b"1 Q0 d 1 0.5 t\n"),
    "qrels": (read_qrels, b"1 Q0 d 1\n"),
    "topics": (read_topics, b"1\twhere\n"),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_byte_order_mark_is_refused_everywhere(kind, tmp_path):
    """It was a part of the first query's id, whose passages then counted for nothing."""
    read, content = READERS[kind]
    assert read(written(tmp_path / "plain", content))
    with pytest.raises(InputError, match="marked, line 1: found a byte order mark, expected UTF-8"):
        read(written(tmp_path / "marked", BOM + content))


@pytest.mark.parametrize("kind", READERS)
def test_what_is_no_file_is_refused_at_once(kind, tmp_path):
    read, _ = READERS[kind]
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, fault in {
        "pipe": "pipe: is a pipe or a device, expected a file",
        "": "is a folder, expected a file",
        "link": "link: a link to .*/nowhere, where there is no such file",
        "none": "none: no such file",
    }.items():
        with pytest.raises(InputError, match=fault):
            read(tmp_path / name)


@pytest.mark.parametrize(
    "line, fault",
    [
        ("1 Q0 d 1 0.5 t\u00a0x", r"white space U\+00A0 at column 15, expected spaces or tabs"),
        ("1 Q0 d\x1c 1 0.5 t", r"white space U\+001C at column 7"),
        ("1 Q0 d 1 1_0.0 t", "score '1_0.0', expected a finite number"),
        ("1 Q0 d 1 1e39 t", "score '1e39', expected a finite number"),
        ("1 Q0 d 1 ١ t", "score '١', expected a finite number"),
        ("1 Q0 d 1 0x1p3 t", "score '0x1p3'"),
        (f"1 Q0 d 1 {'9' * 5000} t", "score '9{57}…'"),
        ("1 Q0 \0d 1 0.5 t", "a zero byte, expected text"),
    ],
)
def test_columns_and_scores_of_a_run(line, fault, tmp_path):
    with pytest.raises(InputError, match=f"run, line 1: found {fault}"):
        read_run(written(tmp_path / "run", line + "\n"))


@pytest.mark.parametrize("score", ["1e-05", "-0.0", "+3", "5.", ".5", "3e38", "1E2"])
def test_scores_that_are_numbers(score, tmp_path):
    assert read_run(written(tmp_path / "run", f"1\tQ0  d 1 {score} t\r\n")) == {
        "1": {"d": float(score)}
    }


GRADES = ["²", "-1", "1.0", "٣", str(2**31 - 1), str(10**30), "9" * 6000]


@pytest.mark.parametrize("grade", GRADES, ids=range(len(GRADES)))
def test_grades_that_are_none(grade, tmp_path):
    """²'s ``isdigit`` is true, and a grade of 2^31 - 1 made nDCG 0 or ate all memory."""
    expected = "expected a whole number >= 0, at most 1000"
    with pytest.raises(InputError, match=f"qrels, line 1: found relevance .*, {expected}"):
        read_qrels(written(tmp_path / "qrels", f"1 Q0 d {grade}\n"))


@pytest.mark.parametrize(
    "qid, fault",
    [
        ("a b", "query id 'a b', expected a query id without white space"),
        ("a\u3000b", "query id 'a\\\\u3000b'"),
        ("a\x07", "query id .a.*x07., expected a query id without white space and control"),
        ("a" * 513, "a query id of 513 bytes, expected at most 512"),
        ("字" * 171, "a query id of 513 bytes"),
    ],
)
def test_query_ids_that_a_run_cannot_hold(qid, fault, tmp_path):
    """They passed the check of the collection, and failed after the first stage."""
    with pytest.raises(InputError, match=f"line 1: found {fault}"):
        read_topics(written(tmp_path / "topics", f"{qid}\twhere\n"))


@pytest.mark.parametrize(
    "line, fault",
    [
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
        ('{"a": ' + "9" * 6000 + "}", "a number of thousands of digits"),
        ("[" * 100_000, "JSON nested too deeply to be read"),
        ("{", "text that is not JSON"),
        (BOM + b"{}", "a byte order mark"),
        (b'{"a": "\xff"}', "byte 0xff at column 8"),
    ],
)
def test_lines_that_are_no_json(line, fault, tmp_path):
    with pytest.raises(InputError, match=f"file, line 1: found {fault}.*, expected"):
        text.json_value(
            tmp_path / "file", 1, line if isinstance(line, bytes) else line.encode(), "x"
        )


def test_a_whole_surrogate_pair_is_text(tmp_path):
    line = json.dumps({"text": "😀"})
    assert "\\ud83d" in line
    assert text.json_value(tmp_path, 1, line, "an object") == {"text": "😀"}


def test_a_file_of_json(tmp_path):
    assert text.json_file(written(tmp_path / "a", '{"b": 1}')) == {"b": 1}
    with pytest.raises(InputError, match="^.*/a: found a list, expected an object$"):
        text.json_file(written(tmp_path / "a", "[]"))
    with pytest.raises(InputError, match=r"^.*/a: found text that is not JSON \(.*\), expected an"):
        text.json_file(written(tmp_path / "a", "{]"))
