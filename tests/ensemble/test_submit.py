import ast
import json
import zipfile

import numpy as np
import pytest

from core.artefacts import TrainedRanker
from core.errors import InputError
from core.passages import Passages, build_passages
from core.records import Document
from core.settings import Submission
from core.task import Task
from ensemble.profiles import PROFILES, Entry, strictly_decreasing
from ensemble.submit import (
    CODE,
    check,
    check_given,
    code_digest,
    lines_of,
    portable,
    profile,
    write,
)
from retrieval import search
from tests.conftest import TOPICS

MIRACL = PROFILES["miracl"]


@pytest.fixture
def small_runs(tmp_path):
    """Runs of the small collection, the right passage first."""
    folder = tmp_path / "given"
    folder.mkdir()
    for (la, split), rows in TOPICS.items():
        lines = []
        for qid, _, good, bad in rows:
            lines += [f"{qid} Q0 {good} 1 2.0 x", f"{qid} Q0 {bad} 2 1.0 x"]
        (folder / f"{la}-{split}.trec").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def entry(tmp_path):
    (tmp_path / "store").mkdir()
    build_passages([Document(f"d{i}", "", "text") for i in range(9)], tmp_path / "store")
    run = {"1": {"d1": 0.5, "d2": 0.5, "d3": 0.5}, "2": {"d0": 3.0, "d4": 1e-9}}
    return Entry("en", "known", run, ["1", "2"], Passages(tmp_path / "store"))


def written(path, entry, form=MIRACL, depth=3):
    write(path, {"en": entry}, "testA", form, depth, "tag", {"x": 1})
    return path


def checked(path, entry, form=MIRACL, depth=3):
    return check(path, {"en": entry}, "testA", form, depth)


def rewritten(path, target, old, new):
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as made:
        for name in source.namelist():
            made.writestr(name, source.read(name).decode().replace(old, new))
    return target


def test_the_same_inputs_give_the_same_bytes(entry, tmp_path):
    for name in ("a.zip", "b.zip"):
        written(tmp_path / name, entry, depth=2)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["known/en-testA.trec", "manifest.json"]
        lines = archive.read("known/en-testA.trec").decode().splitlines()
        assert json.loads(archive.read("manifest.json")) == {"x": 1}
    assert [line.split()[2:4] for line in lines] == [
        ["d3", "1"],
        ["d2", "2"],
        ["d0", "1"],
        ["d4", "2"],
    ], "ties by docid descending, cut at the depth"
    scores = [np.float32(line.split()[4]) for line in lines]
    assert scores[0] > scores[1] and scores[2] > scores[3]


def test_scores_differ_in_float32():
    made = strictly_decreasing([1.0, 1.0, 1.0 - 1e-12, 0.5, 0.5, -2.0])
    assert (np.diff(np.array(made, np.float32)) < 0).all() and made[3] == 0.5


def test_order_is_that_of_trec_eval(entry, tmp_path):
    """trec_eval on the written file finds what ir-measures finds on the run."""
    import pytrec_eval

    from core.evaluate import evaluate

    with zipfile.ZipFile(written(tmp_path / "a.zip", entry)) as archive:
        run = {}
        for line in archive.read("known/en-testA.trec").decode().splitlines():
            qid, _, docid, _, score, _ = line.split()
            run.setdefault(qid, {})[docid] = float(score)
    qrels = {"1": {"d2": 1}, "2": {"d4": 1}}
    found = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut_10"}).evaluate(run)
    assert {q: v["ndcg_cut_10"] for q, v in found.items()} == pytest.approx(
        evaluate(entry.run, qrels)["nDCG@10"]
    )


def test_profiles(entry, tmp_path):
    with zipfile.ZipFile(written(tmp_path / "trec.zip", entry, PROFILES["trec"])) as archive:
        assert archive.namelist() == ["en-testA.trec", "manifest.json"]
    with zipfile.ZipFile(written(tmp_path / "csv.zip", entry, PROFILES["csv"], 2)) as archive:
        assert archive.read("en-testA.csv").decode() == "query_id,passage_ids\n1,d3 d2\n2,d0 d4\n"
    assert checked(tmp_path / "csv.zip", entry, PROFILES["csv"], 2) == {"en-testA.csv": 2}
    (tmp_path / "en-testA.csv").write_text("query_id,passage_ids\n2,d0\n1,d5\n")
    assert checked(tmp_path / "en-testA.csv", entry, PROFILES["csv"]) == {"en-testA.csv": 2}, (
        "a file from elsewhere, not in a zip"
    )
    assert set(Submission.model_fields["profile"].annotation.__args__) == set(PROFILES)


@pytest.mark.parametrize(
    "text, message",
    [
        ("qid,docs\n1,d1\n2,d1\n", "line 1: found 'qid,docs', expected query_id,passage_ids"),
        (
            "query_id,passage_ids\n1,d1\n2\n",
            "line 3: found '2', expected a query id, a comma, and docids",
        ),
        (
            "query_id,passage_ids\n1,d1 d1\n2,d2\n",
            "line 2: found passage d1 a second time for query 1",
        ),
        (
            "query_id,passage_ids\n1,d1 d2 d3 d4\n2,d2\n",
            "line 2: found passage 4 of query 1, expected at most 3",
        ),
        ("query_id,passage_ids\n1,d1\n", "1 queries without a passage, first 2"),
        ("", "line 1: found '', expected query_id,passage_ids"),
    ],
)
def test_bad_csv(entry, tmp_path, text, message):
    (tmp_path / "en-testA.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        checked(tmp_path / "en-testA.csv", entry, PROFILES["csv"])


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "2 Q0 d0 1 3.0 tag\n2 Q0 d4 2",
            "1 Q0 d0 4 0.1 tag\n1 Q0 d4 5",
            r"line 4: found passage 4 of query 1, expected at most 3",
        ),
        (
            "2 Q0 d0",
            "7 Q0 d0",
            "line 4: found unknown query 7, expected one of the 2 queries of en",
        ),
        ("1 Q0 d2", "1 Q0 d3", "line 2: found passage d3 a second time for query 1"),
        (
            "1 Q0 d2",
            "1 Q0 zz",
            r"line 2: found unknown passage zz \(1 in all\), expected docids of the en corpus",
        ),
        ("d0 1 3.0", "d0 1 nan", "line 4: found score 'nan', expected a finite number"),
        (
            "d0 1 3.0",
            "d0 1 0.0",
            "line 5: found score .* after .*, expected strictly decreasing scores",
        ),
        ("d0 1 3.0", "d0 2 3.0", "line 4: found rank 2, expected rank 1"),
        ("d0 1 3.0 tag", "d0 1 3.0", "line 4: found 5 columns, expected 6"),
        (
            "2 Q0 d0 1 3.0 tag\n2 Q0 d4 2 9.999999717180685e-10 tag\n",
            "",
            "1 queries without a passage, first 2; expected every query",
        ),
        (
            "1 Q0 d3",
            "\ufeff1 Q0 d3",
            "line 1: found a byte order mark, expected UTF-8 text without one",
        ),
        (
            "tag\n2 Q0 d0",
            "tag\r\n2 Q0 d0",
            "line 3: found a carriage return, expected lines that end in a newline alone",
        ),
    ],
)
def test_what_a_judge_could_refuse(entry, tmp_path, old, new, message):
    good = written(tmp_path / "good.zip", entry)
    assert checked(good, entry) == {"known/en-testA.trec": 5}
    with pytest.raises(InputError, match=message):
        checked(rewritten(good, tmp_path / "bad.zip", old, new), entry)


@pytest.mark.parametrize(
    "name",
    [
        "../known/en-testA.trec",
        "/known/en-testA.trec",
        "known/../../x.trec",
        "known\\en-testA.trec",
        "C:en-testA.trec",
    ],
)
def test_names_that_lead_out_of_the_zip(entry, tmp_path, name):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as made:
        made.writestr(name, "")
    with pytest.raises(
        InputError,
        match="a name that leads out of the folder it is unpacked in; expected "
        "TRACK/LANG-SPLIT.trec and manifest.json",
    ):
        checked(tmp_path / "evil.zip", entry)


def made_zip(path, *files):
    with zipfile.ZipFile(path, "w") as made:
        for info, text in files:
            made.writestr(info, text)
    return path


def test_files_of_the_zip(entry, tmp_path):
    good = written(tmp_path / "good.zip", entry)
    with pytest.raises(InputError, match="known/sw-testA.trec is missing"):
        check(
            good,
            {"en": entry, "sw": Entry("sw", "known", {}, [], entry.passages)},
            "testA",
            MIRACL,
            3,
        )
    with pytest.raises(
        InputError,
        match="found 'known/en-testA.trec', expected TRACK/LANG-SPLIT.trec and "
        "manifest.json, of this collection's",
    ):
        check(good, {}, "testA", MIRACL, 3)
    link = zipfile.ZipInfo("known/en-testA.trec")
    link.external_attr = 0o120777 << 16
    with pytest.raises(InputError, match="known/en-testA.trec is a link, expected a file"):
        checked(made_zip(tmp_path / "link.zip", (link, "elsewhere")), entry)
    with (
        pytest.warns(UserWarning),
        pytest.raises(InputError, match="known/en-testA.trec is in the zip 2 times"),
    ):
        checked(
            made_zip(
                tmp_path / "twice.zip", ("known/en-testA.trec", ""), ("known/en-testA.trec", "")
            ),
            entry,
        )
    with pytest.raises(InputError, match="line 2: found byte 0xff, expected UTF-8 text"):
        checked(
            made_zip(tmp_path / "bytes.zip", ("known/en-testA.trec", b"1 Q0 d1 1 1 x\n\xff")), entry
        )
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(InputError, match="not a zip file, and its name is none of en-testA.trec"):
        checked(tmp_path / "text.zip", entry)
    with pytest.raises(InputError, match="no such file"):
        checked(tmp_path / "none.zip", entry)


def test_a_zip_that_unpacks_to_too_much_is_not_unpacked(entry, tmp_path, monkeypatch):
    monkeypatch.setattr("ensemble.submit.LIMIT", 10)
    with pytest.raises(InputError, match="unpacked, expected at most"):
        checked(made_zip(tmp_path / "bomb.zip", ("known/en-testA.trec", "1" * 99)), entry)


def test_depth_of_a_profile(config):
    with pytest.raises(
        InputError,
        match="submission.depth: found 200, the profile miracl takes at most 100 passages",
    ):
        profile(Task(config(submission={"depth": 200})))
    assert profile(Task(config(submission={"depth": 200, "profile": "trec"}))) is PROFILES["trec"]


def test_a_file_is_checked_where_only_passages_are_made(config, small_runs, tmp_path, capsys):
    """Nothing of the later stages has to be planned for it."""
    task = Task(config(retrieval={"sources": ["run"], "run": str(small_runs)}))
    for step in search.plan(Task(task.config)).values():
        if step.name.startswith("passages/"):
            step.path.mkdir(parents=True)
            step.build(step.path)
    given = tmp_path / "zip.zip"
    texts = {la: (small_runs / f"{la}-testA.trec").read_text() for la in ("de", "en", "sw")}
    with zipfile.ZipFile(given, "w") as archive:
        for la, text in texts.items():
            track = "surprise" if la == "de" else "known"
            archive.writestr(f"{track}/{la}-testA.trec", text)
    check_given(task, given)
    assert capsys.readouterr().out.splitlines() == [
        "known/en-testA.trec: 2 lines",
        "known/sw-testA.trec: 2 lines",
        "surprise/de-testA.trec: 2 lines",
        f"{given}: valid",
    ]
    assert not any(isinstance(artefact, TrainedRanker) for artefact in task.published)


def test_nothing_below_the_submission_knows_of_it():
    """The arrows between the two are one way, and no import is hidden in a function."""
    for name in ("fuse", "members", "weights", "estimate", "stacking"):
        tree = ast.parse((CODE / "ensemble" / f"{name}.py").read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names = [alias.name for node in imports for alias in node.names]
        assert not {"submit", "run", "plan", "results"} & set(names)
    tree = ast.parse((CODE / "ensemble" / "submit.py").read_text())
    hidden = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert set(hidden) <= set(tree.body)


def test_lines_and_code():
    assert lines_of("x", b"") == [] and lines_of("x", "a\u2028b\nc".encode()) == [
        "a\u2028b",
        "c",
    ], "other line separators are text"
    assert code_digest() == code_digest() and len(code_digest()) == 16


# ---- Damaged zips, and lines that a judge would read otherwise


def with_damage(path, kind):
    """Changes a zip's bytes in place: of the packed content, or of the method in both headers."""
    content = bytearray(path.read_bytes())
    start = content.index(b"known/en-testA.trec") + len("known/en-testA.trec")
    if kind == "deflate":
        content[start : start + 4] = b"\xff\xff\xff\xff"
    if kind == "crc":
        content[14] ^= 0xFF
        directory = content.index(b"PK\x01\x02")
        content[directory + 16] ^= 0xFF
    if kind == "method":
        directory = content.index(b"PK\x01\x02")
        content[8] = content[directory + 10] = 97
    if kind == "cut":
        content = content[:-30]
    if kind == "directory":
        directory = content.index(b"PK\x01\x02")
        content[directory] ^= 0xFF
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "kind, message",
    [
        ("deflate", r"known/en-testA.trec cannot be unpacked \(Error -3"),
        ("crc", r"known/en-testA.trec cannot be unpacked \(Bad CRC-32"),
        ("method", r"known/en-testA.trec cannot be unpacked \(That compression method"),
        ("cut", "not a zip file, and its name is none of|not a whole zip file"),
        ("directory", r"not a whole zip file|not a zip file"),
    ],
)
def test_a_damaged_zip(kind, message, entry, tmp_path):
    path = with_damage(written(tmp_path / "a.zip", entry), kind)
    with pytest.raises(InputError, match=message):
        checked(path, entry)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("1 Q0 d3 1 ", "1 Q0 d3\u00a01 ", r"white space U\+00A0 at column 8"),
        ("1 Q0 d3 1 0.5 ", "1 Q0 d3 1 1_0.0 ", "score '1_0.0', expected a finite number"),
        ("1 Q0 d3 1 0.5 ", "1 Q0 d3 1 1e39 ", "score '1e39', expected a finite number"),
    ],
)
def test_what_python_reads_and_a_judge_does_not(old, new, message, entry, tmp_path):
    path = rewritten(written(tmp_path / "a.zip", entry), tmp_path / "b.zip", old, new)
    with pytest.raises(InputError, match=f"line 1: found {message}"):
        checked(path, entry)


@pytest.mark.parametrize("qid", ["=1+1", "+1", "-1", "@1", "a,b", 'a"b'])
def test_ids_that_a_table_would_calculate(qid, entry, tmp_path):
    strange = entry.__class__("en", "known", {qid: {"d1": 1.0}}, [qid], entry.passages)
    with pytest.raises(InputError, match="csv cannot hold the id .*; take trec"):
        written(tmp_path / "a.zip", strange, PROFILES["csv"])
    assert not list(tmp_path.glob("a.zip*"))


def test_a_manifest_names_no_place_of_the_machine(config, folder, tmp_path):
    """Inputs are named by what they are and their digest, so that anybody's bytes are the same."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    texts = []
    for place in ("here", "there"):
        (tmp_path / place / "ds.json").write_text("{}")
        (tmp_path / place / "model").mkdir()
        (tmp_path / place / "model" / "config.json").write_text("{}")
        small = config(
            work=str(tmp_path / place / "work"),
            ranking={
                "rankers": {
                    "a": {
                        "deepspeed": str(tmp_path / place / "ds.json"),
                        "backbone": str(tmp_path / place / "model"),
                        "teacher": str(tmp_path / place / "not" / "made"),
                    }
                }
            },
        )
        texts.append(json.dumps(portable(Task(small), small.model_dump(exclude={"work"}))))
    assert texts[0] == texts[1] and str(tmp_path) not in texts[0]
    assert '"path": "small"' in texts[0] and '"deepspeed": "ds.json 44136fa355b3678a"' in texts[0]
    assert '"teacher": "made"' in texts[0] and '"backbone": "model ' in texts[0]
