"""How the learning rate goes over a trial's updates: a factor for each, from the schedule alone."""

from __future__ import annotations

import math

from paceline.study_tables import Schedule

ONE_CYCLE = (0.3, 4e-6, 0.04)  # of torch's OneCycleLR: share of the rise, where it ends, where it begins


def lr_factor(schedule: Schedule, update: int, num_updates: int) -> float:
    """What the learning rate is multiplied by.

    Args:
        update: made so far; 0 for the first one.
        num_updates: of all epochs; what a trial that stops sooner does not reach.
    Source: Loshchilov and Hutter 2017 (cosine), Smith and Topin 2018 (one cycle), Goyal et al. 2017 (warm-up).
    """
    one_cycle = schedule.name == "one-cycle"
    warmup, final, begin = ONE_CYCLE if one_cycle else (0.0, 0.0, 0.0)
    warmup = warmup if schedule.warmup is None else schedule.warmup
    final = final if schedule.final is None else schedule.final
    num_rising = round(warmup * num_updates)
    if update < num_rising:
        risen = (update + 1) / num_rising
        return _between(begin, 1.0, (1 - math.cos(math.pi * risen)) / 2) if one_cycle else risen
    gone = (update - num_rising) / max(1, num_updates - num_rising)
    match schedule.name:
        case "linear":
            return _between(1.0, final, gone)
        case "cosine" | "one-cycle":
            return _between(1.0, final, (1 - math.cos(math.pi * gone)) / 2)
        case "step":
            return float(schedule.factor ** math.floor(gone * (schedule.drops + 1)))
    return 1.0


def _between(one: float, other: float, share: float) -> float:
    return one + (other - one) * share
