"""Batches of one language and many topics, and what an example counts by its shares."""

import struct
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from core.encoders import Encoder
from core.errors import InputError
from retrieval.encoders.batches.topics import Labels, Topics, factors, spread

# Twelve English examples of topics near 0 (eight of them), 100 (three) and 200; four of Swahili
NUMBERS = [*range(8), 100, 101, 102, 200, 3, 4, 103, 104]
SPANS = {"en": range(12), "sw": range(12, 16), "yo": range(16, 16)}


class Encode:
    """A positive's vector is its number."""

    def __init__(self):
        self.calls = 0

    def own(self, texts, side):
        assert side == "passage"
        self.calls += 1
        return np.array([[float(text)] for text in texts], np.float32).reshape(-1, 1)


def made(numbers=NUMBERS, spans=SPANS, teacher=None, texts=str, **more):
    topics = {"count": 3, **more.pop("topics", {})}
    settings = Encoder(batches="topics", topics=topics, **{"batch_size": 6, **more})
    corpus = SimpleNamespace(texts=lambda ids: [texts(numbers[n // 10]) for n in ids.tolist()])
    material = SimpleNamespace(name="mine", settings=settings, corpus=corpus, teacher=teacher)
    pairs = SimpleNamespace(spans=spans, positives=lambda numbers, batch: 10 * numbers)
    return Topics(material, pairs)


@pytest.fixture
def batches():
    made_ones = made(balance="uniform")
    made_ones.begin(0, Encode())
    return made_ones


def topic(example):
    return NUMBERS[example] // 100


def test_topics_are_found_once(capsys):
    batches, encode = made(), Encode()
    assert batches.waits(0)
    batches.begin(0, encode)
    assert encode.calls == 1 and not batches.waits(0) and not batches.waits(7)
    batches.begin(1, encode)
    assert encode.calls == 1
    groups = {}
    for example, found in enumerate(batches.topics.tolist()):
        groups.setdefault(topic(example), set()).add(found)
    assert all(len(found) == 1 for found in groups.values()) and len(groups) == 3
    out = capsys.readouterr().out
    assert "mine: 3 topics of 16 positives, shares from 6.2% to 62.5%" in out
    assert "note: mine: sw have fewer examples than batch_size 6: their batches are shorter" in out


def test_a_batch_is_of_one_language_and_of_all_its_topics(batches):
    seen = Counter()
    for step in range(200):
        (batch,) = batches.of_step(step)
        assert len(set(batch.tolist())) == len(batch), "different examples"
        topics = Counter(topic(example) for example in batch.tolist())
        if batch[0] < 12:
            assert max(batch) < 12
            # the topics have 8, 3 and 1: one each, then one each of two, and what is left
            assert topics == {0: 3, 1: 2, 2: 1} or topics == {0: 2, 1: 3, 2: 1}
            seen["en"] += 1
        else:
            assert sorted(batch) == [12, 13, 14, 15] and topics == {0: 2, 1: 2}
            seen["sw"] += 1
    assert seen["en"] == pytest.approx(100, abs=25), "languages are as likely"
    again = made(balance="uniform")
    again.begin(0, Encode())
    assert np.array_equal(again.of_step(150)[0], batches.of_step(150)[0])


def test_languages_as_they_are():
    batches = made(accumulation=2)
    batches.begin(0, Encode())
    drawn = [batch[0] < 12 for step in range(200) for batch in batches.of_step(step)]
    assert sum(drawn) == pytest.approx(300, abs=35), "three of four examples are English"


def test_languages_may_be_mixed(capsys):
    batches = made(topics={"one_language": False})
    assert "note" not in capsys.readouterr().out
    batches.begin(0, Encode())
    drawn = [batches.of_step(step)[0] for step in range(100)]
    assert {len(batch) for batch in drawn} == {6}
    for batch in drawn:
        topics = Counter(topic(example) for example in batch.tolist())
        assert topics[2] == 1 and {topics[0], topics[1]} == {2, 3}
    assert any(batch.min() < 12 <= batch.max() for batch in drawn)


def test_places_are_spread_evenly_as_far_as_sizes_go():
    random = np.random.default_rng(0)
    assert spread(np.array([9, 9, 9]), 6, random).tolist() == [2, 2, 2]
    assert spread(np.array([9, 1, 9]), 7, random).tolist() == [3, 1, 3]
    assert spread(np.array([2, 1, 0]), 7, random).tolist() == [2, 1, 0]
    lucky = np.array([spread(np.array([9, 9, 9]), 4, random) for _ in range(300)])
    assert set(lucky.sum(1)) == {4} and set(lucky.ravel()) == {1, 2}
    assert lucky.mean(0) == pytest.approx([4 / 3] * 3, abs=0.1)


def test_weights_by_hand(batches):
    # shares of languages 12/16 and 4/16, of topics 10/16, 5/16 and 1/16; times 2 and 3 categories
    weights = batches.weights(np.array([0, 8, 11, 12, 15]))
    assert weights.dtype == np.float32
    assert weights.tolist() == pytest.approx([
        0.45 * 1.5 + 0.4 * 1.875,
        0.45 * 1.5 + 0.4 * 0.9375,
        0.45 * 1.5 + 0.4 * 0.1875,
        0.45 * 0.5 + 0.4 * 1.875,
        0.45 * 0.5 + 0.4 * 0.9375,
    ])  # fmt: skip


def test_powers_of_shares():
    sizes = np.array([6, 2, 0])
    assert factors(sizes, 1.0) == pytest.approx([1.5, 0.5, 0.0])
    assert factors(sizes, 0.0) == pytest.approx([1.0, 1.0, 0.0])
    assert factors(sizes, -1.0) == pytest.approx([0.5, 1.5, 0.0])
    alike = made(topics={"power": 0.0, "alpha": 0.5, "beta": 0.25})
    alike.begin(0, Encode())
    assert set(alike.weights(np.arange(16)).tolist()) == {0.75}


def test_goes_on_from_its_state(batches):
    again = made(balance="uniform")
    again.restore(batches.state())
    assert not again.waits(3)
    assert np.array_equal(again.of_step(3)[0], batches.of_step(3)[0])
    assert np.array_equal(again.weights(np.arange(16)), batches.weights(np.arange(16)))


def test_a_teacher_tells_the_topics():
    asked = Encode()
    batches = made(teacher=lambda: asked, topics={"teacher": "embedded"})
    batches.begin(0, None)
    assert asked.calls == 1


def test_fewer_examples_than_topics():
    with pytest.raises(
        InputError, match="mine.topics.count: found 17, expected at most 16, the examples"
    ):
        made(topics={"count": 17})


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"teacher": "e5", "models": ["a.bin"]}, "a teacher or models of fastText, not both"),
        ({"alpha": 0.0, "beta": 0.0}, "with neither nothing would be learned"),
        ({"count": 1}, "greater than or equal to 2"),
    ],
)
def test_settings_that_make_no_sense(wrong, message):
    with pytest.raises(ValueError, match=message):
        Encoder(batches="topics", topics=wrong)


# ---- fastText


def write_model(path, words, labels, inputs, outputs):
    """A supervised model with a softmax in fastText's own format, version 12."""
    dimension = len(inputs[0])
    supervised, softmax = 3, 3
    settings = (dimension, 5, 5, 1, 5, 1, softmax, supervised, 0, 0, 0, 100)
    with path.open("wb") as file:
        file.write(struct.pack("<ii", 793712314, 12))
        file.write(struct.pack("<12id", *settings, 1e-4))
        counts = (len(words) + len(labels), len(words), len(labels))
        file.write(struct.pack("<iiiqq", *counts, 100, -1))
        for kind, names in ((0, words), (1, labels)):
            for name in names:
                file.write(name.encode() + b"\0" + struct.pack("<qb", 10, kind))
        for matrix in (inputs, outputs):
            file.write(struct.pack("<?qq", False, len(matrix), dimension))
            for row in matrix:
                file.write(struct.pack(f"<{dimension}f", *row))
    return str(path)


@pytest.fixture
def models(tmp_path):
    words = ["</s>", "tea", "ball"]
    inputs = [[0, 0], [9, 0], [0, 9]]
    coarse = write_model(tmp_path / "a.bin", words, ["__label__food", "__label__sport"], inputs,
                         [[1, 0], [0, 1]])  # fmt: skip
    fine = write_model(tmp_path / "b.bin", words, ["__label__z", "__label__y", "__label__x"],
                       inputs, [[1, 0], [0, 1], [0, 0]])  # fmt: skip
    return [coarse, fine]


def test_probabilities_of_labels(models):
    own = Labels(models[1])
    found = own(["tea\n", "ball ball", "unknown"])
    # tea and the line's end: half of (9, 0), so its products with the labels are 4.5, 0 and 0
    assert list(own.column) == ["__label__x", "__label__y", "__label__z"]
    e = np.exp(4.5)
    assert found[0] == pytest.approx([1 / (2 + e), 1 / (2 + e), e / (2 + e)], abs=1e-3)
    assert found[2] == pytest.approx([1 / 3] * 3, abs=1e-3)
    assert found.sum(1) == pytest.approx(1.0, abs=1e-3) and found[1].argmax() == 1


def test_topics_by_the_labels_of_two_models(models):
    words = {0: "tea", 1: "ball", 2: "tea ball"}
    batches = made(topics={"models": models}, texts=lambda number: words[number // 100])
    batches.begin(0, None)
    groups = {}
    for example, found in enumerate(batches.topics.tolist()):
        groups.setdefault(topic(example), set()).add(found)
    assert all(len(found) == 1 for found in groups.values())
    assert len(set.union(*groups.values())) == 3


def test_files_that_are_no_models(tmp_path):
    (tmp_path / "no.bin").write_text("x" * 100)
    with pytest.raises(InputError, match="no.bin has wrong file format! Expected a supervised"):
        Labels(str(tmp_path / "no.bin"))
    with pytest.raises(InputError, match="nowhere.bin cannot be opened for loading! Expected"):
        Labels(str(tmp_path / "nowhere.bin"))
