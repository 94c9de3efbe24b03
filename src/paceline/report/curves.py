"""Learning curves thinned to what a page can carry: a line per seed up to a limit, and the median of every cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paceline.analysis.cells import Cell
from paceline.analysis.load import TrialResult
from paceline.report import words
from paceline.report.pen import thinned

MAX_CELLS = 24  # in one figure
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
    drawn = chosen(cells)
    left_out = []
    if len(drawn) < len(cells):
        left_out.append(f"The figures show the {len(drawn)} best of {len(cells)} cells; the table has all.")
    by_cell: dict[str, list[TrialResult]] = {}
    for result in results:
        if not result.trial.repeat:
            by_cell.setdefault(result.trial.cell, []).append(result)
    num_seeds = sum(len(by_cell[cell.name]) for cell in drawn)
    each = MAX_SEED_LINES // max(1, len(drawn))
    if num_seeds > MAX_SEED_LINES:
        shown = f"the first {each} seeds" if each > 1 else "the first seed" if each else "no seeds"
        left_out.append(f"Of each cell, thin lines show {shown}; the thick line is of all its seeds.")
    if any(len(result.evaluations) > MAX_POINTS for result in results):
        left_out.append(f"Lines are thinned to at most {MAX_POINTS} evaluations.")
    rows: list[dict[str, Any]] = []
    for cell in drawn:
        own = by_cell[cell.name]
        many = num_seeds > MAX_SEED_LINES
        for result in own[:each] if many else own:
            rows += _seed_line(cell, result)
        rows += _median_line(cell, own)
    return Curves(rows=rows, left_out=tuple(left_out))


def chosen(cells: Sequence[Cell]) -> list[Cell]:
    """The cells that figures show: all, or the best ones where they are too many, in their order."""
    if len(cells) <= MAX_CELLS:
        return list(cells)

    def merit(cell: Cell) -> tuple[float, float]:
        last = cell.final_validation_accuracy
        score = math.inf if last is None else -last if cell.target.mode == "max" else last
        return (math.inf if cell.time_to_target_s is None else cell.time_to_target_s, score)

    kept = {cell.name for cell in sorted(cells, key=merit)[:MAX_CELLS]}
    return [cell for cell in cells if cell.name in kept]


def _seed_line(cell: Cell, result: TrialResult) -> list[dict[str, Any]]:
    values = _values(result, cell.target.metric)
    return [
        _point(cell, f"seed {result.trial.seed}", False, *values[:, index])
        for index in thinned(range(values.shape[1]), MAX_POINTS)
    ]


def _median_line(cell: Cell, results: Sequence[TrialResult]) -> list[dict[str, Any]]:
    """The median of the seeds at the same evaluation, as far as every completed seed has one.

    A seed that failed or diverged counts as worst where it has no evaluation; one that still runs does not count yet,
    and one that is degraded never.
    """
    results = [result for result in results if result.status != "degraded"]
    lengths = np.array([len(result.evaluations) for result in results])
    completed = [len(result.evaluations) for result in results if result.status == "completed"]
    length = min(completed) if completed else int(lengths.max(initial=0))
    is_over = np.array([result.is_over for result in results])
    values = np.full((len(results), 4, length), np.nan)
    for own, result in zip(values, results, strict=True):
        known = _values(result, cell.target.metric)[:, :length]
        own[:, : known.shape[1]] = known
    worst = np.array([-math.inf if cell.target.mode == "max" else math.inf, math.inf])
    rows = []
    for index in thinned(range(length), MAX_POINTS):
        present = lengths > index
        counted = values[present | is_over, 2:, index]
        with np.errstate(invalid="ignore"):  # the middle of an infinite best and an infinite worst
            scores = np.median(np.where(np.isnan(counted), worst, counted), axis=0)
        rows.append(_point(cell, "median", True, *np.median(values[present, :2, index], axis=0), *scores))
    return rows


def _values(result: TrialResult, metric: str) -> NDArray[np.float64]:
    """Time, updates, score and loss at each evaluation: shape (4, evaluations)."""
    own = result.evaluations
    return np.array(
        [
            own.column("train_time_s"),
            own.column("num_updates"),
            own.column("validation", metric),
            own.column("train", "loss"),
        ],
        dtype=np.float64,
    )


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
