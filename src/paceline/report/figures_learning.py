"""Learning curves: the score on the validation set and the training loss, against training time and against updates."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal

import altair as alt

from paceline.cards import Target
from paceline.report import words
from paceline.report.curves import Curves
from paceline.report.pen import Figure, Pen, Rows, is_wide


def learning(pen: Pen, drawn: Curves, target: Target) -> list[Figure]:
    """Those curves that have any value."""
    made = []
    for y in ("score", "loss"):
        if any(row[y] is not None for row in drawn.rows):
            made += [_curve(pen, drawn, target, x=x, y=y) for x in ("time", "updates")]
    return made


def _curve(pen: Pen, drawn: Curves, target: Target, *, x: str, y: str) -> Figure:
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
        topic="training",
        data="curves",
        spec=pen.spec(alt.layer(*layers), height=280),
        whole=False,
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
    if middle > 0 and is_wide(values):
        return alt.Scale(type="log", nice=False)
    return alt.Scale(type="linear", zero=zero)


def _above_zero(field: str, scale: alt.Scale) -> str:
    kind = scale.to_dict().get("type")
    return f" && datum.{field} > 0" if kind == "log" else ""
