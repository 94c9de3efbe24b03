"""Says a comparison in words and numbers with units; the terminal, the page and the exports all speak through here."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from paceline.analysis.cells import Cell
from paceline.analysis.compare import Comparison
from paceline.analysis.groups import Calibration
from paceline.analysis.paired import Ratio
from paceline.cards import Target

MISSING = "–"
_LISTED = 12
_UNIT = re.compile(r"(?<=\d) (?=(?:%|s|ms|µs|min|h|[kMGT]?B|ranks?|seeds?|hosts?|pairs?|checks?)(?:\W|$))")
_UNITS = ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s"), (7200.0, 1 / 60, "min"))  # below, factor, unit


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
    """Where a cell ran: ``2 ranks, ddp``; one process without a wrapper is just ``1 rank``."""
    return ranks(cell) if cell.strategy == "single" else f"{ranks(cell)}, {cell.strategy}"


def who(cell: Cell) -> str:
    """A cell in a sentence: ``adam on 2 ranks (ddp)``, ``adam on 1 rank``."""
    return f"{cell.label} on {ranks(cell)}" + ("" if cell.strategy == "single" else f" ({cell.strategy})")


def goal(target: Target) -> str:
    """``validation accuracy of 95.00 % or more``."""
    side = "more" if target.mode == "max" else "less"
    return f"a validation {target.metric} of {score(target.metric, target.value)} or {side}"


def rules(comparison: Comparison) -> str:
    """What was the same at every scale."""
    if comparison.batch_rule == "global" and comparison.tuning:
        return (
            "Every scale used the same global batch, and the hyperparameters that tuning chose at that scale: where "
            "these differ, so does the mathematics."
        )
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


def number(value: int, noun: str) -> str:
    """A count of things: ``1 seed``, ``8 seeds``."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def interval(ratio: Ratio, show: Callable[[float], str]) -> str:
    """A 95 % interval in brackets: ``(95 %: 1.41× to 1.72×)``; says so where there are too few seeds for one."""
    if ratio.low is None or ratio.high is None:
        return "(too few seeds for an interval)"
    return f"(95 %: {show(ratio.low)} to {show(ratio.high)})"


def groups(found: Calibration) -> str:
    """The groups of hosts that shared the seeds, and how fast each was."""
    told = "; ".join(
        f"{', '.join(one.hosts)} (seed{'s' * (len(one.seeds) != 1)} {listed(one.seeds)}) "
        + (f"{factor(one.speed.value)} {interval(one.speed, factor)}" if one.speed else MISSING)
        for one in found.groups
    )
    return (
        f"{len(found.groups)} groups of hosts shared the seeds. Speed beside the middle one, over "
        f"{number(found.num_cells, 'cell')}: {told}."
    )


def listed(values: Sequence[int]) -> str:
    """Numbers in a row; of very many the first and how many more."""
    shown = ", ".join(map(str, values[:_LISTED]))
    return f"{shown} and {len(values) - _LISTED} more" if len(values) > _LISTED else shown


def tied(text: str) -> str:
    """The text with no line break between a number and its unit."""
    return _UNIT.sub("\u00a0", text)
