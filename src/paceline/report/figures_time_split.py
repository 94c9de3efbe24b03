"""Where the time of an update goes, part by part."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from paceline.analysis.cells import Cell
from paceline.report import palette
from paceline.report.pen import ROW_PX, Figure, Pen, Rows, names


def part_rows(cells: Sequence[Cell]) -> Rows:
    """A row for each part of each cell that has trained: milliseconds an update, and the share of it."""
    return [
        {
            **{"cell": name, "part": part, "order": order},
            "ms": round(1e3 * cell.time_split[part] * cell.mean_update_time_s, 5),
            "share": round(cell.time_split[part], 4),
        }
        for name, cell in zip(names(cells), cells, strict=True)
        if cell.mean_update_time_s and cell.time_split
        for order, part in enumerate(palette.PARTS)
    ]


def time_split(pen: Pen, cells: Sequence[Cell], rows: Rows) -> Figure:
    """A bar for each cell, split into parts."""
    chart = (
        alt.Chart(alt.NamedData(name="parts"))
        .mark_bar(height={"band": 0.62})
        .encode(
            x=alt.X("ms:Q", title="time per update, mean (ms)", stack="zero", axis=alt.Axis(tickCount=8)),
            y=alt.Y("cell:N", sort=names(cells), title=None),
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
        topic="training",
        data="parts",
        spec=pen.spec(chart, height=ROW_PX * shown),
    )
