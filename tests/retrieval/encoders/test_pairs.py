"""Labelled examples of a little collection."""

import little
import numpy as np
import pytest

from core.encoders import Encoder
from core.errors import InputError
from retrieval.encoders.material import Material
from retrieval.encoders.pairs.labelled import Labelled
from retrieval.encoders.texts import Corpus, Tokens


def labelled(task, **more):
    languages = [language for language, _ in task.pairs("train")]
    corpus = Corpus(languages, task.passages)
    prefixes = {"query": "q: ", "passage": ""}
    tokens = Tokens(little.tokenizer(), prefixes, {"query": 20, "passage": 40})
    settings = Encoder(**more)
    folder = task.config.folder
    return Labelled(Material("mine", settings, task, languages, corpus, tokens, folder))


@pytest.fixture
def small(tmp_path):
    return little.task(little.write_collection(tmp_path / "c", queries=6, dev=2), tmp_path)


def test_examples_are_the_judged_queries(small):
    pairs = labelled(small)
    assert pairs.spans == {"en": range(6), "sw": range(6, 12)}
    assert pairs.qids("sw") == ["0", "1", "2", "3", "4", "5"]
    assert pairs.query_texts(np.array([7, 0])) == [f"{little.word(1, 1)}?", f"{little.word(0, 0)}?"]
    corpus = pairs.material.corpus
    relevant = pairs.relevant(np.array([4, 7, 0]))
    keys = list(zip(relevant.place.tolist(), corpus.docids(relevant.id), strict=True))
    assert keys == [
        (0, ("en", "p4#0")), (0, ("en", "p4#2")),
        (1, ("sw", "p1#0")),
        (2, ("en", "p0#0")), (2, ("en", "p0#2")),
    ]  # fmt: skip


def test_positives_are_drawn_from_all_relevant_ones(small):
    pairs = labelled(small)
    numbers = np.array([0, 1, 10])
    drawn = [pairs.positives(numbers, batch) for batch in range(40)]
    names = [[docid for _, docid in pairs.material.corpus.docids(ids)] for ids in drawn]
    assert {row[0] for row in names} == {"p0#0", "p0#2"}
    assert {row[1] for row in names} == {"p1#0"} and {row[2] for row in names} == {"p4#0", "p4#2"}
    first = sum(row[0] == "p0#0" for row in names)
    assert 10 <= first <= 30, "about half"
    assert np.array_equal(pairs.positives(numbers, 7), drawn[7])
    other = labelled(small, seed=1)
    assert any(not np.array_equal(other.positives(numbers, i), drawn[i]) for i in range(40))


def test_views_are_the_texts_as_tokens(small):
    pairs = labelled(small)
    numbers = np.array([8])
    positives = pairs.positives(numbers, 0)
    (query,), (passage,) = pairs.views(numbers, positives, 0)

    def joined(row):
        return little.tokenizer().decode(row).replace(" ##", "")

    name = little.word(2, 1)
    assert joined(query) == f"[CLS] q : {name} ? [SEP]"
    assert joined(passage) == f"[CLS] {name} is a thing. more more [SEP]".replace(
        "thing.", "thing ."
    )


def test_queries_without_a_relevant_passage_are_left_out_with_a_word(tmp_path, capsys):
    folder = little.write_collection(tmp_path / "c", queries=4, dev=1, languages=("en",))
    qrels = folder / "en" / "qrels" / "qrels.en-train.tsv"
    lines = qrels.read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("1 ", "2 "))] + ["2 Q0 p2#1 0"]
    qrels.write_text("\n".join(kept) + "\n")
    task = little.task(folder, tmp_path)
    pairs = labelled(task)
    assert pairs.qids("en") == ["0", "3"] and pairs.spans == {"en": range(2)}
    assert (
        "note: mine: 2 training queries of en have no relevant passage and are left out, "
        "first 1, 2" in capsys.readouterr().out
    )
    qrels.write_text("0 Q0 p0#1 0\n")
    with pytest.raises(InputError, match=r"encoders.mine: no training query of en has a relevant"):
        labelled(little.task(folder, tmp_path))


def test_judged_passages_that_the_collection_may_lack(tmp_path):
    folder = little.write_collection(tmp_path / "c", queries=4, dev=1, languages=("en",))
    qrels = folder / "en" / "qrels" / "qrels.en-train.tsv"
    qrels.write_text(qrels.read_text() + "1 Q0 gone#0 1\n")
    with pytest.raises(InputError, match="judgments for unknown passages: 1, first gone#0"):
        labelled(little.task(folder, tmp_path))
    allowing = {"collection": {"path": str(folder), "allow": ["unknown_passages"]}}
    pairs = labelled(little.task(folder, tmp_path, **allowing))
    assert pairs.relevant(np.array([1])).id.tolist() == pairs.positives(np.array([1]), 0).tolist()
