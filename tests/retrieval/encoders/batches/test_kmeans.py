import numpy as np

from retrieval.encoders.batches import kmeans

# Two heaps on a line: 0, 1, 2 around 1 and 10, 11, 15 around 12
POINTS = np.array([[0], [10], [1], [11], [2], [15]], np.float32)


def test_centroids_are_the_means_of_what_is_nearest():
    centroids = kmeans.learn(POINTS, 2, seed=0)
    assert sorted(centroids[:, 0].tolist()) == [1.0, 12.0]
    found = kmeans.assign(POINTS, centroids)
    assert found.dtype == np.int32
    assert (found == found[0]).tolist() == [True, False, True, False, True, False]


def test_the_same_vectors_and_seed_give_the_same_bytes():
    vectors = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    first, again = (kmeans.learn(vectors, 7, seed=2**40 + 5) for _ in range(2))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != kmeans.learn(vectors, 7, seed=1).tobytes()


def test_as_many_clusters_as_vectors_have_one_each(capfd):
    found = kmeans.assign(POINTS, kmeans.learn(POINTS, len(POINTS), seed=0))
    assert sorted(found.tolist()) == list(range(len(POINTS)))
    assert capfd.readouterr().err == ""  # FAISS would warn of few vectors a cluster


def test_equal_vectors_leave_clusters_empty():
    found = kmeans.assign(
        np.ones((6, 2), np.float32), kmeans.learn(np.ones((6, 2), np.float32), 3, 0)
    )
    assert len(set(found.tolist())) < 3
