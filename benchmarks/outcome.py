"""What a benchmark hands over: rows of a table, as JSON on standard output."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.pairs import quartiles


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured thing: its median between the quartiles of ``count`` values, and the goal if there is one."""

    what: str
    unit: str
    median: float
    low: float
    high: float
    count: int
    goal: str = ""
    reached: bool | None = None
    digits: int = 3


def row(
    what: str,
    values: Sequence[float],
    unit: str,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    noise: Sequence[float] = (1.0,),
    digits: int = 3,
) -> Row:
    """A row of some values; the goal, if any, is for the median.

    Args:
        noise: ratios of a loop to itself, taken in the same rounds. Where their median is further from one than the
            result is from its goal, nothing is said of the goal.
    """
    low, median, high = quartiles(values)
    margin = abs(quartiles(noise)[1] - 1)
    goal, reached = "", None
    if at_most is not None:
        goal, reached = f"≤ {at_most:g}", _verdict(at_most - median, margin)
    if at_least is not None:
        goal, reached = f"≥ {at_least:g}", _verdict(median - at_least, margin)
    return Row(
        what=what, unit=unit, median=median, low=low, high=high, count=len(values), goal=goal, reached=reached,
        digits=digits,
    )  # fmt: skip


def _verdict(slack: float, margin: float) -> bool | None:
    return None if abs(slack) < margin else slack >= 0


def shown(one: Row) -> str:
    """A row in words."""
    words = {True: "reached", False: "MISSED", None: "within the noise"}
    verdict = f" goal {one.goal}: {words[one.reached]}" if one.goal else ""
    spread = f"({one.low:.{one.digits}f} to {one.high:.{one.digits}f}, {one.count})"
    return f"{one.what}: {one.median:.{one.digits}f}{one.unit and ' ' + one.unit} {spread}{verdict}"


def hand_over(measure: Callable[[bool], list[Row]]) -> None:
    """Run one benchmark as a program: ``python -m benchmarks.NAME [--quick]``."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: proves that it runs, measures nothing well")
    rows = measure(parser.parse_args().quick)
    for one in rows:
        print(shown(one), file=sys.stderr)
    print(json.dumps([asdict(one) for one in rows]))


def last_json(output: str) -> Any:
    """The JSON value in the last line of a program's output."""
    return json.loads(output.strip().splitlines()[-1])
