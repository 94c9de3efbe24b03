"""Groups of hosts that shared a study's seeds: who had which, and how fast each was beside the others.

A group is named by the host of its rank 0. All trials of a seed belong on one group, so that whatever makes a group
slow divides out of their ratios. Speeds are of the study's own trials, so that they cost no trial more. Seeds are the
units: the trials of one seed ran one after the other on the same hosts, and share what disturbed these.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from paceline.analysis.cells import median_update_time_s
from paceline.analysis.inference import LEVEL
from paceline.analysis.load import TrialResult
from paceline.analysis.paired import Ratio


@dataclass(frozen=True, kw_only=True)
class Group:
    """One group; ``hosts`` in the order of ranks, its own name first.

    ``speed`` is the time of an update in the group of middle speed over that in this one: above 1 it is faster. None
    where no cell ran on all groups.
    """

    name: str
    hosts: tuple[str, ...]
    seeds: tuple[int, ...]
    speed: Ratio | None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """All groups of a run, in the order of their first seeds.

    ``num_cells`` ran on all of them. ``gap`` is how many times as long the slowest took for an update as the fastest;
    its interval allows for their being picked. Both are None where no cell ran on all.
    """

    groups: tuple[Group, ...]
    num_cells: int
    gap: Ratio | None


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What one trial says of its group: ``log_s`` is the logarithm of the median time of its updates."""

    group: str
    cell: str
    seed: int
    log_s: float


def calibrate(results: Sequence[TrialResult]) -> Calibration | None:
    """The groups that ran the trials; None where there is one only."""
    names = _by_first_seed(results)
    if len(names) < 2:
        return None
    deviations, num_cells = deviations_of(list(_timed(results)), names)
    speeds, gap = judged(deviations)
    return Calibration(
        groups=tuple(
            Group(name=name, hosts=_hosts(results, name), seeds=_seeds(results, name), speed=speeds.get(name))
            for name in names
        ),
        num_cells=num_cells,
        gap=gap,
    )


def deviations_of(timed: Sequence[Timed], names: Sequence[str]) -> tuple[dict[str, list[float]], int]:
    """By group, for each of its seeds, the mean over cells of how much longer than the middle group it took, in logs.

    Only cells that ran on all groups count; returns their number as well.
    """
    cells: dict[str, dict[str, list[Timed]]] = {}
    for one in timed:
        cells.setdefault(one.cell, {}).setdefault(one.group, []).append(one)
    shared = [own for own in cells.values() if len(own) == len(names)]
    found: dict[tuple[str, int], list[float]] = {}
    for own in shared:
        middle = statistics.median(statistics.fmean(one.log_s for one in group) for group in own.values())
        for one in (one for group in own.values() for one in group):
            found.setdefault((one.group, one.seed), []).append(one.log_s - middle)
    deviations: dict[str, list[float]] = {name: [] for name in names} if shared else {}
    for (name, _), logs in found.items():
        deviations[name].append(statistics.fmean(logs))
    return deviations, len(shared)


def judged(deviations: dict[str, list[float]]) -> tuple[dict[str, Ratio], Ratio | None]:
    """The speed of each group and the gap between the slowest and the fastest, with 95 % intervals.

    The spread of seeds about their groups' means, pooled, tells the noise: one seed a group tells none.
    Source: Student 1908 for a group; Tukey 1953 and Kramer 1956 for the widest gap of several.
    """
    if not deviations:
        return {}, None
    from scipy.stats import t

    means = {name: statistics.fmean(own) for name, own in deviations.items()}
    freedom = sum(len(own) - 1 for own in deviations.values())
    squares = sum((value - means[name]) ** 2 for name, own in deviations.items() for value in own)
    noise = math.sqrt(squares / freedom) if freedom else math.inf
    own_width = float(t.ppf(1 - LEVEL / 2, freedom)) if freedom else math.inf
    widest = _widest_range(len(means), freedom) / math.sqrt(2) if freedom else math.inf
    slow, fast = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    share = {name: 1 / len(own) for name, own in deviations.items()}
    speeds = {
        name: _ratio(-mean, own_width * noise * math.sqrt(share[name]), len(deviations[name]))
        for name, mean in means.items()
    }
    gap = _ratio(
        means[slow] - means[fast],
        widest * noise * math.sqrt(share[slow] + share[fast]),
        len(deviations[slow]) + len(deviations[fast]),
    )
    return speeds, gap


@functools.cache
def _widest_range(num_groups: int, freedom: int) -> float:
    """What the range of so many means exceeds by chance in one study of twenty, in standard errors of one mean."""
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(1 - LEVEL, num_groups, freedom))


def _ratio(log: float, half_width: float, num_seeds: int) -> Ratio:
    bounded = math.isfinite(half_width)
    return Ratio(
        value=math.exp(log),
        low=math.exp(log - half_width) if bounded else None,
        high=math.exp(log + half_width) if bounded else None,
        num_pairs=num_seeds,
    )


def _timed(results: Iterable[TrialResult]) -> Iterable[Timed]:
    """The trials that stayed on one group and at their size; repeats would count the baseline twice."""
    for result in results:
        if len(result.groups) == 1 and not result.trial.repeat and result.status != "degraded":
            time_s = median_update_time_s(result)
            if time_s:
                yield Timed(
                    group=result.groups[0],
                    cell=result.trial.cell,
                    seed=result.trial.seed,
                    log_s=math.log(time_s),
                )


def _by_first_seed(results: Sequence[TrialResult]) -> list[str]:
    ordered = sorted(results, key=lambda result: result.trial.seed)
    return list(dict.fromkeys(name for result in ordered for name in result.groups))


def _hosts(results: Iterable[TrialResult], name: str) -> tuple[str, ...]:
    """The hosts of the trials that ended on a group, its ranks' order kept."""
    own = [result for result in results if result.groups[-1:] == [name]]
    widest = sorted(own, key=lambda result: result.trial.num_ranks, reverse=True)
    return tuple(dict.fromkeys(start.host for result in widest for start in result.starts)) or (name,)


def _seeds(results: Iterable[TrialResult], name: str) -> tuple[int, ...]:
    return tuple(sorted({result.trial.seed for result in results if name in result.groups}))
