import gzip
import json
import shutil

import pytest

from core.collection import Collection, check
from core.errors import InputError
from core.passages import Passages, build_passages, document_text
from core.records import Document


def corpus(folder, *records, name="docs-0.jsonl"):
    for old in (folder / "en" / "corpus").iterdir():
        old.unlink()
    (folder / "en" / "corpus" / name).write_bytes(
        b"".join(
            r if isinstance(r, bytes) else json.dumps(r, ensure_ascii=False).encode() + b"\n"
            for r in records
        )
    )


def record(docid, text="text", title=""):
    return {"docid": docid, "title": title, "text": text}


def test_passages_by_docid(tmp_path):
    documents = [
        Document("b#1", "", "zwei\nZeilen"),
        Document("a#10", "Titel", "ชาติ"),
        Document("a#2", "T", "x"),
    ]
    assert build_passages(documents, tmp_path) == 3
    store = Passages(tmp_path)
    assert list(store.documents()) == documents
    assert store.text("a#10") == "Titel\nชาติ" and store.text("b#1") == "zwei\nZeilen"
    assert store.rows(["a#2", "b#1", "a#10", "b"], strict=False).tolist() == [2, 0, 1, -1]
    with pytest.raises(InputError, match="no passage zz; the docid is of another collection"):
        store.rows(["a#2", "zz"])


def test_document_text_joins_with_a_newline():
    assert (
        document_text(Document("1", "T", "x")) == "T\nx"
        and document_text(Document("1", "", "x")) == "x"
    )


def test_reads_queries_judgments_and_languages(folder):
    collection = Collection(folder)
    assert collection.languages == ["de", "en", "sw"]
    assert [q.qid for q in collection.queries("en", "train")] == ["1", "2"]
    assert collection.judgments("sw", "dev") == {"2": {"c#0": 1, "b#0": 0}}
    assert collection.surprise("de") and not collection.surprise("en")


def test_the_hubs_names(folder, tmp_path):
    hub = tmp_path / "hub"
    shutil.copytree(folder / "en" / "corpus", hub / "miracl-corpus-v1.0-en")
    for kind in ("topics", "qrels"):
        (hub / "miracl-v1.0-en" / kind).mkdir(parents=True)
        for split, name in (("train", "train"), ("testA", "test-a")):
            shutil.copy(
                folder / "en" / kind / f"{kind}.en-{split}.tsv",
                hub / "miracl-v1.0-en" / kind / f"{kind}.miracl-v1.0-en-{name}.tsv",
            )
    collection = Collection(hub)
    assert [d.docid for d in collection.documents("en")] == ["a#0", "a#1", "b#0", "c#0", "d#0"]
    assert [q.qid for q in collection.queries("en", "testA")] == ["4"]


def test_shards_in_the_order_of_their_numbers(folder):
    corpus(folder, record("x"), name="docs-10.jsonl")
    (folder / "en" / "corpus" / "docs-2.jsonl").write_text(json.dumps(record("y")))
    assert [p.name for p in Collection(folder).corpus_files("en")] == [
        "docs-2.jsonl",
        "docs-10.jsonl",
    ]


def test_test_judgments_are_refused(folder):
    with pytest.raises(InputError, match="judgments of en-testA are read by the evaluation only"):
        Collection(folder).judgments("en", "testA")


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "1 query\n",
            r"topics.en-dev.tsv, line 1: found 1 columns, expected 2: query-id TAB query",
        ),
        ("1\tq\n1\tr\n", "line 2: found query id 1 a second time"),
        ("1\tq\n2\t \n", "line 2: found an empty query, expected query-id TAB query"),
        ("", "no queries, expected lines of query-id TAB query"),
    ],
)
def test_wrong_topics(folder, text, message):
    (folder / "en" / "topics" / "topics.en-dev.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        Collection(folder).queries("en", "dev")


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "3 Q0 d#0\n",
            "qrels.en-dev.tsv, line 1: found 3 columns, expected 4: query-id Q0 docid relevance",
        ),
        ("3 Q0 d#0 yes\n", "line 1: found relevance 'yes', expected a whole number >= 0"),
        ("3 Q0 d#0 1\n3 Q0 d#0 0\n", "line 2: found passage d#0 a second time for query 3"),
    ],
)
def test_wrong_judgments(folder, text, message):
    (folder / "en" / "qrels" / "qrels.en-dev.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        Collection(folder).judgments("en", "dev")


@pytest.mark.parametrize(
    "records, message",
    [
        (
            [record("a"), record("b"), record("a")],
            "docids given twice: 1, first a; a docid names one passage",
        ),
        (
            [record("a"), b'{"docid": "b\xff"}\n'],
            r"docs-0.jsonl, line 2: found byte 0xff at column 13, expected UTF-8 text",
        ),
        ([b"{nonsense\n"], "line 1: found text that is not JSON"),
        ([{"docid": "a", "title": "t"}], r"line 1: found \['docid', 'title'\], expected strings"),
        ([record("a b")], "found docid 'a b', expected a docid without white space"),
        ([], "the corpus holds no passage"),
        (
            [record("a", ""), record("b", " "), record("c")],
            r"en: passages without text: 2, first a, b; mend the files, "
            r"or go on with collection.allow=\[empty_passages\]",
        ),
    ],
)
def test_wrong_corpus(folder, tmp_path, records, message):
    corpus(folder, *records)
    (tmp_path / "store").mkdir()
    with pytest.raises(InputError, match=message):
        build_passages(Collection(folder).documents("en"), tmp_path / "store")


def test_allowed_empty_passages_are_reported(folder, tmp_path, capsys):
    corpus(folder, record("a", ""), record("c"))
    assert len(list(Collection(folder, allow=["empty_passages"]).documents("en"))) == 2
    assert "allowed:" in capsys.readouterr().out


def test_a_truncated_gzip(folder):
    path = folder / "en" / "corpus" / "docs-0.jsonl.gz"
    path.write_bytes(
        gzip.compress(
            b"".join(json.dumps(record(str(i), "word " * i)).encode() + b"\n" for i in range(500))
        )[:-200]
    )
    with pytest.raises(InputError, match="the file is cut short or damaged"):
        list(Collection(folder).documents("en"))


def test_judgments_for_unknown_passages(folder, tmp_path, capsys):
    (folder / "en" / "qrels" / "qrels.en-dev.tsv").write_text(
        "".join(f"3 Q0 x#{i} 1\n" for i in range(7))
    )
    message = (
        "qrels.en-dev.tsv: judgments for unknown passages: 7, first x#0, x#1, x#2, x#3, x#4; "
        r"mend the files, or go on with collection.allow=\[unknown_passages\]"
    )
    with pytest.raises(InputError, match=message):
        check(folder, (), tmp_path / "scratch")
    check(folder, ["unknown_passages"], tmp_path / "scratch2")
    assert "allowed:" in capsys.readouterr().out


def test_missing_things(folder, tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder; collection.path must name"):
        Collection(tmp_path / "nowhere")
    with pytest.raises(
        InputError, match="no topics for language fr; topics are there for de, en, sw"
    ):
        Collection(folder, ["en", "fr"])
    with pytest.raises(
        InputError, match="language de has no topics for split train; it has dev, testA"
    ):
        Collection(folder).queries("de", "train")
    shutil.rmtree(folder / "en" / "corpus")
    with pytest.raises(InputError, match="no corpus for en, expected en/corpus/docs"):
        Collection(folder).corpus_files("en")


def test_a_second_file_of_one_split(folder):
    """The hub's name and the short one; the last in the alphabet counted."""
    short = folder / "en" / "topics" / "topics.en-dev.tsv"
    (short.parent / "topics.miracl-v1.0-en-dev.tsv").write_text("9\tanother question\n")
    with pytest.raises(InputError, match="a second file of topics for en-dev beside .*en-dev.tsv"):
        Collection(folder)


@pytest.mark.parametrize("name", ["topics.EN-dev.tsv", "topics.english-dev.tsv", "topics.en.tsv"])
def test_names_of_topics_that_say_no_language(name, folder):
    (folder / "en" / "topics" / name).write_text("9\tanother question\n")
    with pytest.raises(InputError, match=f"{name}: its name says neither language nor split, exp"):
        Collection(folder)
