"""Each augmentation by hand."""

from collections import Counter
from math import exp

import numpy as np
import pytest

from core.distributed import generator
from core.folds import trigrams
from core.judging import Judge
from core.passages import Passages, build_passages
from core.recipes import Q2Q2D, Filters, PseudoLabel, Select
from core.records import Document, Query
from data_aug.corpus_negatives import corpus_negatives
from data_aug.filters import (
    Keeper,
    Reader,
    above_teacher,
    first_kept,
    near_duplicate,
    same_article,
)
from data_aug.pseudo_label import pseudo_label
from data_aug.q2q2d import q2q2d
from data_aug.top_negatives import top_negatives
from retrieval.judges import Question

RUN = {"1": {f"d{i}": 10.0 - i for i in range(10)}}  # d0 scores 10, d9 scores 1
QRELS = {"1": {"d2": 1, "d5": 1}}  # 8 and 5


def chosen(**select):
    return [
        p.docid for p in top_negatives("en", RUN, QRELS, {}, 4, 8, generator(0), Select(**select))
    ]


def test_top_k_and_its_shift():
    assert chosen(draw="top") == ["d0", "d1", "d3", "d4"]
    assert chosen(draw="top", shift=2) == ["d3", "d4", "d6", "d7"], (
        "of the first eight, those after rank 2 that are not relevant"
    )
    assert set(chosen(shift=2)) == {"d3", "d4", "d6", "d7"}


def test_thresholds_by_score():
    assert chosen(draw="top", below=6.5) == ["d4", "d6", "d7"], "Abs: 6, 4 and 3 are at most 6.5"
    assert chosen(draw="top", margin=1.5) == ["d4", "d6", "d7"], "MarginPos: at most 8 - 1.5"
    assert chosen(draw="top", share=0.5) == ["d6", "d7"], "PercPos: at most half of 8"
    assert chosen(draw="top", share=0.5, below=3.0) == ["d7"], "the lowest bound holds"


def test_thresholds_on_the_scores_of_another_system():
    other = {"1": {"d0": 0.1, "d1": 0.9, "d2": 0.5}}
    found = [
        p.docid
        for p in top_negatives(
            "en", RUN, QRELS, {}, 9, 4, generator(0), Select(draw="top", margin=0.0), other
        )
    ]
    assert found == ["d0", "d3"], (
        "d1 is above the relevant d2 there; what it does not know is below everything"
    )


def test_filtered_ones_are_replaced():
    assert [
        p.docid
        for p in top_negatives(
            "en",
            RUN,
            QRELS,
            {},
            3,
            8,
            generator(0),
            Select(draw="top"),
            keep=lambda qid, docids: [docid for docid in docids if docid != "d1"],
        )
    ] == ["d0", "d3", "d4"]


@pytest.fixture
def passages(tmp_path):
    build_passages((Document(f"a{i}#0", "", f"text {i}") for i in range(6)), tmp_path)
    return Passages(tmp_path)


def test_negatives_from_the_corpus(passages):
    pairs = list(
        corpus_negatives(
            "en", passages, {"1": {"a0#0": 1, "a1#0": 0}}, {"1": {"a2#0"}}, 3, generator(1)
        )
    )
    assert (
        len({p.docid for p in pairs}) == 3
        and {p.docid for p in pairs} <= {"a1#0", "a3#0", "a4#0", "a5#0"}
        and {p.label for p in pairs} == {0.0}
    )
    assert (
        len(list(corpus_negatives("en", passages, {"1": {"a0#0": 1}}, {}, 50, generator(1)))) == 5
    ), "all there are"
    assert pairs == list(
        corpus_negatives(
            "en", passages, {"1": {"a0#0": 1, "a1#0": 0}}, {"1": {"a2#0"}}, 3, generator(1)
        )
    )


def test_q2q2d_by_hand():
    """Figure 3 of the paper: label = similarity x judged label x alpha."""
    known, vectors = (
        [("en", "7"), ("sw", "7"), ("en", "8")],
        np.array([[0.8, 0.6], [1.0, 0.0], [0.0, 1.0]], np.float32),
    )
    judged = {("en", "7"): {"a": 1, "b": 0}, ("sw", "7"): {"a": 2, "c": 1}, ("en", "8"): {"d": 1}}
    targets = [Query("t1", ""), Query("t2", "")]
    encoded = np.array([[1.0, 0.0], [0.6, -0.8]], np.float32)
    pairs = list(
        q2q2d(
            "en",
            targets,
            encoded,
            known,
            vectors,
            judged,
            Q2Q2D(neighbours=2, threshold=0.5, languages="any"),
        )
    )
    assert [(p.qid, p.docid, p.passage_language, round(p.label, 4)) for p in pairs] == [
        ("t1", "a", "sw", 0.9),
        ("t1", "c", "sw", 0.9),
        ("t1", "a", "", 0.72),
        ("t1", "b", "", 0.0),
        ("t2", "a", "sw", 0.54),
        ("t2", "c", "sw", 0.54),
    ]
    assert (
        pairs[2].reason == "en query 7, similarity 0.800"
        and {p.origin for p in pairs} == {"q2q2d"}
        and {p.language for p in pairs} == {"en"}
    )
    again = list(
        q2q2d(
            "en",
            targets[:1],
            encoded[:1],
            [("en", "7"), ("en", "8")],
            np.array([[1, 0], [1, 0]], np.float32),
            {("en", "7"): {"a": 1}, ("en", "8"): {"a": 0}},
            Q2Q2D(),
        )
    )
    assert [(p.docid, p.label) for p in again] == [("a", pytest.approx(0.9))], (
        "a passage of two neighbours is the more similar one's"
    )


def test_pseudo_labels_by_hand():
    run = {"1": {"a": 2.0, "b": 0.0, "c": -9.0}, "2": {}}

    def made(**s):
        return [
            (p.docid, round(p.label, 4))
            for p in pseudo_label(
                "en",
                run,
                PseudoLabel(teacher="t", **{"share": 1.0, "depth": 2, **s}),
                1,
                generator(0),
            )
        ]

    assert made() == [("a", round(0.9 / (1 + exp(-2)), 4)), ("b", 0.45)]
    assert made(calibrate="minmax", depth=3) == [
        ("a", 0.9),
        ("b", round(0.9 * 9 / 11, 4)),
        ("c", 0.0),
    ]
    assert made(labels="hard", threshold=0.6) == [("a", 0.9), ("b", 0.0)]
    assert made(share=0.0) == []
    many = {str(q): {str(d): 0.0 for d in range(100)} for q in range(20)}
    count = len(
        list(pseudo_label("en", many, PseudoLabel(teacher="t", depth=100), 1, generator(3)))
    )
    assert 900 < count < 1100, "half of 2,000 at random"
    few = list(
        pseudo_label(
            "en", many, PseudoLabel(teacher="t", depth=100, share=1.0, number=3), 1, generator(3)
        )
    )
    assert len(few) == 60 and len({p.docid for p in few}) > 30 and made(number=9) == made(), (
        "three of each of 20 queries, not the best ones"
    )
    assert PseudoLabel(teacher="t").model_dump(exclude_defaults=True) == {"teacher": "t"}, (
        "a setting that is not set leaves groups of before as they are"
    )
    (pair, *_) = pseudo_label("en", run, PseudoLabel(teacher="t", share=1.0), 2, generator(0))
    assert (pair.origin, pair.round, pair.teacher, pair.reason) == (
        "pseudo_label",
        2,
        "t",
        "rank 1, score 2.0000",
    )


def test_filters_by_hand():
    kenya, norway, other = map(
        trigrams,
        (
            "Nairobi is the capital of Kenya!",
            "Oslo is the capital of Norway",
            "nairobi is the capital of kenya",
        ),
    )
    assert (
        near_duplicate(kenya, [norway, other], 0.9)
        and not near_duplicate(kenya, [norway], 0.9)
        and near_duplicate(kenya, [norway], 0.3)
    )
    assert same_article("a#7", ["b#0", "a#1"]) and not same_article("a7", ["a#1"])
    assert (
        above_teacher("n", ["p", "q"], {"n": 2.0, "p": 1.0, "q": 3.0})
        and not above_teacher("n", ["p"], {"n": 1.0, "p": 1.0})
        and not above_teacher("n", ["p"], {"n": 1.0})
    )


def test_what_is_dropped_is_counted():
    texts, dropped = (
        {
            "a#0": "one two three",
            "a#1": "else",
            "b#0": "one two three!",
            "c#0": "other words",
            "d#0": "more words",
        },
        Counter(),
    )
    keep = Keeper(
        Filters(same_article=True, near_duplicates=0.9, teacher="folder"),
        {"1": {"a#0": 1, "c#0": 0}},
        texts.__getitem__,
        {"1": {"a#0": 0.5, "d#0": 0.7}},
        dropped,
    )
    assert keep("1", ["a#1", "b#0", "c#0", "d#0"]) == ["c#0"]
    assert dropped == {"same article": 1, "near-duplicate": 1, "above the teacher's relevant": 1}


class Toy:
    """A judge that grades by the candidate's text."""

    def __init__(self):
        self.asked = []

    def grades(self, questions):
        self.asked.append(questions)
        return [{"two": 2, "one": 1, "none": 0, "silent": None}[q.candidate] for q in questions]


TEXTS = {"r#0": "right", "a#0": "two", "b#0": "one", "c#0": "none", "d#0": "silent", "r#1": "none"}


@pytest.mark.parametrize("stays, kept", [(0, ["c#0"]), (1, ["b#0", "c#0"])])
def test_the_judge_of_encoders_filters_for_rankers_too(stays, kept):
    judge, dropped = Toy(), Counter()
    keep = Keeper(
        Filters(same_article=True, judge=Judge(stays=stays)),
        {"1": {"r#0": 1}, "2": {"gone": 1}},
        TEXTS.__getitem__,
        {},
        dropped,
        Reader(judge, {"1": "q?", "2": "?"}, {"1": "right", "2": None}.get),
    )
    assert keep("1", ["a#0", "r#1", "b#0", "c#0", "d#0"]) == kept
    assert judge.asked == [[Question("q?", "right", t) for t in ("two", "one", "none", "silent")]]
    reasons = {"judged 1": 1, "judged 2": 1, "not judged": 1, "same article": 1}
    assert dropped == {name: n for name, n in reasons.items() if name != "judged 1" or not stays}
    assert keep("2", ["c#0"]) == [] and dropped["not judged"] == 2, "nothing to go by"
    assert len(judge.asked) == 1


def test_no_more_is_asked_than_is_wanted():
    asked = []

    def keep(qid, docids):
        asked.append("".join(docids))
        return [docid for docid in docids if docid in "bdfgh"]

    assert first_kept("1", iter("abcdefgh"), 3, keep) == ["b", "d", "f"]
    assert asked == ["abc", "de", "f"]
    assert first_kept("1", "ab", 9, keep) == ["b"] and first_kept("1", "ab", 0, keep) == []
