"""Calibration by simulation beyond 20 seeds, where not every pattern of signs is counted any more.

Fewer random patterns are drawn than in earnest, so that thousands of studies take seconds: the numbers get a little
noisier, which can only cost coverage.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from paceline.analysis import inference
from paceline.analysis.inference import ratio_interval, sign_flip_p_value

NUM_STUDIES = 2000
HORIZON = math.log(2.0)  # in logarithms of times whose median is 1


@pytest.fixture(autouse=True)
def few_patterns(monkeypatch):
    for name in ("NUM_RANDOM_SUBSETS", "NUM_RANDOM_PATTERNS", "PATTERNS_TOGETHER"):
        monkeypatch.setattr(inference, name, 1000)


def normal(rng: np.random.Generator, num_seeds: int, ratio: float) -> tuple[NDArray[np.float64], float]:
    """Times that vary log-normally; with the logarithm of the true ratio."""
    return rng.normal(math.log(ratio), 0.4, (NUM_STUDIES, num_seeds)), math.log(ratio)


def skewed(rng: np.random.Generator, num_seeds: int, ratio: float) -> tuple[NDArray[np.float64], float]:
    """One cell now and then needs much longer: log ratios that are themselves log-normal, of skewness 1."""
    mean = math.exp(0.3**2 / 2)
    return math.log(ratio) + rng.lognormal(0.0, 0.3, (NUM_STUDIES, num_seeds)) - mean, math.log(ratio)


def censored(rng: np.random.Generator, num_seeds: int, ratio: float) -> tuple[NDArray[np.float64], float]:
    """Seeds that miss the target enter with the horizon: 8 % of the baseline's, at a ratio of 1.3 some 19 %."""
    shape, spread = (NUM_STUDIES, num_seeds), 0.5
    slower, baseline = rng.normal(math.log(ratio), spread, shape), rng.normal(0.0, spread, shape)

    def mean(centre: float) -> float:
        z = (HORIZON - centre) / spread
        return HORIZON - spread * float(z * scipy.stats.norm.cdf(z) + scipy.stats.norm.pdf(z))

    return np.minimum(slower, HORIZON) - np.minimum(baseline, HORIZON), mean(math.log(ratio)) - mean(0.0)


@pytest.mark.parametrize("num_seeds", [25, 40])
@pytest.mark.parametrize("draw", [normal, skewed, censored])
def test_intervals_beyond_twenty_seeds_cover_the_truth_in_93_of_100_studies(draw, num_seeds):
    logs, truth = draw(np.random.default_rng(7), num_seeds, 1.3)
    intervals = [ratio_interval(own) for own in logs]
    covered = np.mean([math.log(interval.low) <= truth <= math.log(interval.high) for interval in intervals])
    assert covered >= 0.93


@pytest.mark.parametrize("draw", [normal, censored])
def test_identical_cells_of_25_seeds_are_called_different_in_5_of_100_studies(draw):
    """Within two standard errors of the simulation; and not much more seldom, which would waste seeds."""
    logs, truth = draw(np.random.default_rng(8), 25, 1.0)
    assert truth == 0.0
    share = np.mean([sign_flip_p_value(own) <= 0.05 for own in logs])
    assert share == pytest.approx(0.05, abs=2 * math.sqrt(0.05 * 0.95 / NUM_STUDIES))
