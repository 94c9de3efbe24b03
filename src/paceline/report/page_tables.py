"""The tables of the page beside that of the cells: the audit, comparisons, arrivals, speed-ups, and what was tuned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from paceline.analysis.audit import CHECKS, AuditFinding
from paceline.analysis.cells import Arrival, Cell
from paceline.analysis.compare import Comparison
from paceline.analysis.contrasts import Contrast
from paceline.analysis.groups import Calibration
from paceline.analysis.paired import Ratio
from paceline.analysis.speedups import Speedup
from paceline.analysis.tuning import Search, Tuning
from paceline.report import answers, words
from paceline.report.figures_tuning import scale_of
from paceline.report.pen import labels_of

Kind = Literal["plain", "strong", "failed", "faint"]
_STATUS = {"fail": "✗ failed", "pass": "✓ passed", "not applicable": "– not applicable"}
_LEAST_P = 1e-4  # below it, how small a p-value is says nothing more
_OTHER_MEASURES: tuple[tuple[str, str, Callable[[float | None], str]], ...] = (
    ("updates", "Updates", words.count),
    ("samples", "Examples", words.count),
    ("gradient_evaluations", "Gradient evaluations", words.count),
    ("bytes", "Bytes that rank 0 sent", words.memory),
)


@dataclass(frozen=True, kw_only=True)
class Field:
    """One entry of a table; ``below`` is a second, smaller line."""

    text: str
    below: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row; its first entry names it, and ``label`` gives it an optimizer's colour."""

    fields: tuple[Field, ...]
    label: str = ""
    kind: Kind = "plain"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text. The last ``num_numbers`` columns are numbers; a ``folded`` table is opened by its title."""

    name: str
    title: str
    reading: str
    heads: tuple[str, ...]
    lines: tuple[Line, ...]
    num_numbers: int = 0
    folded: bool = False


def audit(comparison: Comparison) -> tuple[Table, ...]:
    """The checks that failed, where there are any, and folded all others."""
    number = Counter(one.status for one in comparison.audit)
    counted = f"{words.number(number['pass'], 'check')} passed, {number['not applicable']} not applicable"
    failed = [one for one in comparison.audit if one.status == "fail"]
    others = [one for one in comparison.audit if one.status == "pass"]
    others += [one for one in comparison.audit if one.status == "not applicable"]
    reading = (
        "Each check asks what must hold before a number here can be believed. One that fails for the study withholds "
        "the verdict; one that fails for single trials makes only those lose."
    )
    tables = (
        _audited("audit-failed", f"Audit: {words.number(number['fail'], 'check')} failed", reading, failed),
        _audited("audit", f"Audit: {counted}{'' if failed else ', 0 failed'}", reading, others),
    )
    return tuple(table for table in tables if table.lines)


def _audited(name: str, title: str, reading: str, findings: Sequence[AuditFinding]) -> Table:
    questions = {check.name: check.question for check in CHECKS}
    kinds: dict[str, Kind] = {"fail": "failed", "pass": "plain", "not applicable": "faint"}
    return Table(
        name=name,
        title=title,
        reading=reading,
        heads=("Check", "Outcome", "Evidence"),
        lines=tuple(
            Line(
                fields=(
                    Field(text=one.check, below=questions.get(one.check, "")),
                    Field(text=_STATUS[one.status]),
                    Field(text=one.evidence),
                ),
                kind=kinds[one.status],
            )
            for one in findings
        ),
        folded=name == "audit",
    )


def comparisons(comparison: Comparison, workload: str) -> Table:
    """The declared comparisons of one workload and what came of each."""
    own = [one for one in comparison.contrasts if one.workload == workload]
    return Table(
        name="comparisons",
        title="Declared comparisons",
        reading="Each line compares a cell with its baseline, seed by seed. A small adjusted p says that chance alone "
        "would rarely do this. “Sooner in” is the share of all pairs of seeds, any with any; the log-rank p compares "
        "the curves without pairing and decides nothing.",
        heads=("Cell", "Baseline", "Outcome", "Times as fast", "p, adjusted", "Sooner in", "p, log-rank"),
        lines=tuple(_contrast(one, comparison) for one in own),
        num_numbers=4,
    )


def _contrast(one: Contrast, comparison: Comparison) -> Line:
    cell = comparison.cell(one.cell)
    return Line(
        fields=(
            _name(cell),
            _name(comparison.cell(one.baseline)),
            Field(text=answers.outcome(one)),
            _ratio(one.ratio),
            Field(text=_p(one.adjusted_p_value)),
            Field(text=_percent(one.probability_of_improvement)),
            Field(text=_p(one.log_rank_p_value)),
        ),
        label=cell.label,
        kind="plain" if one.outcome == "no claim" else "strong",
    )


def arrivals(cells: Sequence[Cell]) -> Table:
    """How each cell came to the target, in training time."""
    return Table(
        name="arrivals",
        title="Training time to the target",
        reading="A seed that missed the target is kept: the median exists where more than half arrived, the restricted "
        "mean counts a miss as the whole budget, and the expected time adds what misses cost before the next try.",
        heads=("Cell", "Reached", "Median", "Restricted mean", "Expected", "Node-hours"),
        lines=tuple(Line(fields=(_name(cell), _reached(cell), *_times(cell)), label=cell.label) for cell in cells),
        num_numbers=5,
    )


def _reached(cell: Cell) -> Field:
    return Field(text=_percent(cell.success_rate), below=f"{cell.num_reached:,} of {cell.num_trials:,} seeds")


def _times(cell: Cell) -> tuple[Field, ...]:
    own, hours = cell.arrivals.get("time"), cell.node_hours_to_target
    shown = (own.median, own.restricted_mean, own.expected) if own else (None, None, None)
    return (
        *(Field(text=words.seconds(value)) for value in shown),
        Field(text=words.MISSING if hours is None else words.digits(hours)),
    )


def other_arrivals(cells: Sequence[Cell]) -> Table:
    """How each cell came to the target, in whatever but time is spent on it."""
    return Table(
        name="other-arrivals",
        title="The same in updates, examples, gradient evaluations and bytes",
        reading="Large: the median over seeds. Small: the restricted mean, then the expected expense as above.",
        heads=("Cell", *(head for _, head, _ in _OTHER_MEASURES)),
        lines=tuple(
            Line(
                fields=(
                    _name(cell),
                    *(_spent(cell.arrivals.get(measure), show) for measure, _, show in _OTHER_MEASURES),
                ),
                label=cell.label,
            )
            for cell in cells
        ),
        num_numbers=len(_OTHER_MEASURES),
        folded=True,
    )


def _spent(own: Arrival | None, show: Callable[[float | None], str]) -> Field:
    if own is None:
        return Field(text=words.MISSING)
    return Field(text=show(own.median), below=f"{show(own.restricted_mean)} · {show(own.expected)}")


def speedups(comparison: Comparison, cells: Sequence[Cell]) -> Table:
    """Every speed-up over every baseline, and what communication cost."""
    return Table(
        name="speedups",
        title="Speed-ups",
        reading="Total = statistical × hardware. Scaling efficiency is the total over the ratio of ranks, 100 % being "
        "perfect; exposed communication is the share of training time that computation did not hide.",
        heads=("Cell", "Baseline", "Total", "Statistical", "Hardware", "Scaling efficiency", "Exposed communication"),
        lines=tuple(
            _speedup(cell, one, comparison.cell(one.baseline)) for cell in cells for one in comparison.speedups_of(cell)
        ),
        num_numbers=5,
    )


def _speedup(cell: Cell, one: Speedup, baseline: Cell) -> Line:
    hidden, update_s = cell.time_split.get("communication"), cell.mean_update_time_s or 0.0
    return Line(
        fields=(
            _name(cell),
            Field(text=words.place(baseline)),
            *(_ratio(ratio) for ratio in (one.total, one.statistical, one.hardware)),
            Field(text=_percent(one.scaling_efficiency)),
            Field(
                text=_percent(hidden), below="" if hidden is None else f"{words.seconds(hidden * update_s)} an update"
            ),
        ),
        label=cell.label,
    )


def groups(found: Calibration) -> Table:
    """The groups of hosts that shared the seeds, and how fast each was."""
    return Table(
        name="groups",
        title="Groups of hosts",
        reading="Each seed ran on one group, so that differences between groups divide out of every ratio of paired "
        f"seeds. Speed is that of updates beside the middle group, over {words.number(found.num_cells, 'cell')} that "
        "ran on all; its interval comes from how seeds differ within groups.",
        heads=("First host", "Other hosts", "Seeds", "Speed"),
        lines=tuple(
            Line(
                fields=(
                    Field(text=one.name),
                    Field(text=", ".join(one.hosts[1:]) or words.MISSING),
                    Field(text=words.listed(one.seeds)),
                    _ratio(one.speed),
                )
            )
            for one in found.groups
        ),
        num_numbers=1,
    )


def tuning(comparison: Comparison, found: Tuning, workload: str) -> Table:
    """What tuning chose for each optimizer at each scale, and what that cost."""
    labels = labels_of(comparison)
    searches = [one for label in labels for one in found.searches if (one.workload, one.label) == (workload, label)]
    return Table(
        name="tuning",
        title="Chosen hyperparameters",
        reading="Chosen by the mean training time to the target over the tuning seeds, on the validation set; where "
        "none arrived, by the best score. Every optimizer had as many tries at each scale; the cost is training alone.",
        heads=("Optimizer", "Chosen", "Mean time to target", "Reached", "Tried", "Cost"),
        lines=tuple(_search(one, comparison.of(workload)) for one in searches),
        num_numbers=4,
    )


def _search(one: Search, cells: Sequence[Cell]) -> Line:
    chosen = one.chosen
    values = (
        ", ".join(f"{key}\u00a0=\u00a0{_value(chosen.hyperparameters[key])}" for key in one.searched) if chosen else ""
    )
    return Line(
        fields=(
            Field(text=one.label, below=scale_of(one, cells)),
            Field(text=values or ("as given" if chosen else "not decided: tuning is not complete")),
            Field(
                text=words.seconds(chosen.score_s if chosen else None),
                below=f"best score {words.score(one.metric, chosen.best_value)}" if chosen else "",
            ),
            Field(text=f"{chosen.num_reached} of {chosen.num_seeds}" if chosen else words.MISSING),
            Field(text=f"{one.num_over} of {len(one.configurations)}"),
            Field(text=words.seconds(one.train_time_s), below=f"{words.digits(one.node_hours)} node-hours"),
        ),
        label=one.label,
    )


def _value(value: bool | int | float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _name(cell: Cell) -> Field:
    return Field(text=cell.label, below=words.place(cell))


def _ratio(ratio: Ratio | None) -> Field:
    if ratio is None:
        return Field(text=words.MISSING)
    if ratio.low is None or ratio.high is None:
        return Field(text=words.factor(ratio.value), below="too few seeds")
    return Field(text=words.factor(ratio.value), below=f"{words.factor(ratio.low)} to {words.factor(ratio.high)}")


def _p(value: float) -> str:
    return f"< {_LEAST_P:f}".rstrip("0") if value < _LEAST_P else words.digits(value)


def _percent(share: float | None) -> str:
    return words.MISSING if share is None else f"{100 * share:.0f} %"
