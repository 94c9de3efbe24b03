"""Times to a target, where some seeds never arrive: those are right-censored at their budget, never dropped.

Every function takes ``values`` (what was spent until the target, or until the budget ended) and ``reached`` (whether
the target was what ended it), both of shape (seeds,), in seconds, updates, samples, gradient evaluations or bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Survival:
    """A step function: the share of seeds that have not arrived after ``values[i]``; both of shape (steps,).

    It is 1 before the first value.
    """

    values: NDArray[np.float64]
    share: NDArray[np.float64]


def kaplan_meier(values: Sequence[float], reached: Sequence[bool]) -> Survival:
    """Estimate the share of seeds that have not arrived, from censored times.

    Raises: ValueError if there is no seed, or a value is negative or not finite.
    Source: Kaplan and Meier 1958, equation 2b.
    """
    from scipy.stats import ecdf

    function = ecdf(_censored(values, reached)).sf
    return Survival(values=np.asarray(function.quantiles), share=np.asarray(function.probabilities))


def restricted_mean(values: Sequence[float], reached: Sequence[bool], *, horizon: float) -> float:
    """The mean of the time to target cut off at ``horizon``: the area under the Kaplan-Meier curve up to there.

    Where censoring ends the curve before ``horizon``, its last value is carried on.
    Raises: ValueError as ``kaplan_meier``, or if ``horizon`` is not positive and finite.
    Source: Irwin 1949; Royston and Parmar 2013, section 2.
    """
    if not (math.isfinite(horizon) and horizon > 0):
        raise ValueError(f"a horizon is positive and finite (given: {horizon})")
    curve = kaplan_meier(values, reached)
    inside = curve.values < horizon
    edges = np.concatenate([[0.0], curve.values[inside], [horizon]])
    heights = np.concatenate([[1.0], curve.share[inside]])
    return float(np.sum(np.diff(edges) * heights))


def success_rate(reached: Sequence[bool]) -> float:
    """The share of seeds that reached the target.

    Raises: ValueError if there is no seed.
    """
    if not reached:
        raise ValueError("no seed: nothing to take a share of")
    return sum(reached) / len(reached)


def expected_running_time(values: Sequence[float], reached: Sequence[bool]) -> float:
    """What reaching the target costs on average if a miss is followed by another try: all that was spent, per success.

    Infinite if no seed reached it.
    Source: Auger and Hansen 2005, equation 2.
    """
    success_rate(reached)
    return sum(values) / sum(reached) if any(reached) else math.inf


def log_rank_p_value(
    values: Sequence[float], reached: Sequence[bool], other_values: Sequence[float], other_reached: Sequence[bool]
) -> float:
    """The two-sided p-value of two groups of unpaired seeds arriving equally fast.

    It is 1 if nobody arrived in either, or all of one group were censored before the first arrival of the other.

    Raises: ValueError as ``kaplan_meier``.
    Source: Mantel 1966.
    """
    from scipy.stats import logrank

    one, other = _censored(values, reached), _censored(other_values, other_reached)
    if not any(reached) and not any(other_reached):
        return 1.0
    with np.errstate(invalid="ignore"):  # no arrival that both groups could have had: 0 / 0
        p_value = float(logrank(one, other).pvalue)
    return 1.0 if math.isnan(p_value) else p_value


def _censored(values: Sequence[float], reached: Sequence[bool]):  # type: ignore[no-untyped-def] # noqa: ANN202
    """scipy's form of censored data."""
    from scipy.stats import CensoredData

    times, arrived = np.asarray(values, dtype=np.float64), np.asarray(reached, dtype=bool)
    if times.shape != arrived.shape or times.ndim != 1 or not len(times):
        raise ValueError(f"one value and one flag a seed (given: shapes {times.shape} and {arrived.shape})")
    if not np.all(np.isfinite(times)) or np.any(times < 0):
        raise ValueError("values are finite and not negative; a seed that misses the target has its budget")
    return CensoredData(uncensored=times[arrived], right=times[~arrived])
