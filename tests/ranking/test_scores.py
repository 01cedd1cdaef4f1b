import numpy as np
import pytest

from core.errors import InputError
from ranking.scores import Scores, keys


def test_a_key_is_the_two_texts():
    found = keys(["a", "ab", "a", ""], ["bc", "c", "bc", "abc"])
    assert found[0] == found[2] and len(set(found.tolist())) == 3
    assert keys(["\ud800"], ["broken text"]).shape == (1,)


def test_zero_bytes_count():
    """Numpy strips them from the end of what it hands out; comparing must not."""
    made = np.frombuffer(b"\0" * 15 + b"\1" + b"\1" + b"\0" * 15 + b"\1\0\2" + b"\0" * 13, "S16")
    store_keys = made.copy()
    assert len(np.unique(store_keys)) == 3


def test_get_and_put(tmp_path):
    wanted, store = keys(list("abcd"), list("wxyz")), Scores(tmp_path)
    assert np.isnan(store.get(wanted)).all() and store.get(wanted[:0]).shape == (0,)
    store.put(wanted[[2, 0]], np.array([3.0, 1.0], np.float32))
    assert np.array_equal(store.get(wanted), [1, np.nan, 3, np.nan], equal_nan=True)
    other = Scores(tmp_path)
    other.put(wanted[[1]], np.array([2.0], np.float32))
    assert np.isnan(store.get(wanted)[1])
    store.refresh()
    assert store.get(wanted)[:3].tolist() == [1, 2, 3] and Scores(tmp_path).get(wanted)[
        :3
    ].tolist() == [1, 2, 3]


def test_random_pairs_come_back(tmp_path):
    rng = np.random.default_rng(0)
    wanted, values = (
        keys([str(i) for i in range(3000)], ["p"] * 3000),
        rng.normal(size=3000).astype(np.float32),
    )
    for part in np.array_split(rng.permutation(3000), 7):
        Scores(tmp_path).put(wanted[part], values[part])
    assert np.array_equal(Scores(tmp_path).get(wanted), values)


def test_a_segment_that_is_no_segment(tmp_path):
    Scores(tmp_path).put(keys(["a"], ["b"]), np.array([1.0], np.float32))
    (segment,) = tmp_path.iterdir()
    segment.write_bytes(segment.read_bytes()[:-2])
    with pytest.raises(
        InputError,
        match=r"\.npy: not a whole segment of scores; remove it, its pairs are scored again",
    ):
        Scores(tmp_path)
    np.save(segment, np.zeros(3))
    with pytest.raises(InputError, match=r"found float64, expected"):
        Scores(tmp_path)
