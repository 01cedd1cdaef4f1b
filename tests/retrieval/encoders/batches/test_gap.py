"""The gap statistic: its rule by hand, its dispersion by hand, and data of known clusters."""

import numpy as np
import pytest

from retrieval.encoders.batches.gap import first_sufficient, log_dispersion, number_of_clusters


def test_the_smallest_number_whose_gap_is_not_below_the_next_by_more_than_its_error():
    assert first_sufficient([1.0, 1.5, 1.4], [0.0, 0.1, 0.1]) == 2
    assert first_sufficient([1.0, 1.05, 3.0], [0.0, 0.1, 0.1]) == 1, "within the error"
    assert first_sufficient([1.0, 2.0, 3.0], [0.1, 0.1, 0.1]) == 3, "the most that there were"
    assert first_sufficient([1.0], [0.0]) == 1


def test_dispersion_by_hand():
    pairs = np.array([[0, 0], [0, 2], [10, 0], [10, 2]], np.float32)
    # about the mean (5, 1) 26 each; about the two means 1 each
    assert log_dispersion(pairs, 1, 0) == pytest.approx(np.log(104))
    assert log_dispersion(pairs, 2, 0) == pytest.approx(np.log(4))
    assert np.isfinite(log_dispersion(np.ones((5, 2), np.float32), 2, 0)), "all one vector"


def blobs(clusters, spread, each=60):
    random = np.random.default_rng(clusters)
    centres = np.eye(12)[:clusters] * 5
    noise = random.normal(size=(clusters, each, 12)) * spread
    return (centres[:, None] + noise).reshape(-1, 12).astype(np.float32)


@pytest.mark.parametrize("clusters", [2, 3, 6])
def test_clusters_that_are_there_are_counted(clusters):
    assert number_of_clusters(blobs(clusters, 0.3), 10, 5, seed=0) == clusters


def test_data_without_clusters_are_one():
    assert number_of_clusters(blobs(1, 1.0, each=200), 10, 5, seed=0) == 1


def test_fewer_vectors_than_clusters():
    assert number_of_clusters(np.ones((2, 3), np.float32), 10, 5, seed=0) == 1
    assert number_of_clusters(blobs(3, 0.01, each=2), 10, 5, seed=0) <= 5
    same = np.ones((40, 3), np.float32)
    assert number_of_clusters(same, 10, 5, seed=0) == 1, "equal vectors are one cluster"


def test_it_is_the_same_each_time():
    vectors = blobs(4, 1.5)
    assert len({number_of_clusters(vectors, 10, 5, seed=3) for _ in range(3)}) == 1
