"""When seeds reached the target: a dot a seed, the share that has arrived by a time, and a profile over workloads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt
import numpy as np

from paceline.analysis.cells import Cell, TrialRow
from paceline.analysis.censoring import kaplan_meier
from paceline.analysis.compare import Comparison
from paceline.report import words
from paceline.report.pen import ROW_PX, Figure, Pen, Rows, is_wide, names, thinned

MAX_DOTS = 1_200  # in one figure
MAX_STEPS = 100  # of one curve, and marks on it
UNREACHED = "not reached"


def dot_rows(cells: Sequence[Cell]) -> Rows:
    """A dot for every seed, at the right edge if it missed, and the median of each cell; spread a little upright."""
    edge = _edge(cells)
    rows: Rows = []
    for name, cell in zip(names(cells), cells, strict=True):
        shown = dots_of(cell, len(cells))
        for index, row in enumerate(shown):
            hit = row.time_to_target_s
            rows.append(
                {
                    **{"cell": name, "label": cell.label, "what": "miss" if hit is None else "seed"},
                    **{"time": edge if hit is None else hit, "offset": round(_offset(index, len(shown)), 3)},
                    **{"seed": row.seed, "said": f"{UNREACHED} ({row.status})" if hit is None else words.seconds(hit)},
                }
            )
        if cell.time_to_target_s is not None:
            middle = {"what": "median", "time": cell.time_to_target_s, "said": words.seconds(cell.time_to_target_s)}
            rows.append({"cell": name, "label": cell.label, "offset": 0, "seed": "median", **middle})
    return rows


def dots_of(cell: Cell, num_cells: int) -> list[TrialRow]:
    """The seeds that are drawn: all, or of very many some that are spread evenly over their times."""
    most = max(1, MAX_DOTS // num_cells)
    if len(cell.trials) <= most:
        return list(cell.trials)
    soonest_first = sorted(cell.trials, key=lambda row: (row.time_to_target_s or math.inf, row.seed))
    return thinned(soonest_first, most)


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
    return longest * (1.6 if is_wide(hits) else 1.15)


def to_target(pen: Pen, cells: Sequence[Cell], rows: Rows) -> Figure:
    """The time to target of each seed, a line of dots for each cell."""
    hits = [row["time"] for row in rows if row["what"] == "seed"]
    missed = any(row["what"] == "miss" for row in rows)
    edge = _edge(cells)
    wide = is_wide(hits)
    least = min((time for time in hits if time > 0), default=edge / 10)
    scale = alt.Scale(
        type="log" if wide else "linear", domain=[least / 1.3 if wide else 0, edge], nice=False, clamp=True
    )
    tooltip = [alt.Tooltip("cell:N"), alt.Tooltip("seed:N"), alt.Tooltip("said:N", title="time to target")]
    base = alt.Chart(alt.NamedData(name="target")).encode(
        x=alt.X("time:Q", scale=scale, title="training time to target (s)", axis=alt.Axis(tickCount=8, format=",~f")),
        y=alt.Y("cell:N", sort=names(cells), title=None, scale=alt.Scale(type="point", padding=0.5)),
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
        layers.append(at.mark_text(align="right", baseline="bottom", dy=-5, text=UNREACHED).encode(y=alt.value(0)))
    return Figure(
        name="time-to-target",
        title="Time to target",
        reading="Each dot is one seed and the upright bar its cell's median, which exists where more than half of the "
        "seeds arrived; further left is sooner. Hollow dots on the right edge never reached the target."
        + (" The axis is logarithmic." if wide else ""),
        topic="arrivals",
        data="target",
        spec=pen.spec(alt.layer(*layers), height=ROW_PX * len(cells)),
    )


def share_rows(cells: Sequence[Cell]) -> Rows:
    """Of each cell the steps of the share of seeds that have reached the target, and marks where a seed gave up.

    A curve begins at 0 and ends where nothing more is known, or at the horizon once all have arrived.
    Source: Kaplan and Meier 1958.
    """
    rows: Rows = []
    for cell in cells:
        if "time" not in cell.arrivals:
            continue
        horizon = cell.arrivals["time"].horizon
        spent = [row.spent("time", horizon) for row in cell.trials]
        reached = [row.reached for row in cell.trials]
        curve = kaplan_meier(spent, reached)
        times, shares = np.append(0.0, curve.values), np.append(0.0, 1 - curve.share)
        missed = np.unique([time for time, arrived in zip(spent, reached, strict=True) if not arrived])
        marks = [*zip(missed, shares[np.searchsorted(times, missed, side="right") - 1], strict=True)]
        end = [(horizon, 1.0)] if all(reached) else []
        steps = [*zip(times, shares, strict=True), *end]
        for what, points in (("step", steps), ("missed", marks)):
            rows += [
                {
                    **{"label": cell.label, "place": words.place(cell), "what": what},
                    **{"time": float(f"{time:.5g}"), "share": round(float(share), 4)},
                }
                for time, share in thinned(points, MAX_STEPS)
            ]
    return rows


def share_arrived(pen: Pen, cells: Sequence[Cell], rows: Rows) -> Figure:
    """The share of seeds that have reached the target by a time: Kaplan-Meier curves, rising."""
    times = [row["time"] for row in rows if row["time"] > 0]
    arrivals = [row.time_to_target_s for cell in cells for row in cell.trials if row.time_to_target_s]
    horizon = max(times)
    wide = is_wide([*arrivals, horizon])
    least = min(arrivals, default=horizon)
    scale = alt.Scale(
        type="log" if wide else "linear", domain=[least / 1.5 if wide else 0, horizon], nice=False, clamp=True
    )
    base = alt.Chart(alt.NamedData(name="shares")).encode(
        x=alt.X("time:Q", scale=scale, title="training time (s)", axis=alt.Axis(tickCount=8, format=",~f")),
        y=alt.Y(
            "share:Q",
            scale=alt.Scale(domain=[0, 1]),
            title="seeds that have reached the target",
            axis=alt.Axis(tickCount=5, format=".0%"),
        ),
        color=pen.colour(),
        tooltip=[
            *(alt.Tooltip(f"{field}:N") for field in ("label", "place")),
            alt.Tooltip("time:Q", title="training time (s)", format=",.4~g"),
            alt.Tooltip("share:Q", title="arrived", format=".0%"),
        ],
    )
    lines = base.transform_filter("datum.what == 'step'").mark_line(interpolate="step-after", strokeWidth=2.2)
    missed = base.transform_filter("datum.what == 'missed'").mark_tick(orient="vertical", size=11, thickness=2)
    return Figure(
        name="share-arrived",
        title="Share of seeds that have reached the target",
        reading="Each curve rises as the seeds of one cell reach the target; further left and higher is better. A "
        "short upright tick is a seed that ended without reaching it: from there on the curve speaks for the others."
        + (" The time axis is logarithmic." if wide else ""),
        topic="arrivals",
        data="shares",
        spec=pen.spec(alt.layer(lines.encode(strokeDash=pen.dash()), missed), height=280),
    )


def profile_rows(comparison: Comparison) -> Rows:
    """For each optimizer at each place the share of workloads where it is within a factor of the best.

    Times are restricted means; where no seed arrives, no factor suffices.
    Source: Dolan and Moré 2002, section 2.
    """
    within: dict[tuple[str, str], list[float]] = {}
    for workload in comparison.workloads:
        mean = {
            (cell.label, words.place(cell)): cell.arrivals["time"].restricted_mean
            for cell in comparison.of(workload)
            if cell.num_reached and "time" in cell.arrivals
        }
        for who, time in mean.items():
            within.setdefault(who, []).append(time / min(mean.values()))
    farthest = max((factor for own in within.values() for factor in own), default=1.0) * 1.25
    rows: Rows = []
    for (label, place), own in within.items():
        shares = {1.0: 0.0} | {factor: rank / len(comparison.workloads) for rank, factor in enumerate(sorted(own), 1)}
        for factor, share in (shares | {farthest: max(shares.values())}).items():
            rows.append({"label": label, "place": place, "factor": float(f"{factor:.5g}"), "share": round(share, 4)})
    return rows


def profile(pen: Pen) -> Figure:
    """A performance profile: how often each optimizer is nearly the best."""
    line = (
        alt.Chart(alt.NamedData(name="profile"))
        .mark_line(interpolate="step-after", strokeWidth=2.2)
        .encode(
            x=alt.X(
                "factor:Q",
                scale=alt.Scale(type="log", nice=False),
                title="times as long as the best of the workload, at most",
                axis=alt.Axis(tickCount=6, labelExpr="format(datum.value, ',~r') + '×'"),
            ),
            y=alt.Y(
                "share:Q",
                scale=alt.Scale(domain=[0, 1]),
                title="share of the workloads",
                axis=alt.Axis(tickCount=5, format=".0%"),
            ),
            color=pen.colour(),
            strokeDash=pen.dash(),
            tooltip=[
                *(alt.Tooltip(f"{field}:N") for field in ("label", "place")),
                alt.Tooltip("factor:Q", title="times as long as the best", format=".3~g"),
                alt.Tooltip("share:Q", title="share of workloads", format=".0%"),
            ],
        )
    )
    return Figure(
        name="profile",
        title="Performance profile over the workloads",
        reading="At 1× a curve shows on what share of the workloads it was the soonest, further right on what share it "
        "took at most so many times as long as the soonest; higher is better.",
        topic="workloads",
        data="profile",
        spec=pen.spec(line, height=280),
    )
