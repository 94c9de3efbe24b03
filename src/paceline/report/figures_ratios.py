"""Ratios with their intervals: the declared comparisons, and what each speed-up is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import altair as alt

from paceline.analysis.cells import Cell
from paceline.analysis.compare import Comparison
from paceline.analysis.contrasts import Contrast
from paceline.analysis.paired import Ratio
from paceline.analysis.speedups import Speedup
from paceline.report.pen import ROW_PX, Figure, Pen, Rows, names, ratio_scale
from paceline.report.words import factor, interval, place

PARTS = ("total", "statistical", "hardware")
SHAPES = ("diamond", "circle", "square")
PART_PX = 22  # height of one part's line
BREAK = "\n"  # between what stands beside a row: its cell, the baseline where they differ, the outcome


def contrast_rows(cells: Sequence[Cell], contrasts: Sequence[Contrast]) -> Rows:
    """A row for each comparison that has pairs; ``low`` and ``high`` are None where the seeds are too few."""
    name = dict(zip((cell.name for cell in cells), names(cells), strict=True))
    label = {cell.name: cell.label for cell in cells}
    drawn = [(one, one.ratio) for one in contrasts if one.ratio and {one.cell, one.baseline} <= name.keys()]
    several = len({one.baseline for one, _ in drawn}) > 1
    return [
        {
            "row": BREAK.join([name[one.cell], f"against {name[one.baseline]}" if several else "", one.outcome]),
            **{"cell": name[one.cell], "baseline": name[one.baseline], "label": label[one.cell]},
            **{"claimed": one.outcome != "no claim", "outcome": one.outcome, **_bounds(ratio)},
        }
        for one, ratio in drawn
    ]


def intervals(pen: Pen, comparison: Comparison, workload: str, rows: Rows) -> Figure:
    """A dot and an interval for each declared comparison of one workload."""
    floor = next((pair.floor for pair in comparison.noise if pair.workload == workload), None)
    baselines = list(dict.fromkeys(row["baseline"] for row in rows))
    x = _times_as_fast([*_ends(rows), *([floor, 1 / floor] if floor else [])])
    base = alt.Chart(alt.NamedData(name="contrasts")).encode(x=x, y=_beside(rows, padding=0.6))
    tooltip = [alt.Tooltip(f"{field}:N") for field in ("cell", "baseline", "outcome", "said")]
    claimed = base.transform_filter("datum.claimed").mark_point(filled=True, size=85, opacity=1)
    hollow = base.transform_filter("!datum.claimed").mark_point(filled=False, size=70, strokeWidth=2)
    ratios = alt.layer(
        *_band(x, floor),
        _at_one(x),
        _bars(base).encode(color=pen.colour()),
        *(marks.encode(color=pen.colour(), tooltip=tooltip) for marks in (claimed, hollow)),
    )
    # the same rows again, for only another layer can have an axis on the other side
    outcomes = base.mark_point(opacity=0).encode(y=_beside(rows, padding=0.6, side="right"))
    height = ROW_PX * (1.4 if len(baselines) > 1 else 1) * len(rows)
    return Figure(
        name="intervals",
        title="Declared comparisons" + (f", each against {baselines[0]}" if len(baselines) == 1 else ""),
        reading="A dot says how many times as fast a cell reached the target as its baseline, and its bar how sure "
        "that is (95 %): right of 1× is sooner. Filled dots are claims, hollow ones are not."
        + (" A dot without a bar has too few seeds for one." if any(row["low"] is None for row in rows) else "")
        + (" In the shaded band lies what the same trial differs from itself: too little to claim." if floor else ""),
        topic="comparisons",
        data="contrasts",
        spec=pen.spec(alt.layer(ratios, outcomes).resolve_scale(y="independent"), height=round(height)),
    )


def speedup_rows(cells: Sequence[Cell], comparison: Comparison) -> Rows:
    """Three rows for each speed-up: its total, and the two ratios whose product that is."""
    name = dict(zip((cell.name for cell in cells), names(cells), strict=True))
    found = [(cell, one) for cell in cells for one in comparison.speedups_of(cell) if one.baseline in name]
    return [
        {
            "row": BREAK.join([name[cell.name], f"against {place(comparison.cell(one.baseline))}"]),
            **{"cell": name[cell.name], "baseline": name[one.baseline], "label": cell.label, "part": part},
            **{"ideal": cell.num_ranks / one.baseline_num_ranks, **_bounds(ratio)},
        }
        for cell, one in found
        for part, ratio in _parts(one)
    ]


def decomposition(pen: Pen, comparison: Comparison, rows: Rows) -> Figure:
    """Each speed-up beside what it is made of: fewer updates, and less time for each."""
    scaled = any(row["ideal"] > 1 for row in rows)
    x = _times_as_fast([*_ends(rows), *(row["ideal"] for row in rows)])
    offset = alt.YOffset("part:N", sort=list(PARTS))
    base = alt.Chart(alt.NamedData(name="speedups")).encode(x=x, y=_beside(rows, padding=None), yOffset=offset)
    shape = alt.Shape(
        "part:N",
        scale=alt.Scale(domain=list(PARTS), range=list(SHAPES)),
        legend=alt.Legend(title=None, orient="top", symbolFillColor="gray", symbolStrokeWidth=0, symbolSize=90),
    )
    tooltip = [alt.Tooltip(f"{field}:N") for field in ("cell", "baseline", "part", "said")]
    size = alt.when("datum.part == 'total'").then(alt.value(130)).otherwise(alt.value(70))  # a diamond looks smaller
    points = base.mark_point(filled=True, opacity=1).encode(color=pen.colour(), shape=shape, size=size, tooltip=tooltip)
    ideal = base.transform_filter("datum.part == 'total' && datum.ideal > 1").transform_calculate(ratio="datum.ideal")
    rule = (
        "strong scaling, one global batch" if comparison.batch_rule == "global" else "weak scaling, a batch that grows"
    )
    return Figure(
        name="speedups",
        title=f"What speed-ups are made of: {rule}",
        reading="The total is the product of the other two: the statistical ratio says how many times fewer updates "
        "were needed, the hardware ratio how many times less an update took."
        + (" There are too few seeds for intervals." if rows[0]["low"] is None else " Bars are 95 % intervals.")
        + (" The upright tick is perfect scaling: as many times as fast as there are ranks." if scaled else ""),
        topic="speedups",
        data="speedups",
        spec=pen.spec(
            alt.layer(
                _at_one(x),
                ideal.mark_tick(orient="vertical", thickness=2.5, size=PART_PX * 0.8, opacity=0.5),
                _bars(base).encode(color=pen.colour()),
                points,
            ),
            height=len(PARTS) * PART_PX * len({row["row"] for row in rows}),
        ),
    )


def scaling_rows(cells: Sequence[Cell], comparison: Comparison) -> Rows:
    """The total speed-up over the first baseline at each number of ranks, for labels that ran on three or more.

    The baseline itself stands at 1. Of several cells of one label on as many ranks, the first one counts.
    """
    lines: dict[str, dict[int, dict[str, Any]]] = {}
    for cell in cells:
        for one in comparison.speedups_of(cell)[:1]:
            if one.total:
                line = lines.setdefault(
                    cell.label, {one.baseline_num_ranks: _bounds(Ratio(value=1, low=1, high=1, num_pairs=0))}
                )
                line.setdefault(cell.num_ranks, _bounds(one.total))
    return [
        {"label": label, "ranks": ranks, "ideal": ranks / min(line), **line[ranks]}
        for label, line in lines.items()
        if len(line) > 2
        for ranks in sorted(line)
    ]


def scaling(pen: Pen, rows: Rows) -> Figure:
    """The total speed-up against the number of ranks, beside perfect scaling."""
    ranks = sorted({row["ranks"] for row in rows})
    scale, axis = ratio_scale([*_ends(rows), *(row["ideal"] for row in rows)])
    at = alt.X(
        "ranks:Q",
        title="ranks",
        scale=alt.Scale(type="log", base=2, domain=[ranks[0], ranks[-1]], nice=False),
        axis=alt.Axis(values=ranks, format="d"),
    )
    upright = alt.Y("ratio:Q", title="times as fast as the fewest ranks", scale=scale, axis=axis)
    base = alt.Chart(alt.NamedData(name="scaling")).encode(x=at, y=upright)
    ideal = base.transform_calculate(ratio="datum.ideal").mark_line(strokeDash=[5, 4], strokeWidth=1.2, opacity=0.6)
    bars = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2.2)
    lines = base.mark_line(strokeWidth=2.2, point=alt.OverlayMarkDef(size=60, filled=True))
    tooltip = [alt.Tooltip(f"{field}:N") for field in ("label", "ranks", "said")]
    return Figure(
        name="scaling",
        title="Speed-up against the number of ranks",
        reading="Each line is one optimizer, with upright bars where there are seeds enough for 95 % intervals. "
        "The dashed line is perfect scaling, twice as fast on twice the ranks; the gap is what distributing costs.",
        topic="speedups",
        data="scaling",
        spec=pen.spec(
            alt.layer(
                ideal.encode(detail="label:N", color=alt.value("gray")),
                bars.encode(y="low:Q", y2="high:Q", color=pen.colour()),
                lines.encode(color=pen.colour(), tooltip=tooltip),
            ),
            height=280,
        ),
    )


def _parts(one: Speedup) -> Iterator[tuple[str, Ratio]]:
    for part, ratio in zip(PARTS, (one.total, one.statistical, one.hardware), strict=True):
        if ratio is not None:
            yield part, ratio


def _bounds(ratio: Ratio) -> dict[str, Any]:
    rounded = {end: None if value is None else float(f"{value:.5g}") for end, value in _values(ratio).items()}
    return {**rounded, "said": f"{factor(ratio.value)} {interval(ratio, factor)}"}


def _values(ratio: Ratio) -> dict[str, float | None]:
    return {"ratio": ratio.value, "low": ratio.low, "high": ratio.high}


def _ends(rows: Rows) -> list[float]:
    return [row[end] for row in rows for end in ("ratio", "low", "high") if row[end] is not None]


def _beside(rows: Rows, *, padding: float | None, side: Literal["left", "right"] = "left") -> alt.Y:
    """The axis of the rows: to the left the cell and below it the baseline, to the right the outcome."""
    cell, baseline, outcome = (f"split(datum.label, '\\n')[{part}]" for part in range(3))
    shown = outcome if side == "right" else f"{baseline} ? [{cell}, {baseline}] : {cell}"
    axis = alt.Axis(orient=side, labelExpr=shown, grid=False, domain=False, ticks=False, labelLineHeight=15)
    scale = alt.Scale(type="band", paddingInner=0.3) if padding is None else alt.Scale(type="point", padding=padding)
    order = list(dict.fromkeys(row["row"] for row in rows))
    return alt.Y("row:N", sort=order, title=None, axis=axis, scale=scale)


def _times_as_fast(values: Sequence[float]) -> alt.X:
    scale, axis = ratio_scale(values)
    return alt.X("ratio:Q", title="times as fast as the baseline", scale=scale, axis=axis)


def _bars(base: alt.Chart) -> alt.Chart:
    bounded: alt.Chart = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2.5)
    bars: alt.Chart = bounded.encode(x="low:Q", x2="high:Q")
    return bars


def _at_one(x: alt.X) -> alt.Chart:
    line: alt.Chart = alt.Chart(alt.InlineData(values=[{"ratio": 1}])).mark_rule(opacity=0.7).encode(x=x)
    return line


def _band(x: alt.X, floor: float | None) -> list[alt.Chart]:
    """What the same trial differs from itself."""
    if floor is None:
        return []
    data = alt.InlineData(values=[{"ratio": 1 / floor, "to": floor}])
    return [alt.Chart(data).mark_rect(opacity=0.12).encode(x=x, x2="to:Q")]
