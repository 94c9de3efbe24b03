"""The verdict in words: what may be said, what was measured where nothing may be, and what would settle the rest."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from paceline.analysis.cells import Cell
from paceline.analysis.compare import Comparison
from paceline.analysis.contrasts import Contrast
from paceline.analysis.paired import Ratio
from paceline.analysis.speedups import Speedup
from paceline.analysis.verdict import Undecided, Verdict
from paceline.job import ENOUGH_SEEDS
from paceline.report.words import MISSING, digits, factor, goal, interval, number, score, seconds, who

_MOST = 8  # sentences of one kind; the tables have the rest
_NAMED = 3  # cells named in the first line


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One workload's verdict in sentences.

    ``verdict`` is the line that the report opens with; ``measured`` says who came first where it is withheld, else it
    is empty; ``distributing`` answers whether several ranks pay; ``sentences`` qualify all that.
    """

    workload: str
    verdict: str
    measured: str
    distributing: str
    sentences: tuple[str, ...]


def answers(comparison: Comparison) -> list[Answer]:
    """One answer for each workload."""
    return [_answer(verdict, comparison) for verdict in comparison.verdicts]


def _answer(verdict: Verdict, comparison: Comparison) -> Answer:
    withheld = withholding(comparison)
    first = _who_was_first(verdict, comparison)
    return Answer(
        workload=verdict.workload,
        verdict=withheld or first,
        measured=f"Measured, but not concluded: {first[0].lower()}{first[1:]}" if withheld else "",
        distributing=_distributing(verdict, comparison),
        sentences=tuple(_sentences(verdict, comparison)),
    )


def withholding(comparison: Comparison) -> str:
    """Why there is no verdict; empty where there is one."""
    failed = [one for one in comparison.audit if one.scope == "study" and one.status == "fail"]
    spoilt = [one for one in failed if one.check != ENOUGH_SEEDS]  # without seeds, only certainty is lost
    if spoilt:
        more = f" (and {number(len(failed) - 1, 'more check')})" if len(failed) > 1 else ""
        return f"Verdict withheld: the check “{spoilt[0].check}” failed{more}: {spoilt[0].evidence}."
    return f"No verdict, for want of seeds: {failed[0].evidence}." if failed else ""


def _who_was_first(verdict: Verdict, comparison: Comparison) -> str:
    target = comparison.workloads[verdict.workload]
    if verdict.fastest is None:
        return f"No cell reached {goal(target)} in the median of its seeds."
    best = comparison.cell(verdict.fastest)
    time = f"{seconds(verdict.median_time_s)} of training"
    time += ", its only seed" if best.num_trials == 1 else ""
    if verdict.time_s and verdict.time_s.bounded:
        time += f" {interval(verdict.time_s, seconds)}"
    others = len(comparison.of(verdict.workload)) - 1
    if verdict.withheld or not others:
        return f"{who(best)} reached {goal(target)} soonest: after {time}."
    if not verdict.within_noise:
        return f"{who(best)} is the fastest of {others + 1} cells to {goal(target)}: {time}."
    maybe, unknown = (
        _joined([who(comparison.cell(one.other)) for one in verdict.within_noise if one.declared is declared])
        for declared in (True, False)
    )
    told = f"{who(best)} reached {goal(target)} soonest, after {time}"
    told += f", but {maybe} may be as fast." if maybe else "."
    told += f" Not compared with it: {unknown}." if unknown else ""
    slower = len(verdict.slower)
    return told + (f" The other {f'{slower} cells are' if slower > 1 else 'cell is'} slower." if slower else "")


def _joined(names: Sequence[str]) -> str:
    """``a, b and c``; only how many where they are too many for one line."""
    if len(names) > _NAMED:
        return number(len(names), "other cell")
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _distributing(verdict: Verdict, comparison: Comparison) -> str:
    found = verdict.distributing
    if found.outcome == "one scale":
        return "Every cell ran on the same number of ranks, so nothing is said of whether it pays to distribute."
    few = comparison.cell(found.few) if found.few else None
    many = comparison.cell(found.many) if found.many else None
    if found.outcome == "pays":
        where = f"Distributing pays, from {number(found.num_ranks or 0, 'rank')} on"
        return f"{where}: {_beside(many, few, found.ratio)}." if many and few and found.ratio else f"{where}."
    if found.outcome == "does not pay":
        told = f" At best, {_beside(many, few, found.ratio)}." if many and few and found.ratio else ""
        return f"Distributing does not pay: every cell on more ranks is slower than one on the fewest.{told}"
    start = "" if verdict.withheld else "Whether distributing pays is open. "
    if many is None or few is None or found.ratio is None:
        if few is None and many is None:
            return f"{start}No number of ranks has a median time to the target."
        reached, other = (few, "more ranks") if few else (many, "the fewest ranks")
        assert reached is not None
        return f"{start}{who(reached)} has a median time to the target; no cell on {other} has."
    return f"{start}At their best, {_beside(many, few, found.ratio)}."


def _beside(cell: Cell, other: Cell, ratio: Ratio) -> str:
    """``adam on 2 ranks (ddp) is 1.40× as fast as adam on 1 rank (single) (95 %: ...)``, whichever way round it is."""
    if math.isclose(ratio.value, 1.0, abs_tol=0.005):
        return f"{who(cell)} takes as long as {who(other)} {interval(ratio, factor)}"
    if ratio.value > 1:
        return f"{who(cell)} is {factor(ratio.value)} as fast as {who(other)} {interval(ratio, factor)}"
    return f"{who(cell)} takes {factor(1 / ratio.value)} as long as {who(other)} {interval(inverse(ratio), factor)}"


def inverse(ratio: Ratio) -> Ratio:
    """The ratio the other way round."""
    return Ratio(
        value=1 / ratio.value,
        low=1 / ratio.high if ratio.high else None,
        high=1 / ratio.low if ratio.low else None,
        num_pairs=ratio.num_pairs,
        num_censored=ratio.num_censored,
    )


def _sentences(verdict: Verdict, comparison: Comparison) -> Iterator[str]:
    cells = comparison.of(verdict.workload)
    if verdict.fastest is None:
        yield from _nobody(cells)
    else:
        best = comparison.cell(verdict.fastest)
        every = "all of which" if best.num_reached == best.num_trials else f"{best.num_reached} of which"
        median = f"That is the median of {best.num_trials} seeds, {every} reached the target; it"
        yield (
            f"{median if best.num_trials > 1 else 'Reaching the target'} costs {digits(verdict.node_hours or 0.0)} "
            "node-hours."
        )
        if not verdict.withheld:
            yield from _claims(verdict, comparison)
            yield from _may_be_as_fast(verdict, comparison)
    yield from _missed_by(cells)
    yield from _speedups(cells, comparison)


def _nobody(cells: Sequence[Cell]) -> Iterator[str]:
    reached = sum(cell.num_reached for cell in cells)
    total = sum(cell.num_trials for cell in cells)
    yield f"{reached} of {total} trials reached it at all; a median needs more than half of a cell's seeds."
    scored = [cell for cell in cells if cell.final_validation_accuracy is not None]
    if scored:
        sign = 1 if scored[0].target.mode == "max" else -1
        best = max(scored, key=lambda cell: sign * (cell.final_validation_accuracy or 0.0))
        value = score(best.target.metric, best.final_validation_accuracy)
        yield f"{who(best)} ended nearest to it, at {value} in the mean over seeds."


def _claims(verdict: Verdict, comparison: Comparison) -> Iterator[str]:
    """What the declared comparisons claim."""
    made = [one for one in comparison.contrasts if one.workload == verdict.workload and one.outcome != "no claim"]
    for one in made[:_MOST]:
        if one.ratio:
            yield f"Sure: {_beside(comparison.cell(one.cell), comparison.cell(one.baseline), one.ratio)}."
    if len(made) > _MOST:
        yield f"The table of comparisons has {len(made) - _MOST} more that are sure."


def _may_be_as_fast(verdict: Verdict, comparison: Comparison) -> Iterator[str]:
    """The cells that cannot be told from the fastest, and what would settle that."""
    nearest = sorted(verdict.within_noise, key=lambda one: one.ratio.value if one.ratio else math.inf)
    for one in [one for one in nearest[:_MOST] if one.declared]:
        yield f"Not sure: {_took(one, comparison)}. {_what_settles(one, comparison)}"
    if undeclared := [one for one in nearest[:_MOST] if not one.declared]:
        measured = "; ".join(_took(one, comparison) for one in undeclared)
        yield f"Measured, but not compared with it: {measured}. {_what_compares(undeclared)}"
    if len(nearest) > _MOST:
        yield f"{number(len(nearest) - _MOST, 'more cell')} may be the fastest as well."


def _took(one: Undecided, comparison: Comparison) -> str:
    told = f"{factor(one.ratio.value)} as long {interval(one.ratio, factor)}" if one.ratio else "no pair of seeds"
    return f"{who(comparison.cell(one.other))} took {told}"


def _what_settles(one: Undecided, comparison: Comparison) -> str:
    """``6 more seeds of both would settle it.``"""
    if one.num_more_seeds is None:
        workload = comparison.cell(one.cell).workload
        floor = next((pair.floor for pair in comparison.noise if pair.workload == workload), None)
        if one.ratio and floor and abs(math.log(one.ratio.value)) <= math.log(floor):
            return f"The same trial differs from itself by as much here ({percent(floor)}): no claim is possible."
        return "No affordable number of seeds would settle it."
    if one.num_more_seeds == 0:
        return "One more seed of each may settle it."
    return f"About {number(one.num_more_seeds, 'more seed')} of both would settle it."


def _what_compares(undeclared: Sequence[Undecided]) -> str:
    """How a study would claim what was only measured."""
    pair = f"['{short_name(undeclared[0].cell)}', '{short_name(undeclared[0].other)}']"
    seeds = [one.num_more_seeds for one in undeclared if one.num_more_seeds is not None]
    if not seeds:
        return "No affordable number of seeds would settle that."
    more = f" and has about {number(max(seeds), 'more seed')}" if max(seeds) else ""
    return f"A study that declares such comparisons, as {pair},{more} would settle that."


def short_name(cell: str) -> str:
    """A cell as a study file names it: ``adam+ddp@1x2``."""
    return cell.partition("/")[2]


def percent(ratio: float) -> str:
    """By how much a ratio differs from 1, in per cent: ``4.2 %``."""
    return f"{digits(100 * math.expm1(abs(math.log(ratio))))} %"


def _missed_by(cells: Sequence[Cell]) -> Iterator[str]:
    if short := [cell for cell in cells if cell.num_reached < cell.num_trials]:
        more = f"; and {number(len(short) - _MOST, 'more cell')}" if len(short) > _MOST else ""
        yield f"Not reached by some seeds: {'; '.join(_missed(cell) for cell in short[:_MOST])}{more}."


def _missed(cell: Cell) -> str:
    missing = Counter(row.status for row in cell.trials if not row.reached and row.status != "completed")
    why = ", ".join(f"{count} {status}" for status, count in missing.items())
    missed = f"{cell.num_trials - cell.num_reached} of {cell.num_trials}"
    return f"{who(cell)} in {missed}{f' ({why})' if why else ''}"


def _speedups(cells: Sequence[Cell], comparison: Comparison) -> Iterator[str]:
    """For each cell with more ranks than the fewest: how it compares with each baseline, and why."""
    spoken = [
        (cell, own)
        for cell in cells
        if (own := comparison.speedups_of(cell)) and cell.num_ranks > own[0].baseline_num_ranks
    ]
    for cell, own in spoken[:_MOST]:
        yield f"{who(cell)}: {'; '.join(_against(cell, one, comparison.cell(one.baseline)) for one in own)}."
    if len(spoken) > _MOST:
        yield f"The table has {len(spoken) - _MOST} more cells with several ranks."


def _against(cell: Cell, speedup: Speedup, baseline: Cell) -> str:
    wrapped = "without a wrapper" if speedup.baseline_strategy == "single" else f"in {speedup.baseline_strategy}"
    base = f"{number(baseline.num_ranks, 'rank')} {wrapped}"
    if speedup.total is None or speedup.statistical is None or speedup.hardware is None:
        examples = "" if speedup.throughput is None else f"; {factor(speedup.throughput)} the examples per second"
        return f"no ratio to {base}, as neither reached the target{examples}"
    efficiency = f"{100 * (speedup.scaling_efficiency or 0.0):.0f} %"
    hidden = (
        f", {100 * cell.time_split['communication']:.0f} % of an update is communication" if cell.time_split else ""
    )
    return (
        f"{factor(speedup.total.value)} the speed of {base} = {factor(speedup.statistical.value)} by updates × "
        f"{factor(speedup.hardware.value)} by time per update; scaling efficiency {efficiency}{hidden}"
    )


def sureness(comparison: Comparison) -> str:
    """How sure one may be of what was said: the level, the tests, the noise; or why nothing is claimed."""
    own = comparison.seeds
    if own.num_comparisons == 0:
        return "No claim: there is one cell, and nothing to compare it with."
    compared = number(own.num_comparisons, "declared comparison")
    if not own.enough:
        return (
            f"No claim: {compared} need {own.num_needed} finished seeds in every cell before any difference could be "
            f"told from chance at the 5 % level, and there {'is' if own.num_seeds == 1 else 'are'} {own.num_seeds}. "
            "The numbers are what was measured here, no more."
        )
    if comparison.verdicts and comparison.verdicts[0].withheld:
        return "No claim: the audit failed. The numbers are what was measured here, no more."
    made = sum(one.outcome != "no claim" for one in comparison.contrasts)
    floors = [pair.floor for pair in comparison.noise if pair.floor]
    quiet = (
        f" Run twice, the same trial differed from itself by up to {percent(max(floors))}: nothing smaller is claimed."
        if floors
        else " The study has no A/A pair, so the machine's own noise is not known, and nothing is claimed."
    )
    return (
        f"{number(made, 'claim')}: of {compared}, by {number(own.num_seeds, 'seed')} that pair, {made} "
        f"{'was' if made == 1 else 'were'} told from chance by exact sign-flip tests; the chance of any false claim "
        f"among them is at most 5 %.{quiet}"
    )


def outcome(contrast: Contrast) -> str:
    """What a declared comparison came to, in words."""
    why = {
        "chance": "may be chance",
        "noise": "within the machine's noise",
        "noise unknown": "the machine's noise is not known",
        "audit": "the audit failed",
        "no pair": "no seed is over in both",
    }
    return contrast.outcome if contrast.outcome != "no claim" else f"no claim: {why.get(contrast.reason, MISSING)}"
