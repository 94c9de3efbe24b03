"""Figures as Vega-Lite specifications, made with Altair: the same ones on the page and in exported files.

A specification names its data; the rows travel beside it, so that a page holds rows shared by several figures once.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt

from paceline.analysis.compare import Cell, Comparison
from paceline.analysis.load import TrialResult
from paceline.cards import Target
from paceline.report import palette, words
from paceline.report.curves import Curves, curves

LOG_FROM = 20.0  # an axis whose values span more than this is logarithmic
ROW_PX = 30
Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure: ``spec`` without its rows, which go under the name ``data``; ``reading``: how to read it."""

    name: str
    title: str
    reading: str
    data: str
    spec: dict[str, Any]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FigureSet:
    """The figures of one workload and the rows that they draw."""

    figures: tuple[Figure, ...]
    rows: dict[str, Rows]


@dataclass(frozen=True, kw_only=True)
class Style:
    """What differs between a page, which has its own key and its own width, and a file."""

    width: int | str
    legend: bool


PAGE = Style(width="container", legend=False)
FILE = Style(width=640, legend=True)


def labels_of(comparison: Comparison) -> list[str]:
    """Optimizer labels in the study's order, over all workloads, so that each keeps its colour."""
    return list(dict.fromkeys(cell.label for cell in comparison.cells))


def places_of(comparison: Comparison) -> list[str]:
    """Scales with their strategies, fewest ranks first."""
    cells = sorted(comparison.cells, key=lambda cell: (cell.num_ranks, cell.num_hosts, cell.strategy != "single"))
    return list(dict.fromkeys(words.place(cell) for cell in cells))


def figures(comparison: Comparison, workload: str, results: Sequence[TrialResult], style: Style) -> FigureSet:
    """All figures of one workload; ``results`` are those of the whole run."""
    cells = comparison.of(workload)
    drawn = curves(cells, [result for result in results if result.trial.workload == workload])
    pen = _Pen(comparison, style)
    target = comparison.workloads[workload]
    to_target, parts = _target_rows(cells), _part_rows(cells)
    made = [_to_target(pen, cells, to_target)]
    if any(row["score"] is not None for row in drawn.rows):
        made += [_curve(pen, drawn, target, x=x, y="score") for x in ("time", "updates")]
    if any(row["loss"] is not None for row in drawn.rows):
        made += [_curve(pen, drawn, target, x=x, y="loss") for x in ("time", "updates")]
    if parts:
        made.append(_time_split(pen, cells, parts))
    return FigureSet(figures=tuple(made), rows={"target": to_target, "curves": drawn.rows, "parts": parts})


def standalone(figure: Figure, rows: Rows) -> dict[str, Any]:
    """A specification with its rows, a title and plain colours, for a file of its own."""
    title = {"text": figure.title, "anchor": "start", "fontSize": 14, "offset": 14}
    datasets = {**figure.spec.get("datasets", {}), figure.data: rows}
    return {**figure.spec, "title": title, "datasets": datasets, "config": config("#1d2329"), "padding": 12}


def config(ink: str) -> dict[str, Any]:
    """The look of every figure; ``ink`` colours text and lines, ``currentColor`` follows the page."""
    return {
        "background": "transparent" if ink == "currentColor" else "#ffffff",
        "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
        "view": {"stroke": None},
        "axis": {
            **{"labelColor": ink, "titleColor": ink, "domainColor": ink, "tickColor": ink, "gridColor": ink},
            **{"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 210},
            **{"gridOpacity": 0.12, "domainOpacity": 0.4, "tickOpacity": 0.4, "titlePadding": 8, "labelOverlap": True},
        },
        "legend": {"labelColor": ink, "titleColor": ink, "labelFontSize": 12, "orient": "bottom", "columns": 4},
        "title": {"color": ink},
        "text": {"color": ink, "fontSize": 12},
        "rule": {"color": ink},
    }


class _Pen:
    """The scales that all figures of a comparison share, and their style."""

    def __init__(self, comparison: Comparison, style: Style) -> None:
        self.style = style
        self.colours = palette.colours(labels_of(comparison))
        self.dashes = palette.dashes(places_of(comparison))

    def colour(self) -> alt.Color:
        scale = alt.Scale(domain=list(self.colours), range=list(self.colours.values()))
        return alt.Color("label:N", scale=scale, legend=self._legend("optimizer"))

    def dash(self) -> alt.StrokeDash:
        scale = alt.Scale(domain=list(self.dashes), range=list(self.dashes.values()))
        return alt.StrokeDash("place:N", scale=scale, legend=self._legend("ran on"))

    def part(self) -> alt.Color:
        scale = alt.Scale(domain=list(palette.PARTS), range=list(palette.PARTS.values()))
        return alt.Color("part:N", scale=scale, legend=self._legend("part of the update"))

    def _legend(self, title: str) -> alt.Legend | None:
        return alt.Legend(title=title, symbolOpacity=1, symbolStrokeWidth=2) if self.style.legend else None

    def spec(self, chart: alt.LayerChart | alt.FacetChart | alt.Chart, *, height: int) -> dict[str, Any]:
        """The finished specification, checked against Vega-Lite's schema."""
        whole = chart.properties(width=self.style.width, height=height)
        if self.style.width == "container":
            whole = whole.properties(autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
        made: dict[str, Any] = whole.to_dict()
        made.pop("config", None)
        return made


def _names(cells: Sequence[Cell]) -> list[str]:
    """A name for each cell that fits beside an axis: a long label loses its middle, unless two would then be alike."""
    places = [words.place(cell).replace(" hosts × ", "×") for cell in cells]
    full = [f"{cell.label} · {place}" for cell, place in zip(cells, places, strict=True)]
    short = [
        f"{cell.label[:9]}…{cell.label[-6:]} · {place}" if len(cell.label) > 18 else f"{cell.label} · {place}"
        for cell, place in zip(cells, places, strict=True)
    ]
    return short if len(set(short)) == len(short) else full


def _target_rows(cells: Sequence[Cell]) -> Rows:
    """A dot for every seed, at the right edge if it missed, and the median of each cell; spread a little upright."""
    edge = _edge(cells)
    rows: Rows = []
    for name, cell in zip(_names(cells), cells, strict=True):
        for index, row in enumerate(cell.trials):
            offset = _offset(index, len(cell.trials))
            hit = row.time_to_target_s
            rows.append(
                {
                    **{"cell": name, "label": cell.label, "what": "miss" if hit is None else "seed"},
                    **{"time": edge if hit is None else hit, "offset": round(offset, 3), "seed": row.seed},
                    "said": f"not reached ({row.status})" if hit is None else words.seconds(hit),
                }
            )
        if cell.time_to_target_s is not None:
            middle = {"what": "median", "time": cell.time_to_target_s, "said": words.seconds(cell.time_to_target_s)}
            rows.append({"cell": name, "label": cell.label, "offset": 0, "seed": "median", **middle})
    return rows


def _offset(index: int, number: int) -> float:
    """Where a dot lies in its row, between -1 and 1: in order where they are few, else scattered evenly."""
    if number <= 4:
        return 0.0 if number == 1 else 2 * index / (number - 1) - 1
    return 2 * (index * 0.618034 % 1.0) - 1


def _edge(cells: Sequence[Cell]) -> float:
    """Where misses are drawn: right of every time to target, or of every training time where all missed."""
    hits = [row.time_to_target_s for cell in cells for row in cell.trials if row.time_to_target_s is not None]
    trained = [row.train_time_s for cell in cells for row in cell.trials]
    longest = max(hits or trained, default=1.0) or 1.0
    return longest * (1.6 if _is_wide(hits) else 1.15)


def _to_target(pen: _Pen, cells: Sequence[Cell], rows: Rows) -> Figure:
    hits = [row["time"] for row in rows if row["what"] == "seed"]
    missed = any(row["what"] == "miss" for row in rows)
    edge = _edge(cells)
    wide = _is_wide(hits)
    least = min((time for time in hits if time > 0), default=edge / 10)
    scale = alt.Scale(
        type="log" if wide else "linear", domain=[least / 1.3 if wide else 0, edge], nice=False, clamp=True
    )
    names = _names(cells)
    tooltip = [alt.Tooltip("cell:N"), alt.Tooltip("seed:N"), alt.Tooltip("said:N", title="time to target")]
    base = alt.Chart(alt.NamedData(name="target")).encode(
        x=alt.X("time:Q", scale=scale, title="training time to target (s)", axis=alt.Axis(tickCount=8, format=",~f")),
        y=alt.Y("cell:N", sort=names, title=None, scale=alt.Scale(type="point", padding=0.5)),
        color=pen.colour(),
        tooltip=tooltip,
    )
    offset = alt.YOffset("offset:Q", scale=alt.Scale(domain=[-1, 1], range=[-ROW_PX * 0.22, ROW_PX * 0.22]))
    layers: list[alt.Chart] = [
        base.transform_filter("datum.what == 'median'").mark_tick(thickness=3, size=ROW_PX * 0.7, opacity=1),
        base.transform_filter("datum.what == 'seed'")
        .mark_point(filled=True, size=45, opacity=0.75)
        .encode(yOffset=offset),
        base.transform_filter("datum.what == 'miss'")
        .mark_point(filled=False, size=45, strokeWidth=1.6, clip=False)
        .encode(yOffset=offset),
    ]
    if missed:
        at = alt.Chart(alt.InlineData(values=[{"time": edge}])).encode(x=alt.X("time:Q", scale=scale))
        layers.append(at.mark_rule(strokeDash=[2, 3], opacity=0.4))
        layers.append(at.mark_text(align="right", baseline="bottom", dy=-5, text="not reached").encode(y=alt.value(0)))
    return Figure(
        name="time-to-target",
        title="Time to target",
        reading="Each dot is one seed and the upright bar its cell's median, which exists where more than half of the "
        "seeds arrived; further left is sooner. Hollow dots on the right edge never reached the target."
        + (" The axis is logarithmic." if wide else ""),
        data="target",
        spec=pen.spec(alt.layer(*layers), height=ROW_PX * len(cells)),
    )


def _curve(pen: _Pen, drawn: Curves, target: Target, *, x: str, y: str) -> Figure:
    share = words.is_share(target.metric)
    y_title = f"validation {target.metric}" if y == "score" else "training loss"
    x_title = "training time (s)" if x == "time" else "updates"
    x_scale = _scale(_ends(drawn.rows, x), zero=True)
    y_values = [row[y] for row in drawn.rows if row[y] is not None]
    y_scale = alt.Scale(zero=False, nice=True) if y == "score" else _scale(y_values, zero=False)
    base = (
        alt.Chart(alt.NamedData(name="curves"))
        .transform_filter(f"isValid(datum.{y})" + _above_zero(x, x_scale) + _above_zero(y, y_scale))
        .encode(
            x=alt.X(f"{x}:Q", scale=x_scale, title=x_title, axis=alt.Axis(tickCount=6, format=",~f")),
            y=alt.Y(
                f"{y}:Q",
                scale=y_scale,
                title=y_title,
                axis=alt.Axis(tickCount=6, format=".0%" if share and y == "score" else ",~f"),
            ),
            color=pen.colour(),
            strokeDash=pen.dash(),
            detail=["line:N"],
            tooltip=[
                *(alt.Tooltip(f"{field}:N") for field in ("label", "place", "line")),
                alt.Tooltip(f"{x}:Q", title=x_title, format=",.4~g"),
                alt.Tooltip(f"{y}:Q", title=y_title, format=".2%" if share and y == "score" else ".4~g"),
            ],
        )
    )
    layers: list[alt.Chart] = [
        base.transform_filter("!datum.median").mark_line(strokeWidth=1, opacity=0.45),
        base.transform_filter("datum.median").mark_line(strokeWidth=2.5),
    ]
    if y == "score":
        layers += _target_line(target, drawn.rows, y_scale)
    against = "training time" if x == "time" else "updates"
    better = "higher" if target.mode == "max" else "lower"
    reading = (
        f"Thin lines are seeds, thick ones the median of a cell; the {better} and the further left, the better."
        if y == "score"
        else "Thin lines are seeds, thick ones the median of a cell; the loss is that of the epoch so far."
    )
    return Figure(
        name=f"{'metric' if y == 'score' else 'loss'}-{x}",
        title=f"{y_title[0].upper()}{y_title[1:]} against {against}",
        reading=reading + (" Where updates agree and times do not, hardware makes the difference." * (x == "updates")),
        data="curves",
        spec=pen.spec(alt.layer(*layers), height=280),
        left_out=drawn.left_out,
    )


def _target_line(target: Target, rows: Rows, scale: alt.Scale) -> list[alt.Chart]:
    """The target, with its label on the side where the lines do not end."""
    reached = any(row["score"] is not None and target.reached(row["score"]) for row in rows)
    above = (target.mode == "max") != reached
    baseline: Literal["bottom", "top"] = "bottom" if above else "top"
    at = alt.Chart(alt.InlineData(values=[{"score": target.value}])).encode(y=alt.Y("score:Q", scale=scale))
    label = at.mark_text(
        align="right",
        baseline=baseline,
        dx=-4,
        dy=-4 if above else 5,
        text=f"target {words.score(target.metric, target.value)}",
    )
    return [at.mark_rule(strokeDash=[6, 4], opacity=0.6), label.encode(x=alt.value("width"))]


def _part_rows(cells: Sequence[Cell]) -> Rows:
    return [
        {
            **{"cell": name, "part": part, "order": order},
            "ms": round(1e3 * cell.time_split[part] * cell.mean_update_time_s, 5),
            "share": round(cell.time_split[part], 4),
        }
        for name, cell in zip(_names(cells), cells, strict=True)
        if cell.mean_update_time_s and cell.time_split
        for order, part in enumerate(palette.PARTS)
    ]


def _time_split(pen: _Pen, cells: Sequence[Cell], rows: Rows) -> Figure:
    chart = (
        alt.Chart(alt.NamedData(name="parts"))
        .mark_bar(height={"band": 0.62})
        .encode(
            x=alt.X("ms:Q", title="time per update, mean (ms)", stack="zero", axis=alt.Axis(tickCount=8)),
            y=alt.Y("cell:N", sort=_names(cells), title=None),
            color=pen.part(),
            order=alt.Order("order:Q"),
            tooltip=[
                *(alt.Tooltip("cell:N"), alt.Tooltip("part:N")),
                *(alt.Tooltip("ms:Q", title="ms per update", format=".4~g"), alt.Tooltip("share:Q", format=".1%")),
            ],
        )
    )
    shown = len({row["cell"] for row in rows})
    return Figure(
        name="time-split",
        title="Where an update's time goes",
        reading="The length of a bar is the mean time of one update. Communication is only what computation did not "
        "hide; “other” is the wait for the slowest rank and whatever no part accounts for.",
        data="parts",
        spec=pen.spec(chart, height=ROW_PX * shown),
    )


def _is_wide(values: Sequence[float]) -> bool:
    positive = [value for value in values if value > 0]
    return bool(positive) and max(positive) / min(positive) > LOG_FROM


def _ends(rows: Rows, x: str) -> list[float]:
    """Where each line ends: whether those differ much decides on the axis, not that all begin near 0."""
    ends: dict[tuple[str, str, str], float] = {}
    for row in rows:
        key = (row["label"], row["place"], row["line"])
        ends[key] = max(ends.get(key, 0.0), row[x] or 0.0)
    return list(ends.values())


def _scale(values: Sequence[float], *, zero: bool) -> alt.Scale:
    """Logarithmic where values differ much; what is not positive is left off such an axis."""
    middle = statistics.median(values) if values else math.nan
    if middle > 0 and _is_wide(values):
        return alt.Scale(type="log", nice=False)
    return alt.Scale(type="linear", zero=zero)


def _above_zero(field: str, scale: alt.Scale) -> str:
    kind = scale.to_dict().get("type")
    return f" && datum.{field} > 0" if kind == "log" else ""
