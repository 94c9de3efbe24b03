"""The noise of the machine, from A/A pairs: the same trial twice, which differ in nothing but the time they took."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paceline.analysis.cells import TrialRow, row_of
from paceline.analysis.inference import sign_flip_p_value
from paceline.analysis.load import TrialResult
from paceline.analysis.paired import Ratio, ratio_of


@dataclass(frozen=True, kw_only=True)
class AaPair:
    """The baseline of a workload against itself.

    ``ratio`` is of the second times to the first; ``floor`` the farther end of its interval, as a ratio of 1 or more:
    no difference below it is claimed (None with too few seeds for an interval). ``largest`` is the largest ratio within
    one pair.
    """

    workload: str
    cell: str
    ratio: Ratio
    p_value: float
    floor: float | None
    largest: float


def aa_pairs(results: Sequence[TrialResult]) -> list[AaPair]:
    """One for each workload that has repeated trials; seeds count where both halves are over."""
    first = {(one.trial.cell, one.trial.seed): one for one in results if not one.trial.repeat and one.is_over}
    logs: dict[tuple[str, str], list[float]] = {}
    for again in results:
        before = first.get((again.trial.cell, again.trial.seed)) if again.trial.repeat and again.is_over else None
        difference = _log_ratio(row_of(before), row_of(again)) if before else None
        if difference is not None:
            logs.setdefault((again.trial.workload, again.trial.cell), []).append(difference)
    return [_pair(workload, cell, own) for (workload, cell), own in logs.items()]


def _log_ratio(first: TrialRow, again: TrialRow) -> float | None:
    """By time to the target; by time per update where one of them missed it."""
    one, two = first.time_to_target_s, again.time_to_target_s
    if not (one and two):
        one, two = first.time_per_update_s, again.time_per_update_s
    return math.log(two / one) if one and two else None


def _pair(workload: str, cell: str, logs: list[float]) -> AaPair:
    ratio = ratio_of(logs)
    bounds = () if ratio.low is None or ratio.high is None else (abs(math.log(ratio.low)), abs(math.log(ratio.high)))
    return AaPair(
        workload=workload,
        cell=cell,
        ratio=ratio,
        p_value=sign_flip_p_value(logs),
        floor=math.exp(max(bounds)) if bounds else None,
        largest=math.exp(max(abs(value) for value in logs)),
    )
