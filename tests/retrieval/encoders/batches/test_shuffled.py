"""Which examples are seen together: at random, and language by language."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from core.encoders import Encoder
from core.errors import InputError
from retrieval.encoders.batches import BATCHES
from retrieval.encoders.batches.streams import Stream, before_each

SPANS = {"ar": range(12), "en": range(12, 33), "sw": range(33, 36), "yo": range(36, 36)}


def made(name, spans=SPANS, **more):
    values = {"batch_size": 6, "accumulation": 2, "steps": 50}
    settings = Encoder(batches=name, **{**values, **more})
    material = SimpleNamespace(name="mine", settings=settings)
    return BATCHES[name](material, SimpleNamespace(spans=spans))


def language(number):
    return next(name for name, span in SPANS.items() if number in span)


def test_shuffled_takes_each_example_once_an_epoch():
    batches = made("shuffled")
    epoch = [batch for step in range(3) for batch in batches.of_step(step)]
    assert [len(batch) for batch in epoch] == [6] * 6
    assert sorted(np.concatenate(epoch).tolist()) == list(range(36))
    assert len({language(n) for n in epoch[0]}) > 1, "languages are mixed"
    again = np.concatenate(batches.of_step(3) + batches.of_step(4) + batches.of_step(5))
    assert sorted(again) == list(range(36)) and again[:12].tolist() != epoch[0].tolist()
    assert all(
        np.array_equal(a, b) for a, b in zip(made("shuffled").of_step(2), epoch[4:6], strict=True)
    ), "a step needs none before it"
    assert not np.array_equal(made("shuffled", seed=1).of_step(0)[0], epoch[0])


def test_shuffled_alike_over_languages():
    batches = made("shuffled", balance="uniform", steps=200)
    taken = [batch for step in range(200) for batch in batches.of_step(step)]
    assert {len(batch) for batch in taken} == {6}
    counts = Counter(map(language, np.concatenate(taken).tolist()))
    assert set(counts) == {"ar", "en", "sw"}, "a language without examples has no place"
    for count in counts.values():
        assert count == pytest.approx(2400 / 3, rel=0.1)
    for name, span in SPANS.items():  # each example of a language as often as any other of it
        of_examples = Counter(n for n in np.concatenate(taken).tolist() if n in span)
        assert not span or max(of_examples.values()) - min(of_examples.values()) <= 1, name
    later = made("shuffled", balance="uniform", steps=200).of_step(150)
    assert np.array_equal(np.concatenate(later), np.concatenate(batches.of_step(150)))


def test_too_few_examples_for_a_step():
    with pytest.raises(InputError, match=r"mine: 36 examples do not fill one step of 40; lower"):
        made("shuffled", batch_size=20)
    with pytest.raises(InputError, match=r"mine: 6 batches of one language do not fill one step"):
        made("by_language", accumulation=7)


def test_a_batch_is_of_one_language(capsys):
    batches = made("by_language", accumulation=1)
    assert (
        "note: mine: sw has 3 examples, fewer than batch_size 6: its batches are shorter"
        in capsys.readouterr().out
    )
    epoch = [batches.of_step(step)[0] for step in range(6)]  # 2 + 3 + 1: 21 // 6 is 3
    languages = [{language(n) for n in batch.tolist()} for batch in epoch]
    assert all(len(names) == 1 for names in languages)
    assert Counter(names.pop() for names in languages) == {"ar": 2, "en": 3, "sw": 1}
    taken = np.concatenate(epoch).tolist()
    assert len(taken) == len(set(taken)) == 12 + 18 + 3, "three of en are left out of the epoch"
    following = [batches.of_step(step)[0] for step in range(6, 12)]
    assert {len(batch) for batch in following} == {6, 3}
    assert any(not np.array_equal(a, b) for a, b in zip(epoch, following, strict=True)), (
        "another order"
    )
    one = made("by_language", accumulation=1).of_step(8)[0]
    assert np.array_equal(one, following[2])


def test_each_batchs_language_is_drawn():
    batches = made("by_language", accumulation=1, balance="uniform", steps=600)
    taken = [batches.of_step(step)[0] for step in range(600)]
    counts = Counter(language(int(batch[0])) for batch in taken)
    for count in counts.values():
        assert count == pytest.approx(200, rel=0.15)
    for batch in taken:
        assert len({language(n) for n in batch.tolist()}) == 1
        assert len(batch) == (3 if language(int(batch[0])) == "sw" else 6)
    of_en = Counter(n for batch in taken for n in batch.tolist() if language(n) == "en")
    assert max(of_en.values()) - min(of_en.values()) <= 1


def test_a_stream_goes_through_its_examples_again_and_again():
    stream = Stream(range(10, 15), "en", seed=3)
    first, second = stream.of_turn(0).tolist(), stream.of_turn(1).tolist()
    assert sorted(first) == sorted(second) == [10, 11, 12, 13, 14] and first != second
    assert stream.take(3, 4).tolist() == first[3:] + second[:2]
    assert stream.take(0, 0).tolist() == []
    assert stream.take(0, 12).tolist()[:10] == first + second
    assert Stream(range(10, 15), "sw", seed=3).of_turn(0).tolist() != first


def test_what_comes_before_each_batch():
    counts = np.array([[2, 1], [0, 3], [1, 2]], np.int32)
    assert before_each(counts).tolist() == [[0, 0], [2, 1], [2, 4]]
