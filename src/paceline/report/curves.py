"""Learning curves thinned to what a page can carry: a line per seed up to a limit, and the median of every cell."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paceline.analysis.compare import Cell
from paceline.analysis.load import TrialResult
from paceline.records import Evaluation
from paceline.report import words

MAX_CELLS = 24  # medians in one figure
MAX_SEED_LINES = 120  # thin lines in one figure
MAX_POINTS = 120  # of one line


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Points of one workload for the figures, and in words what was left out of them.

    A row: ``label``, ``place``, ``line`` (which line it belongs to), ``median``, ``time``, ``updates``, ``score``,
    ``loss``; a value that is not finite is None.
    """

    rows: list[dict[str, Any]]
    left_out: tuple[str, ...]


def curves(cells: Sequence[Cell], results: Sequence[TrialResult]) -> Curves:
    """The curves of one workload's cells."""
    chosen = _chosen(cells)
    left_out = []
    if len(chosen) < len(cells):
        left_out.append(f"The curves show the {len(chosen)} best of {len(cells)} cells; the table has all.")
    by_cell: dict[str, list[TrialResult]] = {}
    for result in results:
        by_cell.setdefault(result.trial.cell, []).append(result)
    num_seeds = sum(len(by_cell[cell.name]) for cell in chosen)
    each = MAX_SEED_LINES // max(1, len(chosen))
    if num_seeds > MAX_SEED_LINES:
        shown = f"the first {each} seeds" if each > 1 else "the first seed" if each else "no seeds"
        left_out.append(f"Of each cell, thin lines show {shown}; the thick line is of all its seeds.")
    if any(len(result.evaluations) > MAX_POINTS for result in results):
        left_out.append(f"Lines are thinned to at most {MAX_POINTS} evaluations.")
    rows: list[dict[str, Any]] = []
    for cell in chosen:
        own = by_cell[cell.name]
        many = num_seeds > MAX_SEED_LINES
        for result in own[:each] if many else own:
            rows += _seed_line(cell, result)
        rows += _median_line(cell, own)
    return Curves(rows=rows, left_out=tuple(left_out))


def _chosen(cells: Sequence[Cell]) -> list[Cell]:
    """All cells, or the best ones where they are too many, in their order."""
    if len(cells) <= MAX_CELLS:
        return list(cells)

    def merit(cell: Cell) -> tuple[float, float]:
        last = cell.final_validation_accuracy
        score = math.inf if last is None else -last if cell.target.mode == "max" else last
        return (math.inf if cell.time_to_target_s is None else cell.time_to_target_s, score)

    kept = {cell.name for cell in sorted(cells, key=merit)[:MAX_CELLS]}
    return [cell for cell in cells if cell.name in kept]


def _seed_line(cell: Cell, result: TrialResult) -> list[dict[str, Any]]:
    return [
        _point(cell, f"seed {result.trial.seed}", False, *_values(one, cell.target.metric))
        for one in _thinned(result.evaluations)
    ]


def _median_line(cell: Cell, results: Sequence[TrialResult]) -> list[dict[str, Any]]:
    """The median of the seeds at the same evaluation, as far as every completed seed has one.

    A seed that failed or diverged counts as worst where it has no evaluation; one that still runs does not count yet.
    """
    completed = [len(result.evaluations) for result in results if result.status == "completed"]
    longest = max((len(result.evaluations) for result in results), default=0)
    length = min(completed) if completed else longest
    worst = -math.inf if cell.target.mode == "max" else math.inf
    rows = []
    for index in _thinned(range(length)):
        present = [result.evaluations[index] for result in results if index < len(result.evaluations)]
        lost = sum(result.is_over and index >= len(result.evaluations) for result in results)
        values = [_values(one, cell.target.metric) for one in present]
        time, updates = (statistics.median(value[position] for value in values) for position in (0, 1))
        score = statistics.median([_known(value[2], worst) for value in values] + [worst] * lost)
        loss = statistics.median([_known(value[3], math.inf) for value in values] + [math.inf] * lost)
        rows.append(_point(cell, "median", True, time, updates, score, loss))
    return rows


def _values(one: Evaluation, metric: str) -> tuple[float, float, float, float]:
    return (
        one.train_time_s,
        one.num_updates,
        one.validation.get(metric, math.nan),
        one.train.get("loss", math.nan),
    )


def _known(value: float, worst: float) -> float:
    return worst if math.isnan(value) else value


def _point(
    cell: Cell, line: str, median: bool, time: float, updates: float, score: float, loss: float
) -> dict[str, Any]:
    return {
        "label": cell.label,
        "place": words.place(cell),
        "line": line,
        "median": median,
        "time": _rounded(time),
        "updates": _rounded(updates),
        "score": _rounded(score),
        "loss": _rounded(loss),
    }


def _rounded(value: float) -> float | None:
    """Five digits are more than a line shows."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _thinned(items: Sequence[Any]) -> list[Any]:
    """At most ``MAX_POINTS`` items, evenly spread, the first and the last among them."""
    if len(items) <= MAX_POINTS:
        return list(items)
    step = (len(items) - 1) / (MAX_POINTS - 1)
    return [items[round(number * step)] for number in range(MAX_POINTS)]
