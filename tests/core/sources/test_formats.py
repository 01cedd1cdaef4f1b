"""SQuAD, BEIR, TREC and ir_datasets into MIRACL's format, and back through the strict reader."""

import gzip
import json

import pytest

from core.collection import Collection
from core.errors import InputError
from core.records import Document, Query
from core.sources import beir, irds, squad, trec
from core.sources.writing import write_language


def run(module, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", [module.__name__, *map(str, arguments)])
    module.main()


def written(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    return path


def article(title, *paragraphs):
    return {"title": title, "paragraphs": [{"context": c, "qas": qas} for c, *qas in paragraphs]}


def asked(number, text, **more):
    return {"id": number, "question": text, "answers": [{"text": "x", "answer_start": 0}], **more}


def test_squad(tmp_path, monkeypatch, capsys):
    dev = written(
        tmp_path / "dev.json",
        {
            "data": [
                article(
                    "Kenya",
                    (
                        "The capital is Nairobi.",
                        asked("q 1", "Which\tcapital?"),
                        asked("2", "No?", is_impossible=True),
                    ),
                    ("Tea.",),
                ),
                article("Oslo", ("A fjord.", asked("3", "What?", answers=[]))),
            ]
        },
    )
    train = written(
        tmp_path / "train.json", {"data": [article("Kenya", ("Tea.", asked("4", "What grows?")))]}
    )
    run(squad, monkeypatch, tmp_path / "out", "en", f"train={train}", f"dev={dev}")
    assert (
        "en: 3 passages; train 1 queries, 1 judgments; dev 1 queries, 1 judgments "
        "(2 questions without an answer left out)" in capsys.readouterr().out
    )
    collection = Collection(tmp_path / "out")
    assert list(collection.documents("en")) == [
        ("0#0", "Kenya", "Tea."),
        ("0#1", "Kenya", "The capital is Nairobi."),
        ("1#0", "Oslo", "A fjord."),
    ], "one Tea. of two files"
    assert collection.queries("en", "dev") == [("q1", "Which capital?")] and collection.judgments(
        "en", "train"
    ) == {"4": {"0#0": 1}}
    run(squad, monkeypatch, tmp_path / "out", "en", f"dev={dev}")
    assert "en: is there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "text that is not JSON"),
        ('{"data": 1}', 'expected {"data": '),
        (None, "no such file"),
    ],
)
def test_bad_squad(tmp_path, content, message):
    if content:
        (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match=message):
        squad.Squad({"dev": tmp_path / "x.json"})


def test_squad_ids_twice(tmp_path):
    with pytest.raises(InputError, match="dev: question id 1 a second time"):
        squad.Squad(
            {
                "dev": written(
                    tmp_path / "x.json",
                    {"data": [article("a", ("c", asked("1", "x"), asked("1", "y")))]},
                )
            }
        )


def beir_folder(folder, qrels="query-id\tcorpus-id\tscore\nq 1\td 1\t2\nq 1\td2\t-1\n"):
    written(
        folder / "corpus.jsonl",
        '{"_id": "d 1", "title": "T", "text": "one"}\n{"_id": "d2", "text": "two"}\n',
    )
    with gzip.open(folder / "queries.jsonl.gz", "wt") as file:
        file.write('{"_id": "q 1", "text": "ask"}\n{"_id": "q2", "text": "not judged"}\n')
    written(folder / "qrels" / "dev.tsv", qrels)
    return folder


def test_beir(tmp_path, monkeypatch):
    run(beir, monkeypatch, tmp_path / "out", "en", beir_folder(tmp_path / "in"))
    collection = Collection(tmp_path / "out")
    assert list(collection.documents("en")) == [("d_1", "T", "one"), ("d2", "", "two")]
    assert collection.queries("en", "dev") == [("q_1", "ask")] and collection.judgments(
        "en", "dev"
    ) == {"q_1": {"d_1": 2, "d2": 0}}


@pytest.mark.parametrize(
    "qrels, message",
    [
        ("q9\td2\t1\n", "judged queries that queries.jsonl lacks: 1, first q9"),
        ("q 1\td2\n", "line 1: found 'q 1.td2', expected query-id TAB"),
    ],
)
def test_bad_beir(tmp_path, qrels, message):
    with pytest.raises(InputError, match=message):
        beir.splits(beir_folder(tmp_path, qrels))
    (tmp_path / "corpus.jsonl").write_text('{"_id": "", "text": "x"}\n')
    with pytest.raises(InputError, match='line 1: found .*, expected "_id" and "text"'):
        list(beir.documents(tmp_path))
    with pytest.raises(InputError, match="no corpus.jsonl or corpus.jsonl.gz"):
        list(beir.documents(tmp_path / "none"))


DOCS = """<DOC>
<DOCNO> A-1 </DOCNO>
<HEADLINE>Tea &amp; milk</HEADLINE>
<TEXT>
<P>Tea grows
in Kenya.</P>
</TEXT>
</DOC>
<DOC>
<DOCNO>A-2</DOCNO>
<TEXT>Oslo</TEXT>
</DOC>
"""
TOPS = """<top>
<num> Number: 301
<title> Topic: where tea
 grows
<desc> x
</top>
<top><num>302</num><title>Oslo</title></top>
"""


def test_trec(tmp_path, monkeypatch):
    docs, tops = written(tmp_path / "a.sgml", DOCS), written(tmp_path / "topics", TOPS)
    more = written(tmp_path / "b.jsonl", '{"id": "B-1", "contents": "a fjord"}\n')
    qrels = written(tmp_path / "qrels", "301 0 A-1 1\n302 0 A-2 0\n")
    run(
        trec,
        monkeypatch,
        tmp_path / "out",
        "en",
        "--documents",
        docs,
        more,
        "--topics",
        f"dev={tops}",
        "--qrels",
        f"dev={qrels}",
    )
    collection = Collection(tmp_path / "out")
    assert list(collection.documents("en")) == [
        ("A-1", "Tea & milk", "Tea grows in Kenya."),
        ("A-2", "", "Oslo"),
        ("B-1", "", "a fjord"),
    ]
    assert collection.queries("en", "dev") == [
        ("301", "where tea grows"),
        ("302", "Oslo"),
    ] and collection.judgments("en", "dev")["301"] == {"A-1": 1}
    assert trec.topics(written(tmp_path / "t.tsv", "1\twhere\n")) == [Query("1", "where")]


def test_bad_trec(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="line 1: found a <DOC> without <DOCNO>"):
        list(trec.documents([written(tmp_path / "a", "<DOC>\n<TEXT>x</TEXT>\n</DOC>\n")]))
    (tmp_path / "latin").write_bytes("<DOC>\né\n".encode("latin-1"))
    with pytest.raises(
        InputError, match="line 2: found byte 0xe9 at column 1, expected UTF-8 text"
    ):
        list(trec.documents([tmp_path / "latin"]))
    with pytest.raises(
        InputError, match="found \\['docid'\\], expected docid \\(or id\\) and text"
    ):
        list(trec.documents([written(tmp_path / "a.jsonl", '{"docid": "1"}\n')]))
    with pytest.raises(InputError, match="a <top> without <num> or <title>"):
        trec.topics(written(tmp_path / "t", "<top><num>1</num></top>"))
    with pytest.raises(InputError, match="line 1: found 'no tab', expected query-id TAB query"):
        trec.topics(written(tmp_path / "t", "no tab\n"))
    with pytest.raises(InputError, match="line 3: found 'no tab', expected query-id TAB query"):
        trec.topics(written(tmp_path / "t", "1\ta\n\nno tab\n"))
    with pytest.raises(InputError, match="--qrels: the split dev has no --topics"):
        run(
            trec,
            monkeypatch,
            tmp_path / "o",
            "en",
            "--documents",
            tmp_path / "a",
            "--topics",
            f"test={tmp_path / 't'}",
            "--qrels",
            f"dev={tmp_path / 'q'}",
        )


def test_ir_datasets(tmp_path, monkeypatch):
    import ir_datasets

    data = ir_datasets.create_dataset(
        docs_tsv=str(written(tmp_path / "docs.tsv", "d 1\tTea grows\nd2\tOslo\n")),
        queries_tsv=str(written(tmp_path / "q.tsv", "1\twhere\n2\tnot judged\n")),
        qrels_trec=str(written(tmp_path / "qrels", "1 0 d2 1\n1 0 x 0\n")),
    )
    monkeypatch.setattr(ir_datasets, "load", lambda name: {"mine/dev": data}[name])
    run(irds, monkeypatch, tmp_path / "out", "en", "dev=mine/dev")
    collection = Collection(tmp_path / "out")
    assert list(collection.documents("en")) == [
        Document("d_1", "", "Tea grows"),
        Document("d2", "", "Oslo"),
    ]
    assert collection.queries("en", "dev") == [("1", "where")] and collection.judgments(
        "en", "dev"
    ) == {"1": {"d2": 1, "x": 0}}
    with pytest.raises(InputError, match="ir_datasets has no 'mine/test'"):
        run(irds, monkeypatch, tmp_path / "other", "en", "dev=mine/test")
    with pytest.raises(InputError, match="expected OUT LANGUAGE SPLIT=ID"):
        run(irds, monkeypatch, tmp_path / "other")
    with pytest.raises(InputError, match="mr-tydi has no fr; it has ar, bn"):
        run(irds, monkeypatch, tmp_path / "other", "--known", "mr-tydi", "--languages", "fr")


def test_known_names_are_in_the_catalogue():
    import ir_datasets

    for languages, names in irds.KNOWN.values():
        assert all(
            name.format(la) in ir_datasets.registry for la in languages for name in names.values()
        )


def test_nothing_half_written_is_taken_for_whole(tmp_path):
    def broken():
        yield Document("1", "", "x")
        raise InputError("broken")

    with pytest.raises(InputError, match="broken"):
        write_language(tmp_path, "en", broken, dict)
    assert not (tmp_path / "en").exists()
    assert "en: 1 passages" in write_language(
        tmp_path,
        "en",
        lambda: [Document("1", "", "x")],
        lambda: {"dev": ([Query("1", "q")], {"1": {"1": 1}})},
    )


@pytest.mark.parametrize(
    "queries, qrels, message",
    [
        (
            [Query("1 2", "x")],
            {},
            "query '1 2' with the text 'x', expected an id without white space",
        ),
        ([Query("1", " ")], {}, "query '1' with the text ' '"),
        (
            [Query("1", "x")],
            {"7": {"d": 1}},
            r"none of the 1 judged queries is among the 1 topics \(the first: 7\)",
        ),
    ],
)
def test_splits_that_make_no_sense(tmp_path, queries, qrels, message):
    with pytest.raises(InputError, match=message):
        write_language(
            tmp_path, "en", lambda: [Document("1", "", "x")], lambda: {"dev": (queries, qrels)}
        )
