"""Which figures a report has: those of each workload, those over all workloads, and those of tuning."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.analysis.compare import Comparison
from paceline.analysis.load import TrialResult
from paceline.analysis.tuning import Tuning
from paceline.report import figures_arrival, figures_learning, figures_ratios, figures_time_split, figures_tuning
from paceline.report.curves import chosen, curves
from paceline.report.pen import Figure, FigureSet, Pen, Style


def figures(comparison: Comparison, workload: str, results: Sequence[TrialResult], style: Style) -> FigureSet:
    """All figures of one workload; ``results`` are those of the whole run."""
    cells = comparison.of(workload)
    drawn = curves(cells, [result for result in results if result.trial.workload == workload])
    pen, shown = Pen(comparison, style), chosen(cells)
    contrasts = [one for one in comparison.contrasts if one.workload == workload]
    rows = {
        "contrasts": figures_ratios.contrast_rows(shown, contrasts),
        "target": figures_arrival.dot_rows(shown),
        "shares": figures_arrival.share_rows(shown),
        "speedups": figures_ratios.speedup_rows(shown, comparison),
        "scaling": figures_ratios.scaling_rows(shown, comparison),
        "curves": drawn.rows,
        "parts": figures_time_split.part_rows(shown),
    }
    made: list[Figure] = []
    if rows["contrasts"]:
        made.append(figures_ratios.intervals(pen, comparison, workload, rows["contrasts"]))
    made.append(figures_arrival.to_target(pen, shown, rows["target"]))
    if rows["shares"]:
        made.append(figures_arrival.share_arrived(pen, shown, rows["shares"]))
    if rows["speedups"]:
        made.append(figures_ratios.decomposition(pen, comparison, rows["speedups"]))
    if rows["scaling"]:
        made.append(figures_ratios.scaling(pen, rows["scaling"]))
    made += figures_learning.learning(pen, drawn, comparison.workloads[workload])
    if rows["parts"]:
        made.append(figures_time_split.time_split(pen, shown, rows["parts"]))
    fewer_dots = any(len(figures_arrival.dots_of(cell, len(shown))) < len(cell.trials) for cell in shown)
    left_out = (
        *drawn.left_out,
        *(("Of each cell's dots only some are drawn, spread evenly over its times.",) * fewer_dots),
    )
    return FigureSet(figures=tuple(made), rows=rows, left_out=left_out)


def overview(comparison: Comparison, style: Style) -> FigureSet:
    """Figures over all workloads; there are none with a single workload, or where nobody arrived."""
    rows = figures_arrival.profile_rows(comparison) if len(comparison.workloads) > 1 else []
    made = (figures_arrival.profile(Pen(comparison, style)),) if rows else ()
    return FigureSet(figures=made, rows={"profile": rows})


def of_tuning(comparison: Comparison, tuning: Tuning, workload: str, style: Style) -> FigureSet:
    """The figures of one workload's tuning; there are none before a configuration is over."""
    rows = figures_tuning.budget_rows(tuning, workload, comparison.of(workload))
    made = (figures_tuning.budget(Pen(comparison, style), workload, rows),) if rows else ()
    return FigureSet(figures=made, rows={"budget": rows})
