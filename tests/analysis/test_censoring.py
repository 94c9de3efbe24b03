"""Censored times: against lifelines, and against answers known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.analysis.censoring import (
    expected_running_time,
    kaplan_meier,
    log_rank_p_value,
    restricted_mean,
    success_rate,
)

lifelines = pytest.importorskip("lifelines", reason="lifelines, the oracle of these tests, is not installed")

pytestmark = pytest.mark.filterwarnings("ignore:Starting with pandas version 4.0")  # lifelines' own calls of pandas

SEEDS = st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=30)


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_the_curve_and_its_restricted_mean_are_those_of_lifelines(seeds):
    values, reached = [float(value) for value, _ in seeds], [arrived for _, arrived in seeds]
    fitted = lifelines.KaplanMeierFitter().fit(values, reached)
    curve = kaplan_meier(values, reached)
    assert np.atleast_1d(fitted.predict(curve.values)).tolist() == pytest.approx(curve.share.tolist())
    expected = lifelines.utils.restricted_mean_survival_time(fitted, t=41.0)
    assert restricted_mean(values, reached, horizon=41.0) == pytest.approx(expected)


def test_the_log_rank_test_is_that_of_lifelines():
    rng = np.random.default_rng(0)
    one, other = rng.exponential(1.0, 40), rng.exponential(1.8, 40)
    reached, other_reached = one < 2.0, other < 2.0
    one, other = np.minimum(one, 2.0), np.minimum(other, 2.0)
    expected = lifelines.statistics.logrank_test(one, other, reached, other_reached).p_value
    own = log_rank_p_value(list(one), list(reached), list(other), list(other_reached))
    assert own == pytest.approx(expected, rel=1e-9)


def test_seeds_that_never_arrive_are_kept_at_their_budget():
    values, reached = [2.0, 10.0, 10.0, 6.0], [True, False, False, True]
    assert success_rate(reached) == 0.5
    assert expected_running_time(values, reached) == 14.0  # 28 s spent for two successes
    assert restricted_mean(values, reached, horizon=10.0) == pytest.approx(7.0)  # their mean, each cut off at 10


def test_a_target_that_nobody_reached_has_the_horizon_as_its_mean_and_no_expected_time():
    assert restricted_mean([5.0, 5.0], [False, False], horizon=5.0) == 5.0
    assert expected_running_time([5.0, 5.0], [False, False]) == math.inf
    assert log_rank_p_value([5.0], [False], [5.0], [False]) == 1.0


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf], [-1.0]])
def test_values_that_are_no_times_are_refused(values):
    with pytest.raises(ValueError, match=r"one value and one flag|finite and not negative"):
        kaplan_meier(values, [True] * len(values))


def test_groups_that_never_ran_at_the_same_time_are_not_told_apart():
    """All of the first were censored before anyone of the second arrived, as in a study that is still running."""
    assert log_rank_p_value([1.0, 2.0], [False, False], [3.0, 4.0], [True, True]) == 1.0
