"""A pseudo-parallel collection by a little Marian model, and what is shared by it."""

import gzip
import json

import little
import marian
import pytest

from core import backbones
from core.building import run_steps
from core.encoders import ShareLanguages
from core.errors import InputError
from core.runs import StoredRun
from core.settings import Config
from core.steps import needed
from core.task import Task
from retrieval import search
from retrieval.encoders.negatives import translation
from retrieval.encoders.negatives.pools import Pools
from retrieval.encoders.negatives.translation import Translator, model_of, pool_of


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return marian.write(tmp_path_factory.mktemp("marian") / "model")


def translator(model, **more):
    return Translator(str(model), ShareLanguages(**more))


def alone(made, sentence):
    """What transformers makes of one sentence."""
    tokens = made.tokenizer([sentence], return_tensors="pt")
    found = made.model.generate(**tokens, max_length=made.longest, num_beams=1, do_sample=False)
    return made.tokenizer.batch_decode(found, skip_special_tokens=True)[0]


def test_texts_are_translated_sentence_by_sentence(model):
    made = translator(model, batch_tokens=16)
    texts = ["the capital of kenya. tea grows in norway! oslo", "", "oslo", "tea grows in a fjord"]
    found = made.translate(texts)
    parts = ["the capital of kenya.", "tea grows in norway!", "oslo"]
    assert found[0] == " ".join(alone(made, part) for part in parts)
    assert found[1] == "" and found[2] == alone(made, "oslo")
    assert found[3] == alone(made, "tea grows in a fjord")
    assert len(set(found)) == 4 and made.cut == 0, "it depends on what goes in"


def test_what_is_too_long_is_counted(model):
    made = translator(model)
    assert made.longest == 40
    made.translate([" ".join(["tea grows"] * 40), "oslo. norway."])
    assert made.cut == 1


def test_sentences_end_in_many_scripts():
    def split(text):
        return [part for part in translation.SENTENCE.split(text) if part.strip()]

    assert split("One. Two? Three") == ["One.", "Two?", "Three"]
    assert split("東京。大阪！京都") == ["東京。", "大阪！", "京都"]
    assert split("3.5 km") == ["3.5 km"]


def test_a_model_of_another_name():
    settings = ShareLanguages(models={"en-ja": "Helsinki-NLP/opus-mt-en-jap"})
    assert model_of(settings, "en", "ja") == "Helsinki-NLP/opus-mt-en-jap"
    assert model_of(settings, "ja", "en") == "Helsinki-NLP/opus-mt-ja-en"


def test_the_pool_is_the_best_of_each_query(tmp_path):
    lines = [f"{q} Q0 p{p}#0 1 {5.0 - p} x" for q in (1, 2) for p in range(q, q + 3)]
    (tmp_path / "run.trec").write_text("\n".join(lines) + "\n")
    task = little.task(little.write_collection(tmp_path / "c", queries=6, dev=1), tmp_path / "work")
    passages = task.passages("en")
    found = pool_of(StoredRun(tmp_path / "run.trec"), passages, 2)
    assert [passages.docid(row) for row in found] == ["p1#0", "p2#0", "p3#0"]
    assert len(pool_of(StoredRun(tmp_path / "run.trec"), passages, None)) == len(passages)


# ---- All the way


@pytest.fixture
def task(tmp_path, model, little_body):
    """Its plan has negatives/mine, which stand on translations both ways."""
    little.write_collection(tmp_path / "little", queries=6, dev=1)
    values = {
        "name": "test",
        "work": str(tmp_path / "work"),
        "collection": {"source": "disk", "path": str(tmp_path / "little")},
        "retrieval": {
            "sources": ["bm25"],
            "encoders": {
                "mine": {
                    "backbone": str(little_body),
                    "negatives": ["from_run", "share_languages"],
                    "from_run": {"depth": 4},
                    "share_languages": {
                        "parallel": "translation",
                        "model": str(model),
                        "pool": 5,
                    },
                }
            },
        },
    }
    made = Task(Config.model_validate(values))
    search.plan(made)
    return made


def build(task, name):
    step = search.plan(task)[name]
    run_steps(needed([step]), task.config.folder, some=True)
    return step.path


def test_a_translated_collection_all_the_way(task, monkeypatch):
    names = [name for name in search.plan(task) if name.startswith("translation/")]
    assert [name.split("/")[1] for name in names] == ["en-sw", "sw-en"]
    monkeypatch.setattr(translation, "AT_ONCE", 4)
    calls = []
    translate = Translator.translate

    def counted(self, texts):
        calls.append(len(texts))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return translate(self, texts)

    monkeypatch.setattr(Translator, "translate", counted)
    with pytest.raises(KeyboardInterrupt):
        build(task, names[0])
    assert calls[:3] == [6, 4, 4], "queries; titles and texts of a file; titles of the next"
    folder = build(task, names[0])
    assert calls[4] == 4, "what is there is not translated again"

    files = sorted((folder / "corpus").iterdir())
    first = [json.loads(line) for line in gzip.open(files[0], "rt")]
    assert len(first) == 4 and set(first[0]) == {"docid", "title", "text"}
    source = task.passages("en")
    made = translator(task.config.retrieval.encoders["mine"].share_languages.model)
    (row,) = source.rows([first[0]["docid"]]).tolist()
    assert [first[0]["text"]] == translate(made, [source.document(row).text])
    topics = (folder / "topics" / "topics.sw-train.tsv").read_text("utf-8").splitlines()
    assert [line.split("\t")[0] for line in topics] == [str(qid) for qid in range(6)]
    run = StoredRun(folder / "run.trec")
    known = {line["docid"] for file in files for line in map(json.loads, gzip.open(file, "rt"))}
    assert len(run) and all(set(run[qid]) <= known and len(run[qid]) <= 4 for qid in run)

    monkeypatch.setattr(Translator, "translate", translate)
    mined = build(task, "negatives/mine")
    own = dict(Pools(mined / "1-from_run" / "en.parquet"))
    both = dict(Pools(mined / "2-share_languages" / "en.parquet"))
    for qid in run:
        relevant = {f"p{qid}#0"} | ({f"p{qid}#2"} if int(qid) % 4 == 0 else set())
        expected = {c.docid for c in own.get(qid, [])} | (set(run[qid]) - relevant)
        assert {c.docid for c in both.get(qid, [])} == expected
    assert any(c.origin == "share_languages:sw" for of in both.values() for c in of)


def test_encoders_of_equal_settings_share_a_translation(task):
    settings = task.config.retrieval.encoders["mine"]
    values = task.config.model_dump(mode="json", exclude_unset=True)
    values["retrieval"]["encoders"]["other"] = settings.model_dump(mode="json", exclude_unset=True)
    values["retrieval"]["encoders"]["third"] = settings.model_copy(
        update={"share_languages": settings.share_languages.model_copy(update={"beams": 2})}
    ).model_dump(mode="json", exclude_unset=True)
    plan = search.plan(Task(Config.model_validate(values)))
    assert len([name for name in plan if name.startswith("translation/")]) == 4, "2 and 2"


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="backbone .*nowhere"):
        translator(tmp_path / "nowhere")
    with pytest.raises(InputError, match="unknown backbone 'nowhere'"):
        backbones.fingerprint("nowhere", tmp_path)
