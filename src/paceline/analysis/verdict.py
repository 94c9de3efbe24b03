"""The verdict on one workload: which cell is the fastest, whether distributing pays, and what would settle the rest.

Only declared comparisons are tested. All claims hold together at the 5 % level, so what follows from them holds too:
if a is sooner than b, and b than c, then a is sooner than c.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from paceline.analysis.cells import Cell
from paceline.analysis.contrasts import Contrast
from paceline.analysis.inference import seeds_needed
from paceline.analysis.noise import AaPair
from paceline.analysis.paired import Ratio, horizon_s, log_speedups, num_censored, pairs_of, ratio_of
from paceline.analysis.power import seeds_for

LEAST_SPREAD = 1e-6  # of log ratios between seeds; an estimate of zero would promise certainty


@dataclass(frozen=True, kw_only=True)
class Undecided:
    """Two cells that the study cannot tell apart; ``ratio`` is how many times as soon ``cell`` arrived as ``other``.

    ``num_more_seeds`` would decide it with 80 % power if the difference and the spread are what they seem: None where
    the difference is below the machine's noise or would take more than 1,000. ``declared`` says whether the study
    compares the two at all; if not, another must, and 0 says that so many seeds would do.
    """

    cell: str
    other: str
    ratio: Ratio | None
    declared: bool
    num_more_seeds: int | None


@dataclass(frozen=True, kw_only=True)
class Distributing:
    """Whether more ranks reach the target sooner than the fewest; ``num_ranks`` is from how many on it pays.

    ``few`` and ``many`` are the best cells on either side by their medians, and ``ratio`` says how many times as soon
    ``many`` arrived.
    """

    outcome: Literal["pays", "does not pay", "open", "one scale"]
    num_ranks: int | None
    few: str | None
    many: str | None
    ratio: Ratio | None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What may be said of one workload on these machines.

    ``withheld`` names the checks of the audit that failed; then nothing below is claimed. ``slower`` cells are known to
    be slower than some other; of the rest ``fastest`` has the least median time to the target (None where no median was
    reached), and those ``within_noise`` may be as fast. ``time_s`` is the typical time of the fastest, the geometric
    mean over seeds with its interval, in seconds.
    """

    workload: str
    withheld: tuple[str, ...]
    fastest: str | None
    median_time_s: float | None
    time_s: Ratio | None
    node_hours: float | None
    slower: tuple[str, ...]
    within_noise: tuple[Undecided, ...]
    distributing: Distributing


def verdict_on(
    workload: str,
    cells: Sequence[Cell],
    contrasts: Sequence[Contrast],
    noise: Sequence[AaPair],
    *,
    num_comparisons: int,
    withheld: tuple[str, ...],
) -> Verdict:
    """The verdict on ``cells``, those of one workload; ``contrasts`` are all of the study's."""
    own = [one for one in contrasts if one.workload == workload]
    floor = next((pair.floor for pair in noise if pair.workload == workload), None)
    judge = _Judge(cells, own, floor, num_comparisons)
    best = next(iter(_by_median(judge.leaders())), None)
    return Verdict(
        workload=workload,
        withheld=withheld,
        fastest=best.name if best else None,
        median_time_s=best.time_to_target_s if best else None,
        time_s=_typical_time(best) if best else None,
        node_hours=best.node_hours_to_target if best else None,
        slower=tuple(cell.name for cell in cells if cell not in judge.leaders()),
        within_noise=tuple(judge.undecided(best, cell) for cell in judge.leaders() if best and cell is not best),
        distributing=_distributing(cells, judge),
    )


class _Judge:
    """What the claims of one workload say, and what they leave open."""

    def __init__(
        self, cells: Sequence[Cell], contrasts: Sequence[Contrast], floor: float | None, num_comparisons: int
    ) -> None:
        self._cells, self._floor, self._num_comparisons = cells, floor, num_comparisons
        self._declared = {frozenset((one.cell, one.baseline)) for one in contrasts}
        self._sooner: dict[str, set[str]] = {}
        for one in contrasts:
            if one.outcome != "no claim":
                winner, loser = (one.cell, one.baseline)[:: 1 if one.outcome == "sooner" else -1]
                self._sooner.setdefault(winner, set()).add(loser)

    def slower_than(self, name: str) -> set[str]:
        """The cells that the claims put behind one, directly or through others."""
        found: set[str] = set()
        left = [name]
        while left:
            new = self._sooner.get(left.pop(), set()) - found
            found |= new
            left += new
        return found

    def leaders(self) -> list[Cell]:
        """The cells that no other is known to beat."""
        beaten = set().union(*self._sooner.values())
        return [cell for cell in self._cells if cell.name not in beaten]

    def undecided(self, cell: Cell, other: Cell) -> Undecided:
        """Two cells beside each other, and how many more seeds would tell them apart."""
        logs, censored = _log_ratios(cell, other)
        declared = frozenset((cell.name, other.name)) in self._declared
        return Undecided(
            cell=cell.name,
            other=other.name,
            ratio=ratio_of(logs, num_censored=censored) if logs else None,
            declared=declared,
            num_more_seeds=self._more_seeds(logs, self._num_comparisons + (not declared)),
        )

    def _more_seeds(self, logs: Sequence[float], num_comparisons: int) -> int | None:
        if len(logs) < 2:
            return max(0, seeds_needed(num_comparisons) - len(logs))
        difference = abs(statistics.fmean(logs))
        if difference == 0 or difference <= math.log(self._floor or 1.0):
            return None
        spread = max(statistics.stdev(logs), LEAST_SPREAD)
        needed = seeds_for(difference, spread, num_comparisons)
        return None if needed is None else max(0, needed - len(logs))


def _by_median(cells: Iterable[Cell]) -> list[Cell]:
    timed = [cell for cell in cells if cell.time_to_target_s is not None]
    return sorted(timed, key=lambda cell: cell.time_to_target_s or 0.0)


def _log_ratios(cell: Cell, other: Cell) -> tuple[list[float], int]:
    pairs, horizon = pairs_of(cell, other), horizon_s(cell)
    return (log_speedups(pairs, horizon), num_censored(pairs)) if horizon else ([], 0)


def _typical_time(cell: Cell) -> Ratio | None:
    """The geometric mean of the time to target in seconds, with its interval; misses have the horizon."""
    times = [horizon_s(cell) if row.time_to_target_s is None else row.time_to_target_s for row in cell.trials]
    logs = [math.log(time) for time in times if time > 0]
    return ratio_of(logs, num_censored=sum(not row.reached for row in cell.trials)) if logs else None


def _distributing(cells: Sequence[Cell], judge: _Judge) -> Distributing:
    """It pays if only cells on more ranks than the fewest may be the fastest, and does not if none of them may."""
    fewest = min(cell.num_ranks for cell in cells)
    below, above = ([cell for cell in cells if (cell.num_ranks > fewest) is many] for many in (False, True))
    if not above:
        return Distributing(outcome="one scale", num_ranks=None, few=None, many=None, ratio=None)
    leading = {cell.num_ranks > fewest for cell in judge.leaders()}
    few, many = (next(iter(_by_median(side)), None) for side in (below, above))
    pays = [cell.num_ranks for cell in above if few and few.name in judge.slower_than(cell.name)]
    logs, censored = _log_ratios(many, few) if few and many else ([], 0)
    return Distributing(
        outcome="open" if len(leading) > 1 else "pays" if leading == {True} else "does not pay",
        num_ranks=min(pays or [cell.num_ranks for cell in above]) if leading == {True} else None,
        few=few.name if few else None,
        many=many.name if many else None,
        ratio=ratio_of(logs, num_censored=censored) if logs else None,
    )
