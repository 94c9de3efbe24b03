"""Seeds in pairs: seed k of one cell beside seed k of another, as ratios of times with their intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from paceline.analysis.cells import Cell, TrialRow
from paceline.analysis.inference import ratio_interval

Pairs = list[tuple[TrialRow, TrialRow]]
SHORTEST_S = 1e-9  # a time of zero would have no logarithm


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A geometric mean of paired ratios, with its 95 % interval; ``low`` and ``high`` are None where nothing bounds it.

    In ``num_censored`` of ``num_pairs`` a seed missed the target and entered with the horizon.
    """

    value: float
    low: float | None
    high: float | None
    num_pairs: int
    num_censored: int = 0

    @property
    def bounded(self) -> bool:
        """Whether the seeds suffice for an interval."""
        return self.low is not None and self.high is not None


def ratio_of(log_ratios: Sequence[float], *, num_censored: int = 0) -> Ratio:
    """The ratio whose logarithm is the mean of ``log_ratios``, shape (pairs,)."""
    interval = ratio_interval(log_ratios)
    bounded = math.isfinite(interval.high) and interval.low > 0
    return Ratio(
        value=math.exp(statistics.fmean(log_ratios)),
        low=interval.low if bounded else None,
        high=interval.high if bounded else None,
        num_pairs=len(log_ratios),
        num_censored=num_censored,
    )


def pairs_of(cell: Cell, baseline: Cell) -> Pairs:
    """The seeds that are over in both cells, the cell's first."""
    before = {row.seed: row for row in baseline.trials if row.is_over}
    return [(row, before[row.seed]) for row in cell.trials if row.is_over and row.seed in before]


def log_speedups(pairs: Pairs, horizon_s: float) -> list[float]:
    """For each pair the logarithm of how many times as soon the first reached the target; a miss has the horizon."""
    return [math.log(_time(then, horizon_s) / _time(now, horizon_s)) for now, then in pairs]


def num_censored(pairs: Pairs) -> int:
    """In how many pairs at least one seed missed the target."""
    return sum(not (now.reached and then.reached) for now, then in pairs)


def horizon_s(cell: Cell) -> float:
    """With what time a miss enters; 0 where no trial of the workload has trained at all."""
    return cell.arrivals["time"].horizon if "time" in cell.arrivals else 0.0


def _time(row: TrialRow, horizon_s: float) -> float:
    return max(SHORTEST_S, horizon_s if row.time_to_target_s is None else row.time_to_target_s)
