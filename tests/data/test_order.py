"""The order of examples: shards are disjoint and complete, the same at every scale, and digests prove it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.data.order import combine_digests, epoch_permutation, indices_digest, rank_part, update_slices
from paceline.errors import UsageError

sizes = st.integers(0, 400)
seeds = st.integers(0, 2**70)


@given(num_examples=sizes, seed=seeds, epoch=st.integers(0, 1000))
def test_an_epoch_is_a_permutation_that_repeats(num_examples, seed, epoch):
    order = epoch_permutation(num_examples, seed=seed, epoch=epoch)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(num_examples))
    assert np.array_equal(order, epoch_permutation(num_examples, seed=seed, epoch=epoch))


def test_epochs_and_seeds_differ():
    orders = [epoch_permutation(100, seed=seed, epoch=epoch) for seed in range(5) for epoch in range(5)]
    assert len({order.tobytes() for order in orders}) == 25


def test_the_order_is_the_one_it_always_was():
    """Known answer: a change of numpy's generator would make old and new trials unlike."""
    assert epoch_permutation(8, seed=0, epoch=0).tolist() == [3, 1, 6, 5, 7, 2, 0, 4]


@given(num_items=sizes, world_size=st.integers(1, 40))
def test_parts_are_disjoint_complete_and_near_equal(num_items, world_size):
    parts = [rank_part(num_items, rank=rank, world_size=world_size) for rank in range(world_size)]
    lengths = [part.stop - part.start for part in parts]
    assert np.concatenate([np.arange(num_items)[part] for part in parts]).tolist() == list(range(num_items))
    assert max(lengths) - min(lengths) <= 1


@given(num_examples=sizes, global_batch_size=st.integers(1, 500))
def test_updates_take_everything_once(num_examples, global_batch_size):
    runs = [np.arange(num_examples)[cut] for cut in update_slices(num_examples, global_batch_size)]
    assert np.concatenate([np.empty(0, int), *runs]).tolist() == list(range(num_examples))
    assert all(len(run) == global_batch_size for run in runs[:-1])
    assert all(0 < len(run) <= global_batch_size for run in runs)


@given(
    num_examples=st.integers(1, 300), global_batch_size=st.integers(1, 128), world_size=st.integers(1, 9), seed=seeds
)
def test_every_scale_sees_the_same_updates(num_examples, global_batch_size, world_size, seed):
    """No padding, no repeats: joined over ranks, an update is the same run of the order at every world size."""
    order = epoch_permutation(num_examples, seed=seed, epoch=3)
    digests = []
    for cut in update_slices(num_examples, global_batch_size):
        run = order[cut]
        parts = [run[rank_part(len(run), rank=rank, world_size=world_size)] for rank in range(world_size)]
        assert np.array_equal(np.concatenate(parts), run)
        digests += [indices_digest(part) for part in parts]
    assert combine_digests(digests) == indices_digest(np.arange(num_examples))


@given(indices=st.lists(st.integers(0, 10**6), min_size=1, max_size=50), data=st.data())
def test_the_digest_ignores_order_and_sees_every_change(indices, data):
    whole = indices_digest(np.array(indices))
    assert indices_digest(np.array(data.draw(st.permutations(indices)))) == whole
    position = data.draw(st.integers(0, len(indices) - 1))
    changed = [*indices]
    changed[position] += data.draw(st.integers(1, 100))
    assert indices_digest(np.array(changed)) != whole
    assert indices_digest(np.array([*indices, indices[0]])) != whole
    assert indices_digest(np.array(indices[1:], dtype=np.int64)) != whole


def test_digests_of_nothing():
    assert indices_digest(np.empty(0, np.int64)) == combine_digests([]) == "0-" + "0" * 32


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: rank_part(5, rank=2, world_size=2), "rank 2 of 2"),
        (lambda: rank_part(5, rank=-1, world_size=2), "rank = -1"),
        (lambda: update_slices(5, 0), "global_batch_size = 0"),
        (lambda: epoch_permutation(5, seed=-1, epoch=0), "seed = -1"),
        (lambda: combine_digests(["5-xyz"]), "5-xyz"),
    ],
)
def test_wrong_use_says_what_was_given(call, says):
    with pytest.raises(UsageError, match=says):
        call()
