"""Chunks that are read as one array."""

import numpy as np
import pytest

from core.errors import InputError
from retrieval import vectors
from retrieval.vectors import open_vectors


@pytest.fixture
def numbers():
    return np.arange(22, dtype=np.float16).reshape(11, 2)


@pytest.fixture
def stored(numbers, tmp_path, monkeypatch):
    """Eleven vectors in chunks of four."""
    monkeypatch.setattr(vectors, "CHUNK", 4)
    for start in (0, 4, 8):
        vectors.write_chunk(tmp_path, start, numbers[start : start + 4])
    vectors.finish(tmp_path, (11, 2))
    return open_vectors(tmp_path)


def test_it_is_indexed_as_an_array_is(stored, numbers):
    assert (len(stored), stored.shape) == (11, (11, 2))
    for start, stop in ((0, 11), (0, 4), (3, 9), (4, 8), (10, 99), (-2, None), (5, 5)):
        assert np.array_equal(stored[start:stop], numbers[start:stop]), (start, stop)
    for rows in ([0], [3, 4, 5, 10], [1, 2], []):
        sorted_rows = np.array(rows, np.int64)
        assert np.array_equal(stored[sorted_rows], numbers[sorted_rows]), rows
    assert stored[9].tolist() == [18, 19]


def test_what_is_read_is_the_file_itself(stored, tmp_path):
    """A piece a file, mapped: nothing is copied."""
    pieces = list(stored.pieces(3, 9))
    assert [len(piece) for piece in pieces] == [1, 4, 1]
    for piece in pieces:
        assert isinstance(piece, np.memmap)


def test_the_size_of_chunks_is_that_of_their_making(stored, numbers, tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "CHUNK", 5)
    assert np.array_equal(open_vectors(tmp_path)[:], numbers)


def test_one_file_of_an_older_version_is_read(numbers, tmp_path):
    np.save(tmp_path / "vectors.npy", numbers)
    stored = open_vectors(tmp_path)
    assert stored.shape == (11, 2) and np.array_equal(stored[2:7], numbers[2:7])


@pytest.mark.parametrize(
    "change, found",
    [
        (lambda file: file.unlink(), "No such file"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "chunk-4.npy: mmap length"),
        (lambda file: file.write_bytes(b""), "chunk-4.npy: "),
        (
            lambda file: np.save(file, np.zeros((3, 2), np.float16)),
            r"found float16 \[3, 2\], expected float16 \[4, 2\]",
        ),
        (lambda file: np.save(file, np.zeros((4, 2), np.float32)), "found float32"),
    ],
)
def test_a_damaged_chunk_is_named(stored, tmp_path, change, found):
    change(tmp_path / "chunk-4.npy")
    assert stored[0:4].shape == (4, 2), "others are read"
    with pytest.raises(InputError, match=found) as raised:
        stored[0:11]
    assert "chunk-4.npy" in str(raised.value)
    assert "remove its folder and run the retrieval stage again" in str(raised.value)
