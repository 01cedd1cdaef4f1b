"""Whatever the bytes: an InputError, or a value that writes back to an equal one.

In the ordinary suite a hundred examples a reader; with CAMPAIGN_EXAMPLES as many as that says.
"""

import json
import os
import zipfile
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.collection import parse_document, read_qrels, read_topics
from core.config import from_layers, parse_yaml
from core.errors import InputError
from core.passages import Passages, build_passages
from core.records import Document
from core.runs import StoredRun, read_rankings, read_run, write_run
from core.sources.writing import write_qrels
from ensemble.profiles import PROFILES, Entry
from ensemble.submit import check

EXAMPLES = int(os.environ.get("CAMPAIGN_EXAMPLES", "100"))
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=EXAMPLES == 100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

WORDS = st.sampled_from(
    ["1", "2", "Q0", "0", "d1", "d2", "a#0", "0.5", "-1", "1e3", "nan", "inf", "1e39", "1_0", "²",
     "\u00a0", "\u2028", "\ufeff", "\0", "\x1c", "", "t", "字", "9" * 30]
)  # fmt: skip
GAPS = st.sampled_from([" ", "\t", "  ", "\n", "\r\n", "\r", "\u3000"])
PIECES = st.lists(st.tuples(WORDS, GAPS), max_size=40)
LIKE_LINES = PIECES.map(lambda pairs: "".join(word + gap for word, gap in pairs).encode())
CONTENT = st.one_of(LIKE_LINES, st.binary(max_size=200), st.text(max_size=80).map(str.encode))


def read_or_refused(read, path: Path, content: bytes):
    """What a reader makes of some bytes; None where it refuses them in one line."""
    path.write_bytes(content)
    try:
        return read(path)
    except InputError as error:
        assert "\n" not in str(error).replace(repr(content)[2:-1], "")
        assert str(path.parent) in str(error)
        return None


@fuzzed
@given(content=CONTENT)
def test_runs(content, tmp_path):
    run = read_or_refused(read_run, tmp_path / "run", content)
    if run is not None:
        write_run(tmp_path / "again", run, "tag")
        assert read_run(tmp_path / "again") == run
        assert dict(read_rankings(tmp_path / "again")) == run
        assert dict(StoredRun(tmp_path / "again")) == run


@fuzzed
@given(content=CONTENT)
def test_judgments(content, tmp_path):
    qrels = read_or_refused(read_qrels, tmp_path / "qrels", content)
    if qrels is not None:
        write_qrels(tmp_path / "again", qrels)
        assert read_qrels(tmp_path / "again") == qrels


@fuzzed
@given(content=CONTENT)
def test_topics(content, tmp_path):
    queries = read_or_refused(read_topics, tmp_path / "topics", content)
    if queries is not None:
        lines = "".join(f"{query.qid}\t{query.text}\n" for query in queries)
        (tmp_path / "again").write_bytes(lines.encode())
        assert read_topics(tmp_path / "again") == queries


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
RECORDS = st.fixed_dictionaries(
    {}, optional={name: st.text(max_size=20) | JSON for name in ("docid", "title", "text")}
)


@fuzzed
@given(line=st.one_of((RECORDS | JSON).map(lambda value: json.dumps(value).encode()), CONTENT))
def test_lines_of_a_corpus(line, tmp_path):
    try:
        document = parse_document(tmp_path / "docs", 3, line)
    except InputError as error:
        assert str(error).startswith(f"{tmp_path}/docs, line 3: found ")
        return
    build_passages([document], tmp_path)
    (stored,) = Passages(tmp_path).documents()
    assert stored == document._replace(title=document.title.replace("\0", " "))


KEYS = st.sampled_from(
    ["name", "seed", "languages", "retrieval", "ranking", "rankers", "limit", "x"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@fuzzed
@given(text=st.one_of(st.dictionaries(KEYS, VALUES, max_size=4).map(yaml.safe_dump), st.text()))
def test_configurations(text):
    try:
        value = parse_yaml(text, "a text")
        if not isinstance(value, dict) or any(not isinstance(key, str) for key in value):
            return
        layers = [("below", {"collection": {"source": "atlas"}}), ("a text", value)]
        config = from_layers(layers, "a text", "name")
    except InputError:
        return
    again = parse_yaml(yaml.safe_dump(config.model_dump(mode="json")), "again")
    assert from_layers([("again", again)], "again", "name").model_dump() == config.model_dump()


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    build_passages([Document(f"d{number}", "", "text") for number in range(3)], folder)
    return Entry("en", "known", {}, ["1", "2"], Passages(folder))


@fuzzed
@given(
    content=CONTENT, flips=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), max_size=3)
)
def test_submissions(content, flips, entry, tmp_path):
    path = tmp_path / "given.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("known/en-testA.trec", content)
    damaged = bytearray(path.read_bytes())
    for place, by in flips:
        damaged[place % len(damaged)] ^= by
    path.write_bytes(damaged)
    try:
        lines = check(path, {"en": entry}, "testA", PROFILES["miracl"], 3)
    except InputError as error:
        assert str(path) in str(error)
        return
    assert sum(lines.values()) >= 2, "every query is answered"
