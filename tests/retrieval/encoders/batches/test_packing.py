import numpy as np
import pytest

from retrieval.encoders.batches.packing import combined, packed


def test_clusters_become_batches_as_worked_out_by_hand():
    # Batches of 4. Cluster 0 has 9 examples at the places 0 to 8: two batches, and one is left.
    # Cluster 1 (places 9 to 11) has 3, cluster 2 none, 3 (place 12) one, 4 (13 and 14) two.
    # The rests are 1, 3, 0, 1, 2. The largest first: 3 begins a batch; 2 doesn't fit and begins
    # another; cluster 0's rest fills the first; cluster 3's goes to the second, which is one short.
    made = packed(np.array([9, 3, 0, 1, 2]), batch_size=4)
    batches = [made.batch(number).tolist() for number in range(len(made))]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14]]


def test_a_small_cluster_stays_whole():
    made = packed(np.array([3, 2, 3]), batch_size=4)
    assert [made.batch(number).tolist() for number in range(3)] == [[0, 1, 2], [5, 6, 7], [3, 4]]


def test_one_cluster_is_split_to_batches_of_which_the_last_is_shorter():
    made = packed(np.array([7]), batch_size=3)
    assert [len(made.batch(number)) for number in range(len(made))] == [3, 3, 1]


def test_parts_go_where_they_leave_the_least_room():
    # Of 10: 7 and 6 begin groups with 3 and 4 left; 4 fills the second; 3 the first; 2 is alone
    assert combined(np.array([4, 6, 2, 7, 3]), 10).tolist() == [1, 1, 2, 0, 0]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 16])
def test_every_place_is_in_one_batch_and_no_two_batches_fit_together(batch_size):
    random = np.random.default_rng(batch_size)
    for _ in range(20):
        sizes = random.integers(0, 3 * batch_size, random.integers(1, 30))
        sizes[0] = max(sizes[0], 1)
        made = packed(sizes, batch_size)
        assert sorted(made.places.tolist()) == list(range(sizes.sum()))
        lengths = sorted(np.diff(made.bounds).tolist())
        assert lengths[0] > 0
        assert lengths[-1] <= batch_size
        assert len(lengths) == 1 or lengths[0] + lengths[1] > batch_size
        # A batch is whole examples of one cluster unless it is combined of whole rests
        cluster = np.repeat(np.arange(len(sizes)), sizes)
        for number in range(len(made)):
            found, counts = np.unique(cluster[made.batch(number)], return_counts=True)
            if len(found) > 1:
                assert counts.tolist() == (sizes[found] % batch_size).tolist()
