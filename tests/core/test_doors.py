"""What a configuration may not say: names that lead elsewhere, numbers without bounds, odd YAML."""

import subprocess
from pathlib import Path

import pytest

from core.config import load_config, parse_yaml
from core.errors import InputError

ROOT = Path(__file__).parents[2]
NAMED = "expected a name of letters"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("collection: {source: atlas}\nretrieval: {depth: 50}\n")
    return path


@pytest.mark.parametrize(
    "argument, message",
    [
        ("name=..", f"name: found '..', {NAMED}"),
        ("name=.", f"name: found '.', {NAMED}"),
        ("name=a/b", f"name: found 'a/b', {NAMED}"),
        ("name=shared", r"name: found 'shared', .* none of shared, digests, collection"),
        ("name=digests", "name: found 'digests'"),
        ("name=a.part", "name: found 'a.part', .* does not end with .part"),
        ("name=-x", "name: found '-x', .* begins with a letter"),
        ('name="a\\n"', "name: found 'a.n'"),
        (f"name={'a' * 101}", "of at most 100 characters"),
        ("name=größe", "name: found 'größe'"),
        ("ranking.rankers={'../../../evil': {}}", r"ranking.rankers.*: found '../../../evil'"),
        ("ranking.rankers={'my ranker': {}}", "found 'my ranker', expected a name of letters"),
        ("ranking.chain={'a b': {}}", "found 'a b', expected a name"),
        ("retrieval.encoders={'a/b': {}}", "found 'a/b', expected a name"),
        ("data_aug={default: {}, '..': {}}", r"found '\.\.', expected a name"),
        ("ensemble.runs={'a b': DIR}", "found 'a b', expected a name"),
        ("languages=[../en]", r"languages.0: found '../en', expected String should match|pattern"),
        ("languages=[EN]", "languages.0: found 'EN'"),
        ("retrieval.bm25.per_language={../x: {k1: 1.0}}", "found '../x'"),
        ("splits.test=../testA", "splits.test: found '../testA', expected a name"),
        ("submission.tag=a b", "submission.tag: found 'a b', expected a name"),
        ("collection={source: disk, path: '..'}", "collection.path: found '..', expected a folder"),
        ("collection={source: disk, path: 'a/..'}", "expected a folder with a name of its own"),
        ("collection={source: disk, path: '.'}", "collection.path: found '.', expected a folder"),
        ("collection={source: disk, path: /}", "collection.path: found '/', expected a folder"),
        ("collection={source: disk, path: a/models}", "found 'a/models', expected a folder"),
    ],
)
def test_names_stay_within_their_folder(argument, message, file):
    with pytest.raises(InputError, match=message):
        load_config(file, [argument])


@pytest.mark.parametrize(
    "argument, message",
    [
        ("retrieval.bm25.k1=1e999", "retrieval.bm25.k1: found inf, expected a finite number"),
        ("retrieval.bm25.k1=1e300", "retrieval.bm25.k1: found 1e.300, expected less than or equal"),
        ("retrieval.depth=3000000000", "retrieval.depth: found 3000000000, expected less than or"),
        ("candidates=200000", "candidates: found 200000, expected less than or equal to 100000"),
        ("retrieval.bm25.heap=0m", "retrieval.bm25.heap: found '0m'"),
        ("retrieval.bm25.heap=9999999g", "retrieval.bm25.heap: found '9999999g'"),
        ("retrieval.bm25.heap=٣g", "retrieval.bm25.heap: found '٣g'"),
        ("ranking.rankers.base.learning_rate=1e30", "learning_rate: found 1e.30, expected less"),
        ("ranking.rankers.base.steps=99999999999", "steps: found 99999999999, expected less than"),
        ("ranking.rankers.base.clip=1e400", "clip: found inf, expected a finite number"),
        ("seed=99999999999999999999", "seed: found 99999999999999999999, expected"),
        ("data_aug.default.select.below=1e999", "below: found inf, expected a finite number"),
        ("ensemble.weights={base: 0, hybrid: 0}", "ensemble.weights: found no weight above 0"),
        (
            "ensemble.weights={base: 1, hybird: 1}",
            r"ensemble.weights.hybird: there is none of this name; did you mean .*hybrid\?",
        ),
        ("retrieval.hybrid.weights={bm25: 0, dense: 0}", "found no weight above 0"),
        ("retrieval.hybrid.weights={bm25: 1, run: 1}", "weights.run: there is none of this name"),
    ],
)
def test_numbers_have_bounds(argument, message, file):
    with pytest.raises(InputError, match=message):
        load_config(file, [argument])


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 10)}]\n"
    for below, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text, message",
    [
        (LAUGHS, "more than 100000 values, expected a configuration"),
        ("a: &a [*a]", "more than 100000 values"),
        ("? [a, b]\n: 1", "found a list or mapping as a key, expected a name"),
        ("? {a: b}\n: 1", "found a list or mapping as a key"),
        ("seed: !!int abc", "a value does not fit its tag"),
        ("seed: !!bool abc", "a value does not fit its tag"),
        ("seed: !!timestamp abc", "not valid YAML"),
        ("seed: !!python/object/apply:os.system [ls]", "not valid YAML: could not determine a con"),
        ("[" * 20000, "not valid YAML: nested too deeply"),
        ("a: 1\na: 2", "found key 'a' a second time"),
        ("a: \x00", "not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML: expected a single document"),
    ],
)
def test_odd_yaml(text, message):
    with pytest.raises(InputError, match=f"^place: .*{message}"):
        parse_yaml(text, "place")


def test_aliases_are_read():
    assert parse_yaml("a: &a {b: 1}\nc: {<<: *a, d: 2}", "x") == {
        "a": {"b": 1},
        "c": {"b": 1, "d": 2},
    }


@pytest.mark.parametrize(
    "content, message",
    [
        (b"extends: 5\n", "extends: found 5, expected a file's name"),
        (b"extends: [a]\n", r"extends: found \['a'\], expected a file's name"),
        (b"extends: ''\n", "extends: found '', expected a file's name"),
        (b"extends: .\n", "is a folder, expected a file"),
        (b"name: \xff\n", "line 1: found byte 0xff at column 7, expected UTF-8 text"),
        (b"\xef\xbb\xbfname: a\n", "line 1: found a byte order mark"),
        (b"5: x\n", "found 5, expected"),
        (b"null: x\n", "expected"),
        (b"- a\n", "found list, expected keys and values"),
    ],
)
def test_odd_files(content, message, tmp_path):
    (tmp_path / "odd.yaml").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_config(tmp_path / "odd.yaml")


def test_a_second_configuration_is_an_error():
    """The first one was left aside, and all of the second one's work done."""
    command = ["./run_all.sh", "configs/demo.yaml", "configs/minimiracl.yaml", "--plan"]
    end = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert end.returncode == 2
    assert "found a second configuration, configs/minimiracl.yaml" in end.stderr
