import zipfile

import numpy as np
import pytest

from core.errors import InputError
from core.passages import Passages, build_passages
from core.records import Document
from ensemble.submit import Entry, check, strictly_decreasing, write


@pytest.fixture
def entry(tmp_path):
    (tmp_path / "store").mkdir()
    build_passages([Document(f"d{i}", "", "text") for i in range(9)], tmp_path / "store")
    run = {"1": {"d1": 0.5, "d2": 0.5, "d3": 0.5}, "2": {"d0": 3.0, "d4": 1e-9}}
    return Entry("en", "known", run, ["1", "2"], Passages(tmp_path / "store"))


def rewritten(path, target, old, new):
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as made:
        for name in source.namelist():
            made.writestr(name, source.read(name).decode().replace(old, new))
    return target


def test_the_same_inputs_give_the_same_bytes(entry, tmp_path):
    for name in ("a.zip", "b.zip"):
        write(tmp_path / name, [entry], 2, "tag", "testA", {"x": 1})
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["known/en-testA.trec", "manifest.json"]
        lines = archive.read("known/en-testA.trec").decode().splitlines()
    assert [line.split()[2:4] for line in lines] == [["d3", "1"], ["d2", "2"], ["d0", "1"], ["d4", "2"]], "ties by docid descending, cut at the depth"
    scores = [np.float32(line.split()[4]) for line in lines]
    assert scores[0] > scores[1] and scores[2] > scores[3]


def test_scores_differ_in_float32():
    made = strictly_decreasing([1.0, 1.0, 1.0 - 1e-12, 0.5, 0.5, -2.0])
    assert all(np.float32(a) > np.float32(b) for a, b in zip(made, made[1:])) and made[3] == 0.5


@pytest.mark.parametrize("old, new, message", [
    ("2 Q0 d0 1 3.0 tag\n2 Q0 d4", "1 Q0 d0 3 0.1 tag\n1 Q0 d4", r"line 4: found passage 4 of query 1, expected at most 3|found rank"),
    ("2 Q0 d0", "7 Q0 d0", "line 4: found unknown query 7, expected one of the 2 queries of en"),
    ("1 Q0 d2", "1 Q0 d3", "line 2: found passage d3 a second time for query 1"),
    ("1 Q0 d2", "1 Q0 zz", r"line 2: found unknown passage zz \(1 in all\), expected docids of the en corpus"),
    ("d0 1 3.0", "d0 1 nan", "line 4: found score 'nan', expected a finite number"),
    ("d0 1 3.0", "d0 1 0.0", "line 5: found score .* after .*, expected strictly decreasing scores"),
    ("d0 1 3.0", "d0 2 3.0", "line 4: found rank 2, expected rank 1"),
    ("d0 1 3.0 tag", "d0 1 3.0", "line 4: found 5 columns, expected 6"),
    ("2 Q0 d0 1 3.0 tag\n2 Q0 d4 2 9.999999717180685e-10 tag\n", "", "1 queries without a passage, first 2; expected every query"),
])
def test_what_a_judge_could_refuse(entry, tmp_path, old, new, message):
    write(tmp_path / "good.zip", [entry], 3, "tag", "testA", {})
    expected = {("known", "en", "testA"): entry}
    assert check(tmp_path / "good.zip", expected, 3) == {"known/en-testA.trec": 5}
    bad = rewritten(tmp_path / "good.zip", tmp_path / "bad.zip", old, new)
    with pytest.raises(InputError, match=message):
        check(bad, expected, 3)


def test_files_of_the_zip(entry, tmp_path):
    write(tmp_path / "good.zip", [entry], 3, "tag", "testA", {})
    expected = {("known", "en", "testA"): entry}
    with pytest.raises(InputError, match="known/sw-testA.trec is missing"):
        check(tmp_path / "good.zip", {**expected, ("known", "sw", "testA"): entry}, 3)
    with pytest.raises(InputError, match="known/en-testA.trec is of no language and track"):
        check(tmp_path / "good.zip", {}, 3)
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as made:
        made.writestr("../known/en-testA.trec", "")
    with pytest.raises(InputError, match="found '../known/en-testA.trec', expected TRACK/LANG-SPLIT.trec"):
        check(tmp_path / "evil.zip", expected, 3)
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(InputError, match="not a zip file"):
        check(tmp_path / "text.zip", expected, 3)
    with zipfile.ZipFile(tmp_path / "bytes.zip", "w") as made:
        made.writestr("known/en-testA.trec", b"\xff")
    with pytest.raises(InputError, match="byte 0 is not UTF-8"):
        check(tmp_path / "bytes.zip", expected, 3)
