"""What paired seeds allow to claim: exact sign-flip tests, intervals that invert them, Holm's correction.

Seeds pair: seed k of one cell had the same initial parameters and the same order of examples as seed k of the other. A
difference is that of the logarithms of their times, so that it stands for a ratio. A seed that misses the target enters
with the study's horizon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05  # of all declared comparisons together
MOST_EXACT = 20  # seeds: up to here every pattern of signs is counted (about a million at 20)
NUM_RANDOM_PATTERNS = 20_000
PATTERNS_TOGETHER = 1_000  # bounds memory where there are thousands of seeds
NUM_RANDOM_SUBSETS = 10_000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The ratios that a test at level 1 - ``confidence`` does not reject; unbounded where the seeds are too few."""

    low: float
    high: float
    confidence: float


def seeds_needed(num_comparisons: int) -> int:
    """The fewest seeds with which a paired exact sign-flip test under Holm can reach the 5 % level."""
    return next(n for n in range(1, 64) if 2.0 ** (1 - n) <= LEVEL / max(1, num_comparisons))


def sign_flip_p_value(differences: Sequence[float], *, seed: int = 0) -> float:
    """Two-sided p-value of paired differences being symmetric about zero.

    The share of all patterns of signs whose sum is at least as far from zero as the one observed: exact up to 20 seeds,
    and from 20,000 random patterns beyond, drawn from ``seed``.
    Raises: ValueError if there is no difference, or one is not finite.
    Source: Fisher 1935, section 21.
    """
    values = _finite(differences)
    observed = abs(values.sum())
    tolerance = 1e-12 * np.abs(values).sum()
    if len(values) <= MOST_EXACT:
        return float(np.mean(np.abs(_signed_sums(values)) >= observed - tolerance))
    rng, extreme = np.random.default_rng(seed), 0
    for _ in range(NUM_RANDOM_PATTERNS // PATTERNS_TOGETHER):
        flipped = rng.integers(0, 2, size=(PATTERNS_TOGETHER, len(values)), dtype=np.int8).astype(np.float64)
        extreme += int(np.count_nonzero(np.abs(values.sum() - 2 * (flipped @ values)) >= observed - tolerance))
    return (extreme + 1) / (NUM_RANDOM_PATTERNS + 1)  # the observed pattern is one of them


def ratio_interval(log_ratios: Sequence[float], *, confidence: float = 0.95, seed: int = 0) -> Interval:
    """An interval for the ratio of paired times, from the logarithms of the ratios.

    It holds the ratios that the sign-flip test does not reject: with n seeds the means of all non-empty subsets cut the
    line into 2^n pieces of equal probability, and the interval leaves out the outermost ones. Beyond 20 seeds it takes
    10,000 random subsets, drawn from ``seed``.
    Raises: ValueError as ``sign_flip_p_value``, or if ``confidence`` is not between 0 and 1.
    Source: Hartigan 1969, theorem 2.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1 (given: {confidence})")
    values = _finite(log_ratios)
    low, high = _inverted_test(values, confidence, seed)
    return Interval(low=float(np.exp(low)), high=float(np.exp(high)), confidence=confidence)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of several comparisons, so that the chance of any false claim is kept.

    Source: Holm 1979.
    """
    order = np.argsort(p_values)
    adjusted = np.maximum.accumulate([min(1.0, p_values[i] * (len(p_values) - rank)) for rank, i in enumerate(order)])
    result = np.empty(len(p_values))
    result[order] = adjusted
    return [float(value) for value in result]


def probability_of_improvement(times: Sequence[float], baseline_times: Sequence[float]) -> float:
    """The share of pairs of seeds, any with any, in which the first is sooner; ties count half.

    Raises: ValueError if either has no seed.
    Source: Agarwal et al. 2021, section 4.3.
    """
    if not times or not baseline_times:
        raise ValueError("no seed: nothing to compare")
    ordered = np.sort(np.asarray(baseline_times, dtype=np.float64))
    before, not_after = (np.searchsorted(ordered, times, side=side) for side in ("left", "right"))
    lost = before.sum() + 0.5 * (not_after - before).sum()  # pairs in which the other came first, and ties
    return float(1 - lost / (len(times) * len(ordered)))


def _finite(differences: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(differences, dtype=np.float64)
    if not len(values) or not np.all(np.isfinite(values)):
        raise ValueError("differences are finite, one a seed, and there is at least one")
    return values


def _signed_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums under every pattern of signs, shape (2^n,)."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def _subset_means(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """The means of all non-empty subsets; beyond 20 seeds of random ones."""
    if len(values) <= MOST_EXACT:
        sums, counts = np.zeros(1), np.zeros(1)
        for value in values:
            sums, counts = np.concatenate([sums, sums + value]), np.concatenate([counts, counts + 1])
        return sums[1:] / counts[1:]
    rng, means = np.random.default_rng(seed), []
    for _ in range(0, NUM_RANDOM_SUBSETS, PATTERNS_TOGETHER):
        chosen = rng.integers(0, 2, size=(PATTERNS_TOGETHER, len(values)), dtype=np.int8).astype(np.float64)
        chosen = chosen[chosen.any(axis=1)]
        means.append(chosen @ values / chosen.sum(axis=1))
    return np.concatenate(means)


def _inverted_test(values: NDArray[np.float64], confidence: float, seed: int) -> tuple[float, float]:
    means = np.sort(_subset_means(values, seed))
    outside = int((1 - confidence) / 2 * (len(means) + 1))  # of the pieces of equal probability, on each side
    if outside == 0:
        return -np.inf, np.inf
    return float(means[outside - 1]), float(means[-outside])
