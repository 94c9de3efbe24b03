"""What paired seeds allow to claim: answers known by hand, and calibration by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from paceline.analysis.inference import (
    holm,
    probability_of_improvement,
    ratio_interval,
    seeds_needed,
    sign_flip_p_value,
)

NUM_STUDIES = 2000


def test_all_seeds_on_one_side_give_the_smallest_p_value_that_their_number_allows():
    for n in range(1, 12):
        assert sign_flip_p_value([0.1 + i for i in range(n)]) == 2.0 ** (1 - n)


def test_the_p_value_is_that_of_scipy_s_exact_permutation_test():
    differences = np.random.default_rng(1).normal(0.3, 1.0, 10)
    expected = scipy.stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=np.inf, vectorized=False
    ).pvalue
    assert sign_flip_p_value(differences) == pytest.approx(expected)


def test_beyond_twenty_seeds_random_patterns_agree_with_the_normal_limit_and_repeat_exactly():
    differences = np.random.default_rng(2).normal(0.4, 1.0, 40)
    z = differences.sum() / np.sqrt((differences**2).sum())
    assert sign_flip_p_value(differences) == pytest.approx(2 * scipy.stats.norm.sf(abs(z)), abs=0.01)
    assert sign_flip_p_value(differences) == sign_flip_p_value(differences)


@pytest.mark.parametrize("num_seeds", [6, 8, 12])
def test_the_interval_holds_exactly_the_ratios_that_the_test_does_not_reject(num_seeds):
    logs = np.random.default_rng(num_seeds).normal(0.2, 0.5, num_seeds)
    interval = ratio_interval(logs)
    for factor, inside in ((0.999, False), (1.001, True)):
        assert (sign_flip_p_value(logs - math.log(interval.low * factor)) > 0.05) is inside
        assert (sign_flip_p_value(logs - math.log(interval.high / factor)) > 0.05) is inside


def test_five_seeds_have_no_interval():
    interval = ratio_interval([0.1, 0.2, 0.3, 0.4, 0.5])
    assert (interval.low, interval.high) == (0.0, math.inf)


@pytest.mark.parametrize("num_seeds", [6, 8, 12])
@pytest.mark.parametrize("draw", ["normal", "skewed"])
def test_intervals_cover_the_truth_in_93_of_100_studies(num_seeds, draw):
    """Symmetric differences: paired log ratios of two cells whose seeds vary alike, about a true ratio of 1.3."""
    rng = np.random.default_rng(3)
    shape = (NUM_STUDIES, num_seeds)
    if draw == "normal":
        noise = rng.normal(0.0, 0.4, shape)
    else:  # times with heavy right tails on both sides
        noise = rng.exponential(0.4, shape) - rng.exponential(0.4, shape)
    intervals = [ratio_interval(logs) for logs in math.log(1.3) + noise]
    assert np.mean([interval.low <= 1.3 <= interval.high for interval in intervals]) >= 0.93


@pytest.mark.parametrize("num_comparisons", [1, 5, 12])
def test_identical_cells_are_called_different_in_at_most_5_of_100_studies(num_comparisons):
    """With the seeds that so many comparisons need, each against the same baseline."""
    rng = np.random.default_rng(4)
    num_seeds = seeds_needed(num_comparisons)
    false_claims = 0
    for _ in range(NUM_STUDIES):
        logs = rng.normal(0.0, 0.3, (num_comparisons + 1, num_seeds))
        p_values = [sign_flip_p_value(cell - logs[0]) for cell in logs[1:]]
        false_claims += min(holm(p_values)) <= 0.05
    assert false_claims / NUM_STUDIES <= 0.05


def test_holm_multiplies_the_smallest_by_all_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_ties_count_half_in_the_probability_of_improvement():
    assert probability_of_improvement([1.0, 2.0], [2.0, 3.0]) == (1 + 1 + 0.5 + 1) / 4
    assert probability_of_improvement([1.0], [1.0]) == 0.5


@pytest.mark.parametrize("differences", [[], [math.nan], [1.0, math.inf]])
def test_differences_that_are_no_numbers_are_refused(differences):
    with pytest.raises(ValueError, match="finite"):
        sign_flip_p_value(differences)
    with pytest.raises(ValueError, match="finite"):
        ratio_interval(differences)
