import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from core.distributed import generator
from core.errors import InputError
from core.folds import assign, duplicates, make_folds, read_folds, together, trigrams, write_folds


def test_trigrams_see_letters_alone():
    assert trigrams("Où, où?") == trigrams("ou\u0300 OU\u0300") == {"oùo", "ùoù"}
    assert trigrams("水") == {"水"} and trigrams("?!") == {""}


def test_near_duplicates_by_hand():
    """abcd, abcde: {abc, bcd} and {abc, bcd, cde} share two of three."""
    texts = ["abcd", "xyz", "abcde"]
    assert duplicates(texts, 0.66).tolist() == [[0, 2]] and duplicates(texts, 0.67).tolist() == []


def by_definition(texts, threshold):
    """Every text with every other: what ``duplicates`` did before it had a faster way."""
    sets = [trigrams(text) for text in texts]
    near = []
    for i, one in enumerate(sets):
        for j in range(i + 1, len(sets)):
            shared = len(one & sets[j])
            if shared and shared >= threshold * (len(one) + len(sets[j]) - shared):
                near.append((i, j))
    return near


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.8, 0.9, 1.0])
def test_near_duplicates_are_those_of_the_definition(threshold, monkeypatch):
    """Questions of common words and of few letters: alike in every degree. In several blocks."""
    random = np.random.default_rng(7)
    words = "what who is was the of in a capital river king moon 7 77 水 ?!".split()
    texts = [" ".join(random.choice(words, size=random.integers(1, 9))) for _ in range(200)]
    texts += ["".join(random.choice(list("ab"), size=random.integers(1, 12))) for _ in range(60)]
    expected = by_definition(texts, threshold)
    assert len(expected) > 40, "there is something to find"
    for block, checked in ((2_000_000, 200_000), (500, 7)):
        monkeypatch.setattr("core.folds.BLOCK", block)
        monkeypatch.setattr("core.folds.CHECKED", checked)
        assert sorted(map(tuple, duplicates(texts, threshold).tolist())) == expected


MANY = """
import resource
import numpy as np
from core.folds import together
resource.setrlimit(resource.RLIMIT_AS, (2 * 10**9, 2 * 10**9))
random = np.random.default_rng(0)
names = ["".join(random.choice(list("abcdefghijklmnopqrstuvwxyz"), size=9)) for _ in range(4000)]
texts = [f"what is the capital of {a} and {b}" for a, b in random.choice(names, size=(20000, 2))]
texts += texts[:10]
print(len(set(together(texts, [[]] * len(texts), 0.8).tolist())))
"""


def test_memory_does_not_grow_with_the_square():
    """20,000 questions of one pattern: 200 million pairs share trigrams, 10 GB if all are kept."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", MANY], cwd=root, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-500:]
    clusters = int(done.stdout)
    assert 1 < clusters <= 20_000, "the ten that stand twice are no clusters of their own"


def test_groups_join_over_several_steps():
    texts = [
        "what is a fjord",
        "who wrote Faust",
        "What is a fjord?",
        "when did Goethe die",
        "size of the moon",
    ]
    groups = together(texts, [["norway"], ["goethe"], [], ["goethe", "weimar"], ["norway"]], 0.9)
    assert groups[0] == groups[2] == groups[4] != groups[1] == groups[3]
    assert len(set(together(texts, [[]] * 5, 0.9))) == 4


def test_folds_are_even_and_keep_groups_whole():
    groups = np.array([0] * 5 + [1] * 3 + [2] * 3 + list(range(3, 12)))
    folds = assign(groups, [0] * 4, generator(1))
    assert sorted(Counter(folds.tolist()).values()) == [5, 5, 5, 5]
    assert all(len(set(folds[groups == g])) == 1 for g in groups)
    assert (assign(groups, [0] * 4, generator(1)) == folds).all() and (
        assign(groups, [0] * 4, generator(2)) != folds
    ).any()


def test_every_fold_has_its_share_of_each_language():
    queries = {
        (la, str(i)): f"{la} question about {i * 7919}" for la in ("en", "th") for i in range(20)
    }
    folds = make_folds(queries, {}, 5, 0.95, 0)
    assert Counter((la, fold) for (la, _), fold in folds.items()) == {
        (la, f): 4 for la in ("en", "th") for f in range(5)
    }


def test_single_queries_of_many_languages_spread_over_the_folds():
    assert sorted(
        make_folds({(la, "1"): "?" for la in ("ar", "en", "th")}, {}, 3, 0.8, 0).values()
    ) == [0, 1, 2]


def test_file(tmp_path):
    folds = {("en", "1"): 0, ("en", "2"): 1, ("th", "1"): 0}
    write_folds(tmp_path / "folds.tsv", folds)
    assert read_folds(tmp_path / "folds.tsv", [("th", "1"), ("en", "2")]) == {
        ("th", "1"): 0,
        ("en", "2"): 1,
    }
    with pytest.raises(
        InputError,
        match=r"1 of 2 queries have no fold, first en/7; expected every judged train and dev query",
    ):
        read_folds(tmp_path / "folds.tsv", [("en", "1"), ("en", "7")])


@pytest.mark.parametrize(
    "text, message",
    [
        ("en\t1\n", r"line 1: found 'en\\t1', expected language, query id and fold"),
        ("en\t1\t0\nen\t2\tx\n", "line 2: found"),
        (
            "en\t1\t0\nen\t1\t1\n",
            "line 2: found query en/1 a second time, expected one fold a query",
        ),
    ],
)
def test_bad_lines(tmp_path, text, message):
    (tmp_path / "folds.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_folds(tmp_path / "folds.tsv", [("en", "1")])
