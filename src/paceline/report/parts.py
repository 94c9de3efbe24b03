"""The parts of the page: what stands under each heading, for each workload, over all workloads, and of tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paceline.analysis.cells import Cell
from paceline.analysis.compare import Comparison
from paceline.analysis.load import Run
from paceline.analysis.tuning import Tuning
from paceline.report import figures, page_tables, palette, words
from paceline.report.page_tables import Table
from paceline.report.pen import PAGE, Figure, FigureSet, Topic, labels_of, places_of


@dataclass(frozen=True, kw_only=True)
class Key:
    """The colours of optimizers and the dashes of scales that some figures use."""

    colours: dict[str, str]
    dashes: dict[str, list[int]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Figures and tables under one heading; ``group`` names the set whose rows its figures draw."""

    heading: str
    group: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    key: Key | None = None


def drawn(run: Run, comparison: Comparison, tuning: Tuning | None) -> dict[str, FigureSet]:
    """Every set of figures by its group: a number for a workload, with ``-tuning`` for its tuning, and ``all``."""
    found = {"all": figures.overview(comparison, PAGE)}
    for number, workload in enumerate(comparison.workloads):
        found[f"{number}"] = figures.figures(comparison, workload, run.results, PAGE)
        if tuning:
            found[f"{number}-tuning"] = figures.of_tuning(comparison, tuning, workload, PAGE)
    return found


def of_workload(comparison: Comparison, workload: str, made: FigureSet, group: str) -> list[Part]:
    """Comparisons, arrivals, speed-ups and training of one workload, those that have anything to show."""
    cells = comparison.of(workload)
    tables: dict[Topic, tuple[Table, ...]] = {
        "comparisons": (page_tables.comparisons(comparison, workload),),
        "arrivals": (page_tables.arrivals(cells), page_tables.other_arrivals(cells)),
        "speedups": (page_tables.speedups(comparison, cells),),
        "training": (),
    }
    keyed = {"arrivals", "training", *(["speedups"] if made.rows["scaling"] else [])}
    headings: dict[Topic, str] = {
        "comparisons": "comparisons",
        "arrivals": "reaching the target",
        "speedups": "speed-ups",
        "training": "learning curves and time",
    }
    parts = (
        Part(
            heading=f"{workload}: {headings[topic]}",
            group=group,
            figures=tuple(made.on(topic)),
            tables=tuple(table for table in own if table.lines),
            key=_key(comparison, cells) if topic in keyed else None,
        )
        for topic, own in tables.items()
    )
    return [part for part in parts if part.figures or part.tables]


def over_all(comparison: Comparison, made: FigureSet) -> list[Part]:
    """What only several workloads together can show, and groups of hosts where there are several."""
    found = []
    if made.figures:
        key = _key(comparison, comparison.cells)
        found.append(Part(heading="Over all workloads", group="all", figures=made.figures, key=key))
    if comparison.groups:
        found.append(Part(heading="Hosts", group="all", tables=(page_tables.groups(comparison.groups),)))
    return found


def of_tuning(comparison: Comparison, tuning: Tuning, workload: str, made: FigureSet, group: str) -> Part:
    """What tuning one workload chose and cost."""
    return Part(
        heading=f"{workload}: tuning",
        group=group,
        figures=made.figures,
        tables=(page_tables.tuning(comparison, tuning, workload),),
        key=_key(comparison, comparison.of(workload)) if made.figures else None,
    )


def _key(comparison: Comparison, cells: Sequence[Cell]) -> Key:
    """The colours and dashes of some cells, as all figures have them."""
    labels, places = {cell.label for cell in cells}, {words.place(cell) for cell in cells}
    return Key(
        colours={name: one for name, one in palette.colours(labels_of(comparison)).items() if name in labels},
        dashes={name: one for name, one in palette.dashes(places_of(comparison)).items() if name in places},
    )
