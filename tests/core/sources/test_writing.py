"""A converter that reports success has written what the collection's reader takes."""

import pytest

from core.collection import Collection
from core.errors import InputError
from core.records import Document, Query
from core.sources import squad, trec, writing

TEA = Document("d1", "Tea", "Tea grows in Kenya.")
WHERE = Query("1", "where does tea grow")


def write(folder, documents=(TEA,), queries=(WHERE,), qrels=None, language="en", split="dev"):
    judged = {"1": {"d1": 1}} if qrels is None else qrels
    return writing.write_language(
        folder, language, lambda: documents, lambda: {split: (queries, judged)}
    )


def test_what_is_written_is_read(tmp_path):
    write(tmp_path / "out")
    collection = Collection(tmp_path / "out")
    assert list(collection.documents("en")) == [TEA] and collection.queries("en", "dev") == [WHERE]


@pytest.mark.parametrize(
    "given, message",
    [
        ({"documents": []}, "en: found no passage, expected some; is it the right file"),
        ({"documents": [TEA, TEA._replace(docid="d2"), TEA]}, "1 docids stand twice, .* 1 and 3;"),
        (
            {"documents": [TEA._replace(docid="a b")]},
            "passage 1: docid 'a b', expected one without",
        ),
        ({"documents": [TEA._replace(docid="")]}, "passage 1: docid '', expected one without"),
        ({"documents": [TEA._replace(docid="a\x00")]}, "control characters"),
        ({"documents": [TEA._replace(docid="d" * 513)]}, "of at most 512 bytes"),
        (
            {"documents": [TEA._replace(text="\ud800")]},
            "docid d1: expected a title and a text, both",
        ),
        ({"documents": [TEA._replace(title=5)]}, "docid d1: expected a title and a text"),
        ({"queries": []}, "en-dev: no topics, expected some"),
        ({"queries": [WHERE, WHERE]}, "en-dev: 1 query ids stand twice, first 1; expected each"),
        ({"queries": [Query("a b", "x")]}, "query 'a b' .* expected an id without white space"),
        ({"queries": [Query("", "x")]}, "expected an id without white space"),
        ({"queries": [Query("1", " ")]}, "expected an id without white space and some text"),
        ({"qrels": {"2": {"d1": 1}}}, "none of the 1 judged queries is among the 1 topics"),
        ({"language": "english"}, "language 'english', expected two or three small letters"),
        ({"language": "EN"}, "language 'EN'"),
        ({"language": ".."}, r"language '\.\.'"),
        ({"split": "../dev"}, r"split '../dev', expected a name of letters"),
    ],
)
def test_what_no_collection_can_have(given, message, tmp_path):
    with pytest.raises(InputError, match=message):
        write(tmp_path / "out", **given)
    assert not (tmp_path / "out" / "en").exists() and not (tmp_path / "out" / "english").exists()


DOC = "<DOC>\n<DOCNO>1</DOCNO>\n<TEXT>tea</TEXT>\n</DOC>\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("<DOC><DOCNO>1</DOCNO><TEXT>tea</TEXT></DOC>\n", "line 1: found .*alone on a line"),
        (DOC + "<DOC>\n<DOCNO>2</DOCNO>\n", "the <DOC> of line 5 is not closed"),
        ("<DOC>\n<DOCNO>1</DOCNO>\n" + DOC, "line 3: found <DOC> within that of line 1"),
        ("</DOC>\n", "line 1: found </DOC> without <DOC>"),
        ("<DOC>\n<DOCNO>1</DOCNO></DOC>\n", "line 2: found .*alone on a line"),
        ("\ufeff" + DOC, "line 1: found a byte order mark"),
    ],
)
def test_tagged_documents_are_not_lost(text, message, tmp_path):
    """They were passed over, and the converter reported success."""
    (tmp_path / "docs").write_text(text, "utf-8")
    with pytest.raises(InputError, match=message):
        list(trec.documents([tmp_path / "docs"]))


def article(**paragraph):
    whole = {"context": "Tea", "qas": [{"id": "1", "question": "what", "answers": [{}]}]}
    return {"data": [{"title": "Tea", "paragraphs": [{**whole, **paragraph}]}]}


@pytest.mark.parametrize(
    "content",
    [
        article(context=5),
        article(qas=None),
        article(qas=[5]),
        article(qas=[{"id": "1"}]),
        article(qas=[{"question": "what", "answers": [{}]}]),
        article(qas=[{"id": [], "question": "what"}]),
        {"data": [{"title": 5, "paragraphs": []}]},
        {"data": [{"paragraphs": [5]}]},
        {"data": 5},
        [],
    ],
)
def test_broken_squad(content, tmp_path):
    import json

    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="a.json: (expected|found a list, expected)"):
        squad.Squad({"dev": tmp_path / "a.json"})
