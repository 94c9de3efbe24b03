"""What a design can find: the power of the paired exact sign-flip test at a number of seeds and of comparisons.

``spread`` is the standard deviation over seeds of the logarithm of a paired ratio of times: 0.1 is about 10 %. Only the
effect counts, |log ratio| / spread, since the test does not change when all differences are scaled. The level is
0.05 / comparisons, that of Holm's first step, so that power is not overstated.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from paceline.analysis.inference import LEVEL, seeds_needed

MOST_SIMULATED = 12  # seeds: beyond, Student's test, which has a formula, has at most 0.03 more power
MOST_SEEDS = 1000  # nobody runs more
NUM_STUDIES = 4000  # simulated ones: the standard error of a power of 0.8 is 0.006
LARGEST_EFFECT = 100.0


def power(num_seeds: int, num_comparisons: int, log_ratio: float, spread: float) -> float:
    """The chance that the test tells two cells apart whose times differ by ``log_ratio`` on average.

    Args:
        spread: see above; 0 where every seed gives the same ratio.
    Returns: 0 where the seeds are too few for any claim.
    Raises: ValueError if a number is not positive, not finite, or the spread negative.
    """
    _check(num_seeds, num_comparisons)
    return _power(num_seeds, num_comparisons, _effect(log_ratio, spread))


def detectable_ratio(num_seeds: int, num_comparisons: int, spread: float, power: float = 0.8) -> float:
    """The smallest ratio of times above 1 that is found with a chance of ``power``; infinite with too few seeds.

    Raises: ValueError as ``power``, or if ``power`` is not between 0 and 1.
    """
    _check(num_seeds, num_comparisons)
    _effect(1.0, spread)
    _check_share(power)
    low, high = 0.0, LARGEST_EFFECT
    if _power(num_seeds, num_comparisons, high) < power:
        return math.inf
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if _power(num_seeds, num_comparisons, middle) >= power else (middle, high)
    return math.exp(high * spread)


def seeds_for(log_ratio: float, spread: float, num_comparisons: int, power: float = 0.8) -> int | None:
    """The fewest seeds that find a difference of ``log_ratio`` with a chance of ``power``; None beyond 1000.

    Raises: ValueError as ``detectable_ratio``.
    """
    _check(1, num_comparisons)
    _check_share(power)
    effect = _effect(log_ratio, spread)
    for num_seeds in range(seeds_needed(num_comparisons), MOST_SIMULATED + 1):
        # the t test has more power: where even that falls short, nothing needs to be simulated
        if _power_of_t_test(num_seeds, LEVEL / num_comparisons, effect) < power:
            continue
        if _power(num_seeds, num_comparisons, effect) >= power:
            return num_seeds
    low, high = max(MOST_SIMULATED + 1, seeds_needed(num_comparisons)), MOST_SEEDS
    if _power(high, num_comparisons, effect) < power:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(middle, num_comparisons, effect) >= power else (middle + 1, high)
    return low


def _check(num_seeds: int, num_comparisons: int) -> None:
    if num_seeds < 1 or num_comparisons < 1:
        raise ValueError(f"give at least one seed and one comparison (given: {num_seeds} and {num_comparisons})")


def _check_share(power: float) -> None:
    if not 0 < power < 1:
        raise ValueError(f"a power lies between 0 and 1 (given: {power})")


def _effect(log_ratio: float, spread: float) -> float:
    if not (math.isfinite(log_ratio) and math.isfinite(spread) and spread >= 0):
        raise ValueError(
            f"a log ratio and a spread are finite, the spread not negative (given: {log_ratio} and {spread})"
        )
    if spread * LARGEST_EFFECT <= abs(log_ratio):
        return LARGEST_EFFECT if log_ratio else 0.0
    return abs(log_ratio) / spread


def _power(num_seeds: int, num_comparisons: int, effect: float) -> float:
    """Power at an effect; both sides of the test count, so that it is the test's level at an effect of 0."""
    if num_seeds < seeds_needed(num_comparisons):
        return 0.0
    if num_seeds <= MOST_SIMULATED:
        needed = _needed_effects(num_seeds, LEVEL / num_comparisons)
        # an effect of the other sign needs as much: the simulated differences are symmetric
        below = np.searchsorted(needed, [effect, -effect])
        return float(below.sum() / len(needed))
    return _power_of_t_test(num_seeds, LEVEL / num_comparisons, effect)


@functools.cache
def _needed_effects(num_seeds: int, level: float) -> NDArray[np.float64]:
    """How large an effect each of many simulated studies needed to be noticed, in order; shape (studies,).

    The test rejects zero where zero lies outside the interval that inverts it, and the interval moves with the effect:
    so the lower end of its interval without any effect says, with its sign changed, what effect a study needs.
    """
    noise = np.random.default_rng(0).standard_normal((NUM_STUDIES, num_seeds)).astype(np.float32)
    subsets = np.arange(1, 2**num_seeds)
    members = (subsets[:, None] >> np.arange(num_seeds) & 1).astype(np.float32)
    weights = (members / members.sum(axis=1, keepdims=True)).T
    outside = int(level / 2 * 2**num_seeds)  # subset means left out below the interval, as inference.ratio_interval
    lower = [np.partition(part @ weights, outside - 1, axis=1)[:, outside - 1] for part in np.array_split(noise, 16)]
    return np.sort(-np.concatenate(lower).astype(np.float64))


def _power_of_t_test(num_seeds: int, level: float, effect: float) -> float:
    """Power of the paired t test: that of a normal test, averaged over the spreads that the seeds may show.

    scipy's noncentral t gives NaN for large effects.
    """
    from scipy.special import ndtr, stdtrit

    freedom = num_seeds - 1
    critical = float(stdtrit(freedom, 1 - level / 2))
    reach = 9 / math.sqrt(2 * freedom)  # standard deviations of the observed spread about the true one, 1
    spreads = np.linspace(max(1 - reach, 1e-9), 1 + reach, 400)
    log_density = (freedom - 1) * np.log(spreads) - freedom * (spreads**2 - 1) / 2
    weights = np.exp(log_density) / np.exp(log_density).sum()
    shift = effect * math.sqrt(num_seeds)
    found = ndtr(shift - critical * spreads) + ndtr(-shift - critical * spreads)
    return float(weights @ found)
