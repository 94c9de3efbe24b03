"""The comparison as a table in the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from paceline.analysis.cells import Cell
from paceline.analysis.compare import Comparison
from paceline.inert import inert
from paceline.report import answers, words

if TYPE_CHECKING:
    from rich.console import RenderableType

_NOTHING = (words.MISSING, "0 B", "0 %")
WIDE = 118  # columns of a terminal from which on all columns fit


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: its head, what it shows of a cell, and the narrowest page it stands on."""

    head: str
    show: Callable[[Cell], str]
    explained: str
    number: bool = True
    room: Literal["narrow", "wide", "wide terminal", "page"] = "narrow"
    below: Callable[[Cell], str] | None = None  # on a page: a second, smaller line
    of_many_ranks: bool = False  # left out where it says nothing of any cell


def _speedup(comparison: Comparison, cell: Cell) -> str:
    """Against the bare process where it exists, else the wrapped one."""
    own = comparison.speedups_of(cell)
    return words.factor(own[0].total.value) if own and own[0].total else words.MISSING


def _speedup_wrapped(comparison: Comparison, cell: Cell) -> str:
    own = comparison.speedups_of(cell)
    if len(own) < 2 or own[1].total is None:
        return ""
    return f"{words.factor(own[1].total.value)} {own[1].baseline_strategy}"


def _test(cell: Cell) -> str:
    own = cell.test.get(cell.target.metric)
    shown = words.score(cell.target.metric, own.mean if own else None)
    return shown if own is None or own.num_trials == cell.num_trials else f"{shown}*"


def _final(cell: Cell) -> str:
    own = cell.final_validation.get(cell.target.metric)
    shown = words.score(cell.target.metric, cell.final_validation_accuracy)
    return shown if own is None or own.num_trials == cell.num_trials else f"{shown}*"


def _updates(cell: Cell) -> str:
    return words.count(cell.updates_to_target)


def _gradients(cell: Cell) -> str:
    return words.count(cell.gradient_evaluations_to_target)


def _scale(cell: Cell) -> str:
    return str(cell.num_ranks) if cell.num_hosts == 1 else f"{cell.num_hosts}×{cell.ranks_per_host}"


def _share(part: str) -> Callable[[Cell], str]:
    return lambda cell: f"{100 * cell.time_split[part]:.0f} %" if part in cell.time_split else words.MISSING


def columns(comparison: Comparison) -> list[Column]:
    """The columns of the table of cells, without those on sharing work where none was shared."""

    def says_something(column: Column) -> bool:
        return any(column.show(cell) not in _NOTHING for cell in comparison.cells)

    return [column for column in _columns(comparison) if not column.of_many_ranks or says_something(column)]


def _columns(comparison: Comparison) -> tuple[Column, ...]:
    return (
        Column(head="Optimizer", show=lambda cell: cell.label, explained="its label in the study", number=False),
        Column(head="Strategy", show=lambda cell: cell.strategy, explained="how ranks share the work", number=False),
        Column(head="Ranks", show=_scale, explained="ranks, or hosts × ranks on each"),
        Column(
            head="Reached",
            show=lambda cell: f"{cell.num_reached}/{cell.num_trials}",
            explained="seeds that hit the target",
        ),
        Column(
            head="Time to target",
            show=lambda cell: words.seconds(cell.time_to_target_s),
            explained="median training time, – where half of the seeds or more missed the target; "
            "below it from the first to the last seed that reached it",
            below=words.spread,
        ),
        Column(
            head="From – to",
            show=words.spread,
            explained="time to target of the first and the last seed that reached it",
            room="wide terminal",
        ),
        Column(
            head="Speedup",
            show=partial(_speedup, comparison),
            explained="time to target at the fewest ranks ÷ time here, geometric mean over paired seeds; where one "
            "process ran both without a wrapper and in it, the first counts, and the second stands below",
            below=partial(_speedup_wrapped, comparison),
            of_many_ranks=True,
        ),
        Column(
            head="Updates",
            show=_updates,
            explained="median, to the target; below it the gradient evaluations, where an update takes several",
            below=lambda cell: f"{gradients} gradients" if (gradients := _gradients(cell)) != _updates(cell) else "",
        ),
        Column(
            head="Gradients",
            show=_gradients,
            explained="gradient evaluations, median, to the target",
            room="wide terminal",
        ),
        Column(
            head="Final",
            show=_final,
            explained="last validation score, mean over seeds; * only over those that have one",
        ),
        Column(
            head="Examples per\u00a0s",
            show=lambda cell: words.rate(cell.examples_per_s),
            explained="of training time, median",
        ),
        Column(
            head="Update",
            show=lambda cell: words.seconds(cell.update_time_s),
            explained="median time of one",
            room="wide",
        ),
        Column(
            head="Comm.",
            show=_share("communication"),
            explained="share of time in communication",
            room="wide",
            of_many_ranks=True,
        ),
        Column(
            head="Memory",
            show=lambda cell: words.memory(cell.peak_memory_bytes),
            explained="peak of any rank",
            room="wide",
        ),
        Column(
            head="Sent",
            show=lambda cell: words.memory(cell.bytes_per_update),
            explained="bytes that rank 0 sends in an update, median",
            room="page",
            of_many_ranks=True,
        ),
        Column(
            head="Test", show=_test, explained="score on the test set, once, at the end; mean over seeds", room="page"
        ),
    )


def page_columns(comparison: Comparison) -> list[Column]:
    """The columns that stand on a page."""
    return [column for column in columns(comparison) if column.room != "wide terminal"]


def terminal_columns(comparison: Comparison, width: int) -> list[Column]:
    """The columns that a terminal of ``width`` has room for."""
    allowed = ("narrow", "wide", "wide terminal") if width >= WIDE else ("narrow",)
    return [column for column in columns(comparison) if column.room in allowed]


def terminal_table(comparison: Comparison, workload: str, *, width: int) -> RenderableType:
    """The cells of one workload, for a terminal of ``width`` columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    target = comparison.workloads[workload]
    title = f"{workload}: until {words.goal(target)}"
    table = Table(box=SIMPLE_HEAD, title=Text(title), title_justify="left", title_style="bold", padding=0)
    table.show_edge = False
    shown = terminal_columns(comparison, width)
    cells = comparison.of(workload)
    for column in shown:
        justify: Literal["left", "right"] = "right" if column.number else "left"
        table.add_column(_folded(column.head), justify=justify, overflow="fold", no_wrap=column.number)
    best = min((cell for cell in cells if cell.time_to_target_s is not None), key=_time, default=None)
    for cell in cells:
        style = "bold" if cell is best else ""
        table.add_row(*(Text(column.show(cell)) for column in shown), style=style)
    return table


def _folded(head: str) -> str:
    """A long head on two lines, for rich would give the column the width of one."""
    if len(head) <= 9:
        return head
    middle = min(
        (place for place, mark in enumerate(head) if mark == " "), key=lambda place: abs(place - len(head) / 2)
    )
    return head[:middle] + "\n" + head[middle + 1 :]


def _time(cell: Cell) -> float:
    assert cell.time_to_target_s is not None
    return cell.time_to_target_s


def markdown(comparison: Comparison) -> str:
    """The answer and the table of every workload, as a Markdown page."""
    lines = [f"# {_inert(comparison.study)}", ""]
    if comparison.question:
        lines += [f"> {_inert(comparison.question)}", ""]
    for answer in answers.answers(comparison):
        lines += [f"## {_inert(answer.workload)}", "", f"**{_inert(answer.verdict)}**", ""]
        lines += [f"- {_inert(told)}" for told in (answer.measured, answer.distributing, *answer.sentences) if told]
        lines += ["", *_markdown_table(comparison, comparison.of(answer.workload)), ""]
    lines += ["## How sure", "", _inert(answers.sureness(comparison)), "", _inert(words.rules(comparison)), ""]
    if comparison.groups:
        lines += [_inert(words.groups(comparison.groups)), ""]
    lines += [f"- {_inert(note)}" for note in comparison.notes]
    lines += ["", "## Audit", "", "| check | | evidence |", "| --- | --- | --- |"]
    lines += [f"| {one.check} | {one.status} | {_inert(one.evidence)} |" for one in comparison.audit]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_table(comparison: Comparison, cells: list[Cell]) -> list[str]:
    shown = page_columns(comparison)
    heads = " | ".join(column.head for column in shown)
    rule = " | ".join("---:" if column.number else "---" for column in shown)
    rows = (" | ".join(_inert(_both(column, cell)) for column in shown) for cell in cells)
    return [f"| {heads} |", f"| {rule} |", *(f"| {row} |" for row in rows)]


def _both(column: Column, cell: Cell) -> str:
    below = column.below(cell) if column.below else ""
    shown = column.show(cell)
    return shown if below in ("", words.MISSING) else f"{shown} ({below})"


def _inert(text: str) -> str:
    """Text that Markdown shows as it is: no tags, no table bars, no emphasis, one line."""
    flat = inert(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in ("\\", "|", "*", "`", "[", "]"):
        flat = flat.replace(mark, f"\\{mark}")
    return flat
