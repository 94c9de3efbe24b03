"""What more ranks bring: a speed-up, split into needing fewer updates and taking less time for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paceline.analysis.cells import Cell
from paceline.analysis.paired import Pairs, Ratio, horizon_s, log_speedups, num_censored, pairs_of, ratio_of


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """How many times as soon a cell reaches the target as ``baseline`` does, by paired seeds.

    ``total`` = ``statistical`` (ratio of updates to the target) x ``hardware`` (ratio of times per update); all three
    are None where no seed of either cell arrived. Where a seed missed the target, its updates are what the horizon
    leaves after its own time per update. ``scaling_efficiency`` is the total over the ratio of ranks. ``throughput`` is
    the ratio of examples per second. ``num_faster`` of ``num_pairs`` seeds arrived sooner than their other half.
    """

    cell: str
    baseline: str
    baseline_strategy: str
    baseline_num_ranks: int
    total: Ratio | None
    statistical: Ratio | None
    hardware: Ratio | None
    scaling_efficiency: float | None
    throughput: float | None
    num_pairs: int
    num_faster: int


def speedups_of(cell: Cell, cells: Sequence[Cell]) -> tuple[Speedup, ...]:
    """A cell beside its baselines: the same label at the fewest ranks, bare first, then by the cell's own strategy."""
    same = [one for one in cells if (one.workload, one.label) == (cell.workload, cell.label)]
    fewest = min(one.num_ranks for one in same)
    if cell.strategy == "single" and cell.num_ranks == fewest:
        return ()
    baselines = [one for one in same if one.num_ranks == fewest and one.name != cell.name]  # the bare one comes first
    if cell.num_ranks == fewest:
        baselines = [one for one in baselines if one.strategy == "single"]
    own = [one for one in baselines if one.strategy in ("single", cell.strategy)]
    return tuple(_speedup(cell, baseline) for baseline in own or baselines[:1])


def _speedup(cell: Cell, baseline: Cell) -> Speedup:
    pairs = pairs_of(cell, baseline)
    total, statistical, hardware = _split(pairs, horizon_s(cell))
    grown = cell.num_ranks / baseline.num_ranks
    rates = cell.examples_per_s, baseline.examples_per_s
    return Speedup(
        cell=cell.name,
        baseline=baseline.name,
        baseline_strategy=baseline.strategy,
        baseline_num_ranks=baseline.num_ranks,
        total=total,
        statistical=statistical,
        hardware=hardware,
        scaling_efficiency=total.value / grown if total else None,
        throughput=rates[0] / rates[1] if rates[0] is not None and rates[1] else None,
        num_pairs=len(pairs),
        num_faster=sum(_key(now.time_to_target_s) < _key(then.time_to_target_s) for now, then in pairs),
    )


def _split(pairs: Pairs, horizon: float) -> tuple[Ratio | None, Ratio | None, Ratio | None]:
    """Total, statistical and hardware ratio; they multiply up pair by pair."""
    timed = [pair for pair in pairs if all(row.time_per_update_s for row in pair)]
    if not any(row.reached for pair in timed for row in pair):
        return None, None, None
    totals = log_speedups(timed, horizon)
    hardware = [math.log((then.time_per_update_s or 1) / (now.time_per_update_s or 1)) for now, then in timed]
    censored = num_censored(timed)
    return (
        ratio_of(totals, num_censored=censored),
        ratio_of([total - own for total, own in zip(totals, hardware, strict=True)], num_censored=censored),
        ratio_of(hardware),
    )


def _key(time_s: float | None) -> float:
    return math.inf if time_s is None else time_s
