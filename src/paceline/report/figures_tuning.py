"""What tuning brought: the best score after each number of configurations tried."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from paceline.analysis.cells import Cell
from paceline.analysis.tuning import Search, Tuning
from paceline.report import words
from paceline.report.pen import Figure, Pen, Rows, is_wide


def scale_of(search: Search, cells: Sequence[Cell]) -> str:
    """Where a search ran, in the words of the first cell at its scale, which had the same strategy."""
    at = (cell for cell in cells if f"{cell.num_hosts}x{cell.ranks_per_host}" == search.scale)
    return next((words.place(cell) for cell in at), search.scale)


def budget_rows(tuning: Tuning, workload: str, cells: Sequence[Cell]) -> Rows:
    """For each optimizer and scale the best score after each configuration, in seconds."""
    return [
        {
            **{"label": search.label, "place": scale_of(search, cells), "tried": tried},
            **{"score": float(f"{score:.5g}"), "said": words.seconds(score)},
        }
        for search in tuning.searches
        if search.workload == workload
        for tried, score in enumerate(search.best_score_s, start=1)
    ]


def budget(pen: Pen, workload: str, rows: Rows) -> Figure:
    """Score against budget, a falling line for each optimizer and scale."""
    wide = is_wide([row["score"] for row in rows])
    most = max(row["tried"] for row in rows)
    line = (
        alt.Chart(alt.NamedData(name="budget"))
        .mark_line(interpolate="step-after", strokeWidth=2.2, point=alt.OverlayMarkDef(size=28, filled=True))
        .encode(
            x=alt.X(
                "tried:Q",
                scale=alt.Scale(domain=[1, max(2, most)], nice=False),
                title="configurations tried",
                axis=alt.Axis(tickMinStep=1, tickCount=8, format="d", grid=False),
            ),
            y=alt.Y(
                "score:Q",
                scale=alt.Scale(type="log", nice=False) if wide else alt.Scale(zero=False),
                title="best mean time to target so far (s)",
                axis=alt.Axis(tickCount=6, format=",~f"),
            ),
            color=pen.colour(),
            strokeDash=pen.dash(),
            tooltip=[
                *(alt.Tooltip(f"{field}:N") for field in ("label", "place")),
                *(alt.Tooltip("tried:Q", title="tried"), alt.Tooltip("said:N", title="best so far")),
            ],
        )
    )
    return Figure(
        name="score-against-budget",
        title=f"Score against tuning budget: {workload}",
        reading="Each line falls whenever a configuration reached the target sooner, on the validation set, than all "
        "tried before it; a line that is flat for long would have gained little from more tries.",
        topic="tuning",
        data="budget",
        spec=pen.spec(line, height=260),
    )
