"""Interleaved measurements: on a machine that drifts, only what was taken turn by turn may be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def interleave(contestants: dict[str, Callable[[], float]], *, rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Let every contestant run once a round, in turn and in reversed turn (ABC CBA ABC ...).

    Args:
        contestants: each runs once and returns its seconds.
        warm_up: rounds that are thrown away first.
    Returns: the seconds of every contestant, one a round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(-warm_up, rounds):
        names = list(contestants) if number % 2 else list(reversed(contestants))
        for name in names:
            taken = contestants[name]()
            if number >= 0:
                seconds[name].append(taken)
    return seconds


def ratios(seconds: Sequence[float], reference: Sequence[float]) -> list[float]:
    """The ratio of each pair that was taken in one round."""
    return [one / other for one, other in zip(seconds, reference, strict=True)]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The median between the quartiles."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return low, median, high
