"""Says a comparison in words and numbers with units; the terminal, the page and the exports all speak through here."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from paceline.analysis.compare import Cell, Comparison, Speedup
from paceline.cards import Target

MISSING = "–"
_MOST = 8  # sentences of one kind; the table has the rest
_UNIT = re.compile(r"(?<=\d) (?=(?:%|s|ms|µs|min|h|[kMGT]?B|ranks?|seeds?|hosts?)(?:\W|$))")
_UNITS = ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s"), (7200.0, 1 / 60, "min"))  # below, factor, unit


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one workload's cells say: who was soonest, whether distributing was sooner, and what qualifies that."""

    workload: str
    headline: str
    distributing: str
    sentences: tuple[str, ...]


def seconds(value: float | None) -> str:
    """A time to three digits, in the unit that suits it."""
    if value is None or not math.isfinite(value):
        return MISSING
    for below, factor, unit in _UNITS:
        if abs(value) < below:
            return f"{digits(value * factor)} {unit}" if value else "0 s"
    return f"{digits(value / 3600)} h"


def digits(value: float) -> str:
    """Three significant digits without an exponent."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value)) + 1e-9))}f}"


def count(value: float | None) -> str:
    """A count, with separators between thousands."""
    return MISSING if value is None else f"{round(value):,}"


def rate(value: float | None) -> str:
    """Something per second: whole above 100."""
    return MISSING if value is None else f"{value:,.0f}" if value >= 100 else digits(value)


def memory(value: float | None) -> str:
    """Bytes, in the power of 1,000 that suits them."""
    if value is None:
        return MISSING
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{digits(value)} {unit}"
        value /= 1000
    return f"{digits(value)} TB"


def score(metric: str, value: float | None) -> str:
    """A metric's value; an accuracy in per cent."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{100 * value:.2f} %" if is_share(metric) else f"{value:.4g}"


def is_share(metric: str) -> bool:
    """Whether a metric is a share of examples, to be shown in per cent."""
    return metric.rpartition("_")[2] == "accuracy"


def factor(value: float | None) -> str:
    """A ratio: ``1.83×``."""
    return MISSING if value is None else f"{value:.2f}×"


def ranks(cell: Cell) -> str:
    """The scale of a cell: ``1 rank``, ``2 ranks``, ``2 hosts × 4 ranks``."""
    own = f"{cell.ranks_per_host} rank{'' if cell.ranks_per_host == 1 else 's'}"
    return own if cell.num_hosts == 1 else f"{cell.num_hosts} hosts × {own}"


def place(cell: Cell) -> str:
    """Where a cell ran: ``2 ranks, ddp``."""
    return f"{ranks(cell)}, {cell.strategy}"


def who(cell: Cell) -> str:
    """A cell in a sentence: ``adam on 2 ranks (ddp)``."""
    return f"{cell.label} on {ranks(cell)} ({cell.strategy})"


def goal(target: Target) -> str:
    """``validation accuracy of 95.00 % or more``."""
    side = "more" if target.mode == "max" else "less"
    return f"a validation {target.metric} of {score(target.metric, target.value)} or {side}"


def answers(comparison: Comparison) -> list[Answer]:
    """One answer for each workload."""
    return [_answer(workload, comparison) for workload in comparison.workloads]


def _answer(workload: str, comparison: Comparison) -> Answer:
    cells = comparison.of(workload)
    timed = sorted((cell for cell in cells if cell.time_to_target_s is not None), key=_time)
    target, several = comparison.workloads[workload], distributing(comparison, workload)
    if not timed:
        headline = f"No cell reached {goal(target)} in the median of its seeds."
        return Answer(workload=workload, headline=headline, distributing=several, sentences=tuple(_nobody(cells)))
    best = timed[0]
    headline = f"{who(best)} reached {goal(target)} soonest: after {seconds(best.time_to_target_s)} of training"
    headline += ", the median of its seeds." if best.num_trials > 1 else ", its only seed."
    sentences = [*_beside(best, timed, cells), *_speedups(cells)]
    return Answer(workload=workload, headline=headline, distributing=several, sentences=tuple(sentences))


def _time(cell: Cell) -> float:
    return math.inf if cell.time_to_target_s is None else cell.time_to_target_s


def _nobody(cells: list[Cell]) -> Iterator[str]:
    reached = sum(cell.num_reached for cell in cells)
    total = sum(cell.num_trials for cell in cells)
    yield f"{reached} of {total} trials reached it at all; a median needs more than half of a cell's seeds."
    scored = [cell for cell in cells if cell.final_validation_accuracy is not None]
    if scored:
        sign = 1 if scored[0].target.mode == "max" else -1
        best = max(scored, key=lambda cell: sign * (cell.final_validation_accuracy or 0.0))
        value = score(best.target.metric, best.final_validation_accuracy)
        yield f"{who(best)} ended nearest to it, at {value} in the mean over seeds."


def _beside(best: Cell, timed: list[Cell], cells: list[Cell]) -> Iterator[str]:
    """How many seeds reached the target, who came next, who never came."""
    every = best.num_reached == best.num_trials and best.num_trials > 1
    yield f"{'All' if every else f'{best.num_reached} of'} its {_seeds(best.num_trials)} reached the target."
    if len(timed) > 1:
        ratio = _time(timed[1]) / _time(best) if _time(best) else math.inf
        yield f"Next came {who(timed[1])} after {seconds(timed[1].time_to_target_s)}, {digits(ratio)} times as long."
    if short := [cell for cell in cells if cell.num_reached < cell.num_trials]:
        more = f"; and {len(short) - _MOST} more cells" if len(short) > _MOST else ""
        yield f"Not reached by some seeds: {'; '.join(_missed(cell) for cell in short[:_MOST])}{more}."


def _missed(cell: Cell) -> str:
    missing = Counter(row.status for row in cell.trials if row.time_to_target_s is None and row.status != "completed")
    why = ", ".join(f"{number} {status}" for status, number in missing.items())
    missed = f"{cell.num_trials - cell.num_reached} of {cell.num_trials}"
    return f"{who(cell)} in {missed}{f' ({why})' if why else ''}"


def distributing(comparison: Comparison, workload: str) -> str:
    """Whether the soonest cell with several ranks was sooner than the soonest with the fewest."""
    cells = comparison.of(workload)
    fewest, most = (pick(cell.num_ranks for cell in cells) for pick in (min, max))
    if fewest == most:
        return "Every cell ran on the same number of ranks, so nothing is said of whether it pays to distribute."
    few = min((cell for cell in cells if cell.num_ranks == fewest), key=_time)
    many = min((cell for cell in cells if cell.num_ranks > fewest), key=_time)
    if many.time_to_target_s is None or not few.time_to_target_s:
        if few.time_to_target_s is None and many.time_to_target_s is None:
            return "No number of ranks has a median time to the target: whether distributing pays stays open."
        reached, other = (few, "more ranks") if many.time_to_target_s is None else (many, _ranks(fewest))
        return f"{who(reached)} has a median time to the target; no cell on {other} has."
    ratio = few.time_to_target_s / many.time_to_target_s if many.time_to_target_s else math.inf
    verdict = (
        f"{_ranks(many.num_ranks)} took as long as {_ranks(fewest)}"
        if 0.995 < ratio < 1.005
        else f"{_ranks(many.num_ranks)} were {factor(ratio)} as fast as {_ranks(fewest)}"
        if ratio > 1
        else f"{_ranks(many.num_ranks)} were slower than {_ranks(fewest)}, taking {factor(1 / ratio)} as long"
    )
    return (
        f"At their best, {verdict}: {who(many)} needed {seconds(many.time_to_target_s)}, "
        f"{who(few)} {seconds(few.time_to_target_s)}."
    )


def _speedups(cells: list[Cell]) -> Iterator[str]:
    """For each cell with more ranks than the fewest: how it compares with each baseline."""
    by_name = {cell.name: cell for cell in cells}
    spoken = [cell for cell in cells if cell.speedups and cell.num_ranks > cell.speedups[0].baseline_num_ranks]
    for cell in spoken[:_MOST]:
        parts = "; ".join(_against(cell, speedup, by_name[speedup.baseline]) for speedup in cell.speedups)
        yield f"{who(cell)}: {parts}."
    if len(spoken) > _MOST:
        yield f"The table has {len(spoken) - _MOST} more cells with several ranks."


def _against(cell: Cell, speedup: Speedup, baseline: Cell) -> str:
    wrapped = "without a wrapper" if speedup.baseline_strategy == "single" else f"in {speedup.baseline_strategy}"
    base = f"{ranks(baseline)} {wrapped}"
    if speedup.target is None:
        examples = "" if speedup.throughput is None else f"; {factor(speedup.throughput)} the examples per second"
        lacking = "it" if cell.time_to_target_s is None else "the latter"
        return f"no ratio to {base}, as {lacking} has no median time to the target{examples}"
    told = (
        f"as long as {base}"
        if 0.995 < speedup.target < 1.005
        else f"{factor(speedup.target)} as fast as {base}"
        if speedup.target > 1
        else f"slower than {base}, {factor(1 / speedup.target)} as long"
    )
    return f"{told} (sooner in {speedup.num_faster} of {_seeds(speedup.num_pairs)})"


def sureness(comparison: Comparison) -> str:
    """How sure one may be: with too few seeds, no claim."""
    own = comparison.seeds
    compared = f"{own.num_comparisons} comparison{'' if own.num_comparisons == 1 else 's'}"
    if own.num_comparisons == 0:
        return "No claim: there is one cell, and nothing to compare it with."
    if not own.enough:
        return (
            f"No claim: {compared} need {own.num_needed} finished seeds in every cell before any difference could be "
            f"told from chance at the 5 % level, and there {'is' if own.num_seeds == 1 else 'are'} {own.num_seeds}. "
            "The numbers are what was measured here, no more."
        )
    return (
        f"No claim yet: {_seeds(own.num_seeds)} in every cell suffice for {compared}, but this report makes no test. "
        "The numbers are what was measured here, no more."
    )


def rules(comparison: Comparison) -> str:
    """What was the same at every scale."""
    if comparison.batch_rule == "global":
        return (
            "Every scale used the same global batch: the mathematics is the same but for rounding, which some "
            "optimizers amplify, and only the time should differ."
        )
    grown = {"none": "stays as it is", "linear": "grows in proportion", "sqrt": "grows as its root"}
    return (
        "The global batch grows with the number of ranks and the learning rate "
        f"{grown.get(comparison.lr_rule, comparison.lr_rule)}, so scales differ in mathematics as well as in time."
    )


def spread(cell: Cell) -> str:
    """Least and greatest time to target over the seeds that reached it."""
    times = sorted(row.time_to_target_s for row in cell.trials if row.time_to_target_s is not None)
    if len(times) < 2:
        return MISSING
    (low, unit), (high, same) = (seconds(time).split(" ") for time in (times[0], times[-1]))
    return f"{low}–{high} {unit}" if unit == same else f"{low} {unit} – {high} {same}"


def _seeds(number: int) -> str:
    return f"{number} seed{'' if number == 1 else 's'}"


def tied(text: str) -> str:
    """The text with no line break between a number and its unit."""
    return _UNIT.sub("\u00a0", text)


def _ranks(number: int) -> str:
    return f"{number} rank{'' if number == 1 else 's'}"
