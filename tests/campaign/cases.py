"""The table of the campaign: bad inputs, the door that each goes through, and what is to be said.

A case is a world (the small collection in a folder of its own), one change to it, a command, and a
pattern of the message. ``all_cases`` gives them all; the ordinary suite tries every sixteenth.
"""

import gzip
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from core.config import alternatives, part_in
from core.parts import Part
from core.settings import Config

BOM = b"\xef\xbb\xbf"
DOC = "<DOC>\n<DOCNO>1</DOCNO>\n<TEXT>tea</TEXT>\n</DOC>\n"
SQUAD = {
    "data": [
        {
            "title": "Tea",
            "paragraphs": [
                {"context": "Tea", "qas": [{"id": "1", "question": "what", "answers": [{}]}]}
            ],
        }
    ]
}


@dataclass(frozen=True)
class Case:
    """``change`` makes the bad input in the world; ``command`` is module and arguments there.

    ``expected``: a pattern of the line that is told.
    """

    name: str
    change: Callable[[Path], Any]
    command: tuple[str, ...]
    expected: str


def put(name: str, content: bytes | str | dict | list) -> Callable[[Path], Any]:
    """A change: a file of the world has this content."""

    def change(world: Path) -> None:
        path = world / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict | list):
            path.write_text(json.dumps(content))
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def replaced(name: str, make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """A change: in place of a file something else is made."""

    def change(world: Path) -> None:
        path = world / name
        path.unlink(missing_ok=True)
        make(path)

    return change


def nothing(_world: Path) -> None:
    """No change: the command is what is wrong."""


# ---- Files of lines: what every reader refuses

RUN = "1 Q0 d 1 0.5 t\n"
CHECK = ("core.collection", "--check", "small")
EVALUATE = ("core.evaluate", "given.trec", "given.qrels")
TOPICS = "small/en/topics/topics.en-dev.tsv"
QRELS = "small/en/qrels/qrels.en-dev.tsv"
CORPUS = "small/en/corpus/docs-0.jsonl"
TREC = ("core.sources.trec", "out", "en", "--documents", "docs", "--topics", "dev=topics")
BEIR = ("core.sources.beir", "out", "en", "beir")
SQUAD_COMMAND = ("core.sources.squad", "out", "en", "dev=squad.json")

FILES: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "run": ("given.trec", RUN.encode(), EVALUATE),
    "judgments to evaluate": ("given.qrels", b"1 Q0 d 1\n", EVALUATE),
    "topics": (TOPICS, b"3\twhere does tea grow\n", CHECK),
    "judgments": (QRELS, b"3 Q0 d#0 1\n", CHECK),
    "corpus": (CORPUS, b'{"docid": "a#0", "title": "", "text": "x"}\n', CHECK),
    "configuration": ("mine.yaml", b"collection: {source: atlas}\n", ("core.config", "mine.yaml")),
    "TREC documents": ("docs", DOC.encode(), TREC),
    "TREC topics": ("topics", b"1\twhere\n", TREC),
    "TREC judgments": ("judged", b"1 0 1 1\n", (*TREC, "--qrels", "dev=judged")),
    "BEIR corpus": ("beir/corpus.jsonl", b'{"_id": "1", "text": "x"}\n', BEIR),
    "BEIR queries": ("beir/queries.jsonl", b'{"_id": "1", "text": "x"}\n', BEIR),
    "BEIR judgments": ("beir/qrels/dev.tsv", b"1\t1\t1\n", BEIR),
    "SQuAD": ("squad.json", json.dumps(SQUAD).encode(), SQUAD_COMMAND),
    "ledger": ("work/small/ledger.jsonl", b"{}\n", ("ensemble.ledger", "small.yaml")),
    "ablation": ("rows.yaml", b"base: mine.yaml\nrows: {}\n", ("ensemble.ablate", "rows.yaml")),
}


def of_every_file() -> Iterator[Case]:
    """Byte order marks, bytes that are not UTF-8, zero bytes, folders, pipes, links to nowhere."""
    for kind, (name, content, command) in FILES.items():
        faults = {
            "a byte order mark": (put(name, BOM + content), "byte order mark"),
            "Latin-1": (put(name, b"\xe9" + content), "byte 0xe9"),
            "UTF-16": (put(name, content.decode().encode("utf-16")), "byte 0xff"),
            "half a character": (put(name, content + b"\xc3"), "byte 0xc3|not JSON"),
            "a folder": (replaced(name, Path.mkdir), "is a folder|no |found"),
            "a pipe": (replaced(name, os.mkfifo), "is a pipe or a device|no "),
            "a link to nowhere": (
                replaced(name, lambda path: path.symlink_to("nowhere")),
                "a link to nowhere|no |such",
            ),
        }
        if kind == "ledger":  # which may be missing, and {} is no entry
            del faults["a link to nowhere"], faults["half a character"]
        elif kind not in ("topics", "judgments"):  # a split may have none
            faults["missing"] = (replaced(name, lambda path: None), "no |such")
        for fault, (change, expected) in faults.items():
            yield Case(f"{kind}: {fault}", change, command, expected)


def of_lines(
    kind: str, name: str, command: tuple[str, ...], faults: dict[str, tuple[str, str]]
) -> Iterator[Case]:
    """Cases of one file, by what is wrong: (content, expected)."""
    for fault, (content, expected) in faults.items():
        yield Case(f"{kind}: {fault}", put(name, content), command, expected)


SCORES = [
    "nan",
    "inf",
    "-inf",
    "1e39",
    "-1e39",
    "1_0.0",
    "0x1p3",
    "١",
    "²",
    "",
    "1,5",
    "--1",
    "9" * 5000,
]
GRADES = ["-1", "1.0", "²", "٣", "1e3", "yes", str(2**31 - 1), str(10**30), "9" * 6000, "1_0", "+1"]
SPACES = ["\u00a0", "\u2003", "\u3000", "\x0b", "\x0c", "\x1c", "\x85", "\u2028"]


def of_runs() -> Iterator[Case]:
    """TREC runs."""
    lines = {
        "empty": ("", "the run is empty"),
        "blank": ("\n", "0 columns"),
        "five columns": ("1 Q0 d 1 0.5\n", "5 columns"),
        "seven columns": ("1 Q0 d 1 0.5 t u\n", "7 columns"),
        "a passage twice": (RUN + RUN, "a second time"),
        "a zero byte": ("1 Q0 \0d 1 0.5 t\n", "a zero byte"),
        "a blank line between": (f"{RUN}\n{RUN}", "line 2: found 0 columns"),
    }
    for score in SCORES:
        expected = "score|5 columns"
        lines[f"score {score[:9]!r}"] = (f"1 Q0 d 1 {score} t\n", expected)
    for space in SPACES:
        lines[f"U+{ord(space):04X} as a separator"] = (
            f"1{space}Q0 d 1 0.5 t\n",
            "white space U|columns|carriage",
        )
    yield from of_lines("run", "given.trec", EVALUATE, lines)


def of_judgments() -> Iterator[Case]:
    """TREC judgments, in a collection and beside a run."""
    for kind, name, command, qid in (
        ("judgments", QRELS, CHECK, "3"),
        ("judgments to evaluate", "given.qrels", EVALUATE, "1"),
    ):
        lines = {
            "empty": ("", "no judgments"),
            "three columns": (f"{qid} Q0 d\n", "3 columns"),
            "five columns": (f"{qid} Q0 d 1 2\n", "5 columns"),
            "a pair twice": (f"{qid} Q0 d#0 1\n{qid} Q0 d#0 0\n", "a second time"),
        }
        for grade in GRADES:
            lines[f"grade {grade[:9]!r}"] = (f"{qid} Q0 d#0 {grade}\n", "relevance")
        for space in SPACES:
            lines[f"U+{ord(space):04X} as a separator"] = (
                f"{qid}{space}Q0 d#0 1\n",
                "white space U|columns",
            )
        yield from of_lines(kind, name, command, lines)
    strangers = {
        "an unknown query": ("99 Q0 d#0 1\n", "judgments for queries without a topic"),
        "an unknown passage": ("3 Q0 zzz 1\n", "judgments for unknown passages"),
    }
    yield from of_lines("judgments", QRELS, CHECK, strangers)


def of_topics() -> Iterator[Case]:
    """Topics of a collection."""
    lines = {
        "empty": ("", "no queries"),
        "one column": ("3 where\n", "1 columns"),
        "three columns": ("3\twhere\twhat\n", "3 columns"),
        "an empty query": ("3\t \n", "an empty query"),
        "an empty id": ("\twhere\n", "an empty query id"),
        "an id twice": ("3\ta\n3\tb\n", "a second time"),
        "an id of 600 bytes": (f"{'q' * 600}\ta\n", "a query id of 600 bytes"),
        "an id with a bell": ("3\x07\ta\n", "control characters"),
        "a zero byte": ("3\ta\0\n", "a zero byte"),
    }
    for space in [" ", *SPACES]:
        lines[f"U+{ord(space):04X} in an id"] = (f"3{space}4\twhere\n", "query id|columns")
    yield from of_lines("topics", TOPICS, CHECK, lines)
    for name in ("topics.EN-dev.tsv", "topics.english-dev.tsv", "topics.en.tsv"):
        change = put(f"small/en/topics/{name}", "3\ta\n")
        yield Case(f"topics: named {name}", change, CHECK, "its name says neither language")
    second = put("small/en/topics/topics.miracl-v1.0-en-dev.tsv", "3\ta\n")
    yield Case("topics: a second file", second, CHECK, "a second file of topics for en-dev")


def document(**values: object) -> str:
    """A line of a corpus."""
    return json.dumps({"docid": "a#0", "title": "", "text": "x", **values}) + "\n"


def of_corpora() -> Iterator[Case]:
    """Lines of a corpus, and packed files."""
    lines = {
        "empty": ("", "the corpus holds no passage"),
        "not JSON": ("{\n", "text that is not JSON"),
        "a list": ("[]\n", "found list"),
        "a number": ("5\n", "found int"),
        "null": ("null\n", "found NoneType"),
        "a blank line": (document() + "\n", "line 2: found text that is not JSON"),
        "no docid": ('{"title": "", "text": ""}\n', "found .*text.*expected strings"),
        "no text": ('{"docid": "a"}\n', "found .*docid.*expected strings"),
        "a docid that is a number": (document(docid=5), "expected strings"),
        "a text that is a list": (document(text=["x"]), "expected strings"),
        "a title that is null": (document(title=None), "expected strings"),
        "a docid with a space": (document(docid="a b"), "docid 'a b'"),
        "a docid with a no-break space": (document(docid="a\u00a0b"), "docid 'a"),
        "a docid with a zero byte": (document(docid="a\0"), "docid 'a"),
        "an empty docid": (document(docid=""), "an empty docid"),
        "a docid of ten megabytes": (document(docid="a" * 10**7), "a docid of 10000000 bytes"),
        "a docid twice": (document() * 2, "docids given twice"),
        "an empty text": (document(text=" "), "passages without text"),
        "half of a surrogate pair": (document(text="\ud800"), "half of a surrogate pair"),
        "half of a pair in a docid": (document(docid="a\udfff"), "half of a surrogate pair"),
        "a number of 6000 digits": (f'{{"docid": {"9" * 6000}}}\n', "thousands of digits"),
        "deep nesting": ("[" * 100_000 + "\n", "nested too deeply"),
        "a second value": (document().strip() + " 5\n", "text that is not JSON"),
        "NaN as a text": ('{"docid": "a", "text": NaN}\n', "expected strings"),
    }
    yield from of_lines("corpus", CORPUS, CHECK, lines)
    packed = gzip.compress(document().encode() * 50)
    faults = {
        "cut off": packed[:-9],
        "cut off in its head": packed[:5],
        "not packed": document().encode(),
        "a flipped bit": packed[:20] + bytes([packed[20] ^ 255]) + packed[21:],
        "a wrong sum": packed[:-8] + b"\0\0\0\0" + packed[-4:],
        "something behind it": packed + b"more",
    }
    for fault, content in faults.items():
        change = put("small/en/corpus/docs-0.jsonl.gz", content)
        expected = "cut short or damaged|not JSON"
        yield Case(f"packed corpus: {fault}", change, CHECK, expected)


# ---- Configurations: every setting with values that it cannot have


def leaves(part: type[Part], path: str = "") -> Iterator[tuple[str, Any]]:
    """(key, type) of every setting; of dictionaries of names those of an entry named ``a``."""
    for name, field in part.model_fields.items():
        key = f"{path}{name}"
        inner = part_in(field.annotation)
        entry = None
        for one in alternatives(field.annotation):
            if get_origin(one) is dict:
                entry = part_in(get_args(one)[1])
        if inner:
            yield from leaves(inner, f"{key}.")
        elif entry:
            yield from leaves(entry, f"{key}.a.")
        else:
            yield key, field.annotation


def of_settings() -> Iterator[Case]:
    """A mapping, a number without bounds, and a text of nonsense for each setting."""
    command = ("core.config", "mine.yaml")
    for key, _ in leaves(Config):
        text = key.replace(".", r"\.")
        for what, value in (("a mapping", "{x: {y: 1}}"), ("infinity", "1e999")):
            yield Case(
                f"{key}: {what}",
                nothing,
                (*command, f"{key}={value}"),
                f"{text}|{key.rsplit('.', 1)[-1]}",
            )
        yield Case(
            f"{key}: an unknown key beside it",
            nothing,
            (*command, f"{key}x=1"),
            f"unknown key {text}x|expected|no such",
        )


NAMES = [
    "..",
    ".",
    "a/b",
    "../../../evil",
    "a b",
    "",
    "-x",
    "a\\n",
    "größe",
    "a" * 101,
    "a.part",
    "x\\0",
]
ARGUMENTS = {
    "seed": "expected key=value",
    "=1": "expected key=value",
    "name=[": "not valid YAML",
    "name=shared": "name: found 'shared'",
    "collection={source: disk, path: ..}": "expected a folder with a name",
    "collection={source: disk, path: /}": "expected a folder with a name",
    "collection={source: disk}": "collection.path is not set",
    "collection.path=DIR": "but collection.source is atlas",
    "retrieval.bm25.heap=0m": "heap: found '0m'",
    "retrieval.bm25.heap=2": "heap: found 2",
    "retrieval.depth=3000000000": "depth: found 3000000000",
    "retrieval.sources=[bm25, bm25]": "each name once",
    "retrieval.sources=[]": "at least 1",
    "retrieval.hybrid.weights={bm25: 0, dense: 0}": "no weight above 0",
    "retrieval.hybrid.weights={bm26: 1}": "there is none of this name",
    "ensemble.weights={base: 0, hybrid: 0}": "no weight above 0",
    "ensemble.weights={bass: 1}": "there is none of this name",
    "languages=[en, en]": "each name once",
    "languages=[EN]": "languages",
    "splits.dev=testA": "three different splits",
    "limit={trian: 3}": "no configured split",
    "ranking.rankers=null": "rankers",
    "ranking.rankers={}": "rankers",
    "ranking.rankers.base.learning_rate=1e30": "learning_rate",
    "ranking.rankers.base.recipe=none": "recipe: found 'none'",
    "ranking.rerank.depth=500": "handed candidates=200",
    "round=-1": "round",
}


def of_arguments() -> Iterator[Case]:
    """Arguments of command lines."""
    command = ("core.config", "mine.yaml")
    for argument, expected in ARGUMENTS.items():
        yield Case(f"argument {argument}", nothing, (*command, argument), expected)
    for name in NAMES:
        shown = name[:12]
        for key in ("ranking.rankers", "ranking.chain", "retrieval.encoders", "ensemble.runs"):
            value = "DIR" if key == "ensemble.runs" else "{}"
            argument = f'{key}={{"{name}": {value}}}'
            yield Case(f"{key} named {shown!r}", nothing, (*command, argument), "a name of letters")
        yield Case(f"name {shown!r}", nothing, (*command, f'name="{name}"'), "a name of letters")
    second = (*command, "other.yaml")
    yield Case("a second configuration", nothing, second, "expected key=value")
    reverse = ("ensemble.plan", "small.yaml", "--from", "ensemble", "--until", "data_aug")
    yield Case("until before from", nothing, reverse, "--until data_aug comes before")
    for hits in ("0", "-3", "²", "1e3", "9999999999999"):
        ask = ("retrieval.ask", "small.yaml", "en", "where", "--hits", hits)
        yield Case(f"--hits {hits}", nothing, ask, "--hits")
        compare = ("ensemble.compare", "given.trec", "given.trec", "--queries", hits)
        yield Case(f"compare --queries {hits}", nothing, compare, "--queries")
    for score in ("", "x", "=", "a=b", "x=nan"):
        enter = ("ensemble.ledger", "small.yaml", "--score", score)
        yield Case(f"--score {score!r}", nothing, enter, "--score")
    for shard in ("0/2", "3/2", "a/b", "²/3", "1/1", "/", ""):
        search = ("retrieval.search", "small.yaml", "--shard", shard)
        yield Case(f"--shard {shard!r}", nothing, search, "--shard")


YAML = {
    "complex keys": ("? [a, b]\n: 1\n", "a list or mapping as a key"),
    "!!int abc": ("seed: !!int abc\n", "does not fit its tag"),
    "!!bool abc": ("seed: !!bool abc\n", "does not fit its tag"),
    "a Python object": ("seed: !!python/object/apply:os.getpid []\n", "could not determine a con"),
    "extends a number": ("extends: 5\n", "extends: found 5"),
    "extends itself": ("extends: mine.yaml\n", "extends itself"),
    "extends nothing": ("extends: none.yaml\n", "no such configuration"),
    "deep nesting": ("[" * 20_000, "nested too deeply"),
    "an alias within itself": ("a: &a [*a]\n", "more than 100000 values"),
    "billion laughs": (
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]\n"
            for below, name in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "more than 100000 values",
    ),
    "a key twice": ("seed: 1\nseed: 2\n", "a second time"),
    "two documents": ("seed: 1\n---\nseed: 2\n", "a single document"),
    "a list": ("- a\n", "found list"),
    "a text": ("hello\n", "found str"),
    "a number as a key": ("5: x\n", "found 5|unknown key 5|Keys"),
    "tabs": ("a:\n\t- b\n", "not valid YAML"),
    "an anchor that is not there": ("a: *b\n", "not valid YAML"),
}

TAGGED = {
    "one line": ("<DOC><DOCNO>1</DOCNO></DOC>\n", "alone on a line"),
    "not closed": (DOC + "<DOC>\n", "is not closed"),
    "within another": ("<DOC>\n" + DOC, "within that of line 1"),
    "closed twice": (DOC + "</DOC>\n", "without <DOC>"),
    "no DOCNO": ("<DOC>\n</DOC>\n", "without <DOCNO>"),
    "nothing": ("hello\n", "found no passage"),
    "empty": ("", "found no passage"),
    "a docid twice": (DOC * 2, "docids stand twice"),
}
TAGGED_TOPICS = {
    "empty": ("", "no topics"),
    "no tab": ("1 where\n", "query-id TAB query"),
    "an id twice": ("1\ta\n1\tb\n", "query ids stand twice"),
    "an id with a space": ("1 2\ta\n", "without white space"),
    "an empty id": ("\ta\n", "without white space"),
    "an empty query": ("1\t\n", "some text"),
    "no number": ("<top>\n<title>a\n</top>\n", "without <num>"),
    "no title": ("<top>\n<num>1\n</top>\n", "without <num> or <title>"),
}
BROKEN_SQUAD: dict[str, Any] = {
    "a list": [],
    "no data": {},
    "data that is a number": {"data": 5},
    "an article that is a number": {"data": [5]},
    "no paragraphs": {"data": [{"title": "a"}]},
    "a paragraph that is a text": {"data": [{"paragraphs": ["a"]}]},
    "no context": {"data": [{"paragraphs": [{"qas": []}]}]},
    "no questions": {"data": [{"paragraphs": [{"context": "a"}]}]},
    "a question that is a number": {"data": [{"paragraphs": [{"context": "a", "qas": [5]}]}]},
    "a question without id": {
        "data": [{"paragraphs": [{"context": "a", "qas": [{"question": "b", "answers": [{}]}]}]}]
    },
    "nothing in it": {"data": []},
}
LEDGER = {
    "half a line": ('{"submission": "a', "text that is not JSON"),
    "a number": ("5\n", "an entry of a submission or of a score"),
    "an empty object": ("{}\n", "an entry of a submission or of a score"),
    "a score without a board": ('{"score_of": "a", "score": 1}\n', "an entry of a submission"),
    "a score that is a text": ('{"score_of": "a", "board": "b", "score": "1"}\n', "an entry of a"),
    "a submission without dev": ('{"submission": "a"}\n', "an entry of a submission"),
    "a blank line": ("\n", "text that is not JSON"),
}


def of_other_files() -> Iterator[Case]:
    """Configurations, and what the converters and the ledger read."""
    yield from of_lines("configuration", "mine.yaml", ("core.config", "mine.yaml"), YAML)
    yield from of_lines("TREC documents", "docs", TREC, TAGGED)
    yield from of_lines("TREC topics", "topics", TREC, TAGGED_TOPICS)
    yield from of_lines("ledger", FILES["ledger"][0], FILES["ledger"][2], LEDGER)
    for fault, content in BROKEN_SQUAD.items():
        expected = "expected|found no passage|found a list"
        yield Case(f"SQuAD: {fault}", put("squad.json", content), SQUAD_COMMAND, expected)
    for name in ("english", "EN", "..", "a/b", "e", ""):
        command = ("core.sources.squad", "out", name, "dev=squad.json")
        yield Case(f"language {name!r}", nothing, command, "two or three small letters")
    for split in ("../x", "a b", "", "a/b"):
        command = ("core.sources.squad", "out", "en", f"{split}=squad.json")
        yield Case(f"split {split!r}", nothing, command, "split|SPLIT=FILE")


# ---- Submissions


def submission(lines: str | None = None, damage: Callable[[bytes], bytes] | None = None) -> Any:
    """A change: ``given.zip`` of three languages, one with other lines or all with damage."""

    def change(world: Path) -> None:
        files = {
            "known/en-testA.trec": "4 Q0 b#0 1 2.0 t\n4 Q0 a#0 2 1.0 t\n",
            "known/sw-testA.trec": "3 Q0 b#0 1 2.0 t\n",
            "surprise/de-testA.trec": "2 Q0 b#0 1 2.0 t\n",
        }
        if lines is not None:
            files["known/en-testA.trec"] = lines
        with zipfile.ZipFile(world / "given.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in files.items():
                archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
        if damage:
            content = (world / "given.zip").read_bytes()
            (world / "given.zip").write_bytes(damage(content))

    return change


def flipped(at: Callable[[bytes], int]) -> Callable[[bytes], bytes]:
    """Damage: one byte is another."""

    def damage(content: bytes) -> bytes:
        place = at(content)
        return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]

    return damage


SUBMITTED = {
    "an unknown query": ("9 Q0 b#0 1 2.0 t\n", "unknown query 9"),
    "no query": ("", "queries without a passage|columns"),
    "an unknown passage": ("4 Q0 zzz 1 2.0 t\n", "unknown passage zzz"),
    "a passage twice": ("4 Q0 b#0 1 2.0 t\n4 Q0 b#0 2 1.0 t\n", "a second time"),
    "ranks from 0": ("4 Q0 b#0 0 2.0 t\n", "rank 0"),
    "equal scores": ("4 Q0 b#0 1 1.0 t\n4 Q0 a#0 2 1.0 t\n", "strictly decreasing"),
    "equal in float32": ("4 Q0 b#0 1 1.00000001 t\n4 Q0 a#0 2 1.0 t\n", "strictly decreasing"),
    "a carriage return": ("4 Q0 b#0 1 2.0 t\r\n", "a carriage return"),
    "a no-break space": ("4 Q0 b#0\u00a01 2.0 t\n", "white space U"),
    "1_0.0": ("4 Q0 b#0 1 1_0.0 t\n", "a finite number"),
    "1e39": ("4 Q0 b#0 1 1e39 t\n", "a finite number"),
    "nan": ("4 Q0 b#0 1 nan t\n", "a finite number"),
    "a blank line": ("\n4 Q0 b#0 1 2.0 t\n", "0 columns"),
    "a byte order mark": ("\ufeff4 Q0 b#0 1 2.0 t\n", "a byte order mark"),
}


def directory(content: bytes) -> int:
    """Where a zip's table of contents begins."""
    return content.index(b"PK\x01\x02")


def of_submissions() -> Iterator[Case]:
    """Zips that are damaged, and lines that a judge would refuse or read otherwise."""
    check = ("ensemble.submit", "small.yaml", "--check", "given.zip")
    for fault, (lines, expected) in SUBMITTED.items():
        yield Case(f"submission: {fault}", submission(lines), check, expected)
    damages: dict[str, Callable[[bytes], bytes]] = {
        "cut off": lambda content: content[:-30],
        "empty": lambda content: b"",
        "a wrong sum": flipped(lambda content: directory(content) + 16),
        "an unknown method": flipped(lambda content: directory(content) + 10),
        "other packed bytes": flipped(lambda content: content.index(b".trec") + 5),
        "a wrong size": flipped(lambda content: directory(content) + 20),
        "a wrong place": flipped(lambda content: directory(content) + 42),
        "no directory": flipped(directory),
        "an encrypted file": flipped(lambda content: directory(content) + 8),
    }
    for fault, damage in damages.items():
        expected = "given.zip"
        yield Case(f"zip: {fault}", submission(damage=damage), check, expected)


def all_cases() -> list[Case]:
    """The whole table."""
    groups = (
        of_every_file,
        of_runs,
        of_judgments,
        of_topics,
        of_corpora,
        of_settings,
        of_arguments,
        of_other_files,
        of_submissions,
    )
    return [case for group in groups for case in group()]
