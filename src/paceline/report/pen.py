"""What all figures share: scales of colours, dashes and ratios, the look, and the names beside an axis.

A figure is a Vega-Lite specification, made with Altair, that names its data; the rows travel beside it, so that a page
holds rows shared by several figures once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt

from paceline.analysis.cells import Cell
from paceline.analysis.compare import Comparison
from paceline.report import palette, words

LOG_FROM = 20.0  # an axis whose values span more than this is logarithmic
ROW_PX = 30
Rows = list[dict[str, Any]]
Topic = Literal["comparisons", "arrivals", "speedups", "training", "workloads", "tuning"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure: ``spec`` without its rows, which go under the name ``data``; ``reading``: how to read it.

    ``topic`` is the part of the report that it belongs to; a ``whole`` figure takes a page's whole width.
    """

    name: str
    title: str
    reading: str
    topic: Topic
    data: str
    spec: dict[str, Any]
    whole: bool = True


@dataclass(frozen=True, kw_only=True)
class FigureSet:
    """Some figures, the rows that they draw, and in sentences what was left out of them."""

    figures: tuple[Figure, ...]
    rows: dict[str, Rows]
    left_out: tuple[str, ...] = ()

    def on(self, topic: Topic) -> list[Figure]:
        """The figures of one part of the report."""
        return [figure for figure in self.figures if figure.topic == topic]


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
        "legend": {
            **{"labelColor": ink, "titleColor": ink, "labelFontSize": 12, "orient": "bottom", "columns": 4},
            "symbolStrokeColor": ink,
        },
        "title": {"color": ink},
        "text": {"color": ink, "fontSize": 12},
        "rule": {"color": ink},
        "rect": {"color": ink},
        "tick": {"color": ink},
    }


class Pen:
    """The scales that all figures of a comparison share, and their style."""

    def __init__(self, comparison: Comparison, style: Style) -> None:
        self.style = style
        self.colours = palette.colours(labels_of(comparison))
        self.dashes = palette.dashes(places_of(comparison))

    def colour(self) -> alt.Color:
        """An optimizer's colour, by the field ``label``."""
        scale = alt.Scale(domain=list(self.colours), range=list(self.colours.values()))
        return alt.Color("label:N", scale=scale, legend=self._legend("optimizer"))

    def dash(self) -> alt.StrokeDash:
        """The dash of a scale and strategy, by the field ``place``."""
        scale = alt.Scale(domain=list(self.dashes), range=list(self.dashes.values()))
        return alt.StrokeDash("place:N", scale=scale, legend=self._legend("ran on"))

    def part(self) -> alt.Color:
        """The fill of a part of the update's time, by the field ``part``."""
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


def names(cells: Sequence[Cell]) -> list[str]:
    """A name for each cell that fits beside an axis: one too long loses its middle, unless two would then be alike."""
    places = [words.place(cell).replace(" hosts × ", "×") for cell in cells]
    full = [f"{cell.label} · {place}" for cell, place in zip(cells, places, strict=True)]
    short = [
        f"{cell.label[:9]}…{cell.label[-6:]} · {place}" if len(cell.label) > 18 and len(name) > 30 else name
        for cell, place, name in zip(cells, places, full, strict=True)
    ]
    return short if len(set(short)) == len(short) else full


def is_wide(values: Sequence[float]) -> bool:
    """Whether values differ so much that only a logarithmic axis shows them all."""
    positive = [value for value in values if value > 0]
    return bool(positive) and max(positive) / min(positive) > LOG_FROM


def thinned(items: Sequence[Any], most: int) -> list[Any]:
    """At most ``most`` items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    step = (len(items) - 1) / (most - 1) if most > 1 else 0.0
    return [items[round(number * step)] for number in range(most)]


def ratio_scale(values: Sequence[float]) -> tuple[alt.Scale, alt.Axis]:
    """A logarithmic scale of ratios with its ticks; 1 is on it whatever the values are."""
    around = [1.0, *(value for value in values if value > 0)]
    room = (max(around) / min(around)) ** 0.06
    low, high = min(min(around) / room, 0.95), max(max(around) * room, 1.05)
    axis = alt.Axis(
        values=ratio_ticks(low, high),
        labelExpr="format(datum.value, ',~r') + '×'",
        labelOverlap="greedy",
        labelSeparation=6,
    )
    return alt.Scale(type="log", domain=[low, high], nice=False), axis


def ratio_ticks(low: float, high: float) -> list[float]:
    """Round ratios between ``low`` <= 1 and ``high`` >= 1: even steps, powers of two, or decades."""
    span = high / low
    if span <= 4:
        step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if (high - low) / step <= 7)
        return [round(number * step, 2) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
    if span <= 50:
        doublings = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
        return [2.0**doubling for doubling in doublings]
    mantissas = (1, 2, 5) if span <= 500 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{mantissa}e{decade}") for decade in decades for mantissa in mantissas]
    return [tick for tick in ticks if low <= tick <= high]
