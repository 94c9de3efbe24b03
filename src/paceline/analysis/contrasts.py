"""The declared comparisons: each tested by paired seeds, all of them together kept at the 5 % level.

A difference is claimed only if its adjusted p-value is small, it exceeds what the same trial differs from itself, and
the audit found nothing that spoils the study.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from paceline.analysis.cells import Cell
from paceline.analysis.censoring import log_rank_p_value
from paceline.analysis.inference import LEVEL, holm, probability_of_improvement, sign_flip_p_value
from paceline.analysis.noise import AaPair
from paceline.analysis.paired import Ratio, horizon_s, log_speedups, num_censored, pairs_of, ratio_of

Outcome = Literal["sooner", "later", "no claim"]
Reason = Literal["", "chance", "noise", "noise unknown", "audit", "no pair"]


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """One declared comparison of ``cell`` with ``baseline``.

    ``ratio`` says how many times as soon the cell reached the target (above 1: sooner), None without any pair.
    ``adjusted_p_value`` is Holm's over all comparisons of the study; ``log_rank_p_value`` compares the unpaired curves
    and decides nothing. ``reason`` says why there is no claim: the difference may be chance (too few seeds, or too
    small), lies below the machine's noise, the noise was not measured, or the audit failed.
    """

    workload: str
    cell: str
    baseline: str
    ratio: Ratio | None
    p_value: float
    adjusted_p_value: float
    log_rank_p_value: float
    probability_of_improvement: float
    outcome: Outcome
    reason: Reason


def contrasts_of(
    pairs: Sequence[tuple[str, str]], cells: Sequence[Cell], noise: Sequence[AaPair], *, audit_failed: bool
) -> list[Contrast]:
    """Test the declared ``pairs`` of cells by their names."""
    by_name = {cell.name: cell for cell in cells}
    found = [_tested(by_name[one], by_name[other]) for one, other in pairs if one in by_name and other in by_name]
    adjusted = holm([one.p_value for one in found]) if found else []
    floors = {pair.workload: pair.floor for pair in noise}
    return [
        _judged(replace(one, adjusted_p_value=value), floors, audit_failed=audit_failed)
        for one, value in zip(found, adjusted, strict=True)
    ]


def _tested(cell: Cell, baseline: Cell) -> Contrast:
    pairs, horizon = pairs_of(cell, baseline), horizon_s(cell)
    logs = log_speedups(pairs, horizon) if horizon else []
    times = [[row.spent("time", horizon) for row in one.trials] for one in (cell, baseline)]
    reached = [[row.reached for row in one.trials] for one in (cell, baseline)]
    # beyond the horizon nothing is known: a miss comes after every arrival, and ties with a miss
    arrivals = [[math.inf if row.time_to_target_s is None else row.time_to_target_s for row in one.trials]
                for one in (cell, baseline)]  # fmt: skip
    return Contrast(
        workload=cell.workload,
        cell=cell.name,
        baseline=baseline.name,
        ratio=ratio_of(logs, num_censored=num_censored(pairs)) if logs else None,
        p_value=sign_flip_p_value(logs) if logs else 1.0,
        adjusted_p_value=1.0,
        log_rank_p_value=log_rank_p_value(times[0], reached[0], times[1], reached[1]),
        probability_of_improvement=probability_of_improvement(*arrivals),
        outcome="no claim",
        reason="no pair",
    )


def _judged(contrast: Contrast, floors: Mapping[str, float | None], *, audit_failed: bool) -> Contrast:
    """Decide whether a difference is claimed, and if not, why."""
    reason = _why_not(contrast, floors.get(contrast.workload), audit_failed=audit_failed)
    if reason or contrast.ratio is None:
        return replace(contrast, reason=reason)
    return replace(contrast, outcome="sooner" if contrast.ratio.value > 1 else "later", reason="")


def _why_not(contrast: Contrast, floor: float | None, *, audit_failed: bool) -> Reason:
    if contrast.ratio is None:
        return "no pair"
    if audit_failed:
        return "audit"
    if contrast.adjusted_p_value > LEVEL:
        return "chance"
    if floor is None:
        return "noise unknown"
    return "noise" if abs(math.log(contrast.ratio.value)) <= math.log(floor) else ""
