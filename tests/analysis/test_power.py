"""Power: what the formula says is what simulated studies find."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from paceline.analysis.inference import LEVEL, holm, seeds_needed, sign_flip_p_value
from paceline.analysis.power import detectable_ratio, power, seeds_for


def share_found(num_seeds: int, num_comparisons: int, log_ratio: float, spread: float) -> float:
    """Of 1,500 simulated studies, by the test itself; another seed than that of the tables."""
    studies = np.random.default_rng(11).normal(log_ratio, spread, size=(1500, num_seeds))
    return float(np.mean([sign_flip_p_value(study) <= LEVEL / num_comparisons for study in studies]))


@pytest.mark.parametrize(
    ("num_seeds", "num_comparisons", "effect"),
    [(6, 1, 1.5), (7, 1, 1.0), (8, 5, 1.5), (9, 12, 1.3), (12, 1, 0.8), (12, 5, 1.0), (13, 5, 1.2), (18, 1, 0.6)],
)
def test_power_is_the_share_of_simulated_studies_that_find_the_difference(num_seeds, num_comparisons, effect):
    """Within three standard errors and the 0.03 by which Student's test is optimistic beyond 12 seeds."""
    assert power(num_seeds, num_comparisons, effect * 0.1, 0.1) == pytest.approx(
        share_found(num_seeds, num_comparisons, effect * 0.1, 0.1), abs=0.055
    )


def test_where_all_signs_must_agree_power_has_a_closed_form():
    """Six seeds, one comparison: the test rejects exactly where all six differences have one sign."""
    half = 0.5 * math.erfc(-1.2 / math.sqrt(2))
    assert power(6, 1, 0.12, 0.1) == pytest.approx(half**6 + (1 - half) ** 6, abs=0.025)


@pytest.mark.parametrize(("num_seeds", "num_comparisons"), [(6, 1), (10, 5), (12, 1), (20, 5)])
def test_without_a_difference_it_is_at_most_the_level(num_seeds, num_comparisons):
    assert 0 < power(num_seeds, num_comparisons, 0.0, 0.1) <= LEVEL / num_comparisons + 0.01


def test_too_few_seeds_find_nothing():
    assert power(5, 1, 10.0, 0.01) == 0.0
    assert detectable_ratio(8, 12, 0.05) == math.inf


@pytest.mark.parametrize("num_comparisons", [1, 5, 12])
@pytest.mark.parametrize("spread", [0.05, 0.2])
def test_the_detectable_ratio_is_found_with_the_power_asked_for(num_comparisons, spread):
    for num_seeds in (seeds_needed(num_comparisons), 12, 30):
        ratio = detectable_ratio(num_seeds, num_comparisons, spread)
        assert ratio > 1
        assert power(num_seeds, num_comparisons, math.log(ratio), spread) == pytest.approx(0.8, abs=0.002)


@pytest.mark.parametrize("num_comparisons", [1, 5, 12])
@pytest.mark.parametrize("log_ratio", [-0.5, 0.1, 0.07, 0.02])
def test_the_seeds_asked_for_suffice_and_one_fewer_does_not(num_comparisons, log_ratio):
    found = seeds_for(log_ratio, 0.1, num_comparisons)
    assert found is not None
    assert power(found, num_comparisons, log_ratio, 0.1) >= 0.8
    assert found == seeds_needed(num_comparisons) or power(found - 1, num_comparisons, log_ratio, 0.1) < 0.8


def test_no_number_of_seeds_shows_a_difference_that_is_not_there():
    assert seeds_for(0.0, 0.1, 5) is None
    assert seeds_for(0.0, 0.0, 5) is None
    assert seeds_for(1e-4, 0.1, 1) is None


def test_without_spread_the_fewest_seeds_suffice():
    assert seeds_for(0.01, 0.0, 5) == seeds_needed(5)
    assert power(8, 5, 1e9, 1e-9) == 1.0
    assert power(40, 5, 1e9, 1e-9) == pytest.approx(1.0)


def test_it_is_fast_once_its_tables_are_made():
    seeds_for(0.1, 0.08, 5)
    began = time.perf_counter()
    for log_ratio in np.linspace(0.01, 0.3, 30):
        seeds_for(float(log_ratio), 0.08, 5)
    assert (time.perf_counter() - began) / 30 < 0.05  # 2 ms on an idle machine


def test_the_level_is_that_of_holms_first_step():
    assert holm([LEVEL / 5, 1, 1, 1, 1])[0] == pytest.approx(LEVEL)


@pytest.mark.parametrize(
    "wrong",
    [(0, 1, 0.1, 0.1), (6, 0, 0.1, 0.1), (6, 1, math.nan, 0.1), (6, 1, 0.1, -0.1), (6, 1, 0.1, math.inf)],
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="given: "):
        power(*wrong)
    with pytest.raises(ValueError, match=r"given: 1\.5"):
        seeds_for(0.1, 0.1, 1, power=1.5)
