"""The validation split: a stratified tenth, from seed 0, of the published training set."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.data.splits import stratified_split
from paceline.errors import UsageError


@given(labels=st.lists(st.integers(0, 6), max_size=300), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_a_split_is_sorted_disjoint_complete_and_stratified(labels, fraction, seed):
    labels = np.array(labels, dtype=np.int64)
    train, validation = stratified_split(labels, fraction=fraction, seed=seed)
    assert train.dtype == validation.dtype == np.int64
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(len(labels)))
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        taken = int((labels[validation] == label).sum())
        if count == 1:
            assert taken == 0
        else:
            assert 1 <= taken < count
            assert abs(taken - count * fraction) <= 1


def test_a_tenth_of_each_class_that_repeats_and_depends_on_the_seed():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 500))
    train, validation = stratified_split(labels)
    assert np.bincount(labels[validation]).tolist() == [50] * 10
    assert len(train) == 4500
    assert np.array_equal(validation, stratified_split(labels)[1])
    assert not np.array_equal(validation, stratified_split(labels, seed=1)[1])


def test_images_are_drawn_from_everywhere_in_a_class():
    validation = stratified_split(np.zeros(10_000, np.int64))[1]
    assert np.bincount(validation // 1000, minlength=10).min() > 60


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(UsageError, match="fraction"):
        stratified_split(np.zeros(5, np.int64), fraction=fraction)
