"""The report: one HTML file that opens anywhere, offline, with its figures, its answer in words and its settings.

Jinja escapes whatever comes from the run, and control characters and marks of writing direction are made inert; the
figures travel as JSON in which ``<``, ``>`` and ``&`` are escaped; and the page's own policy lets only its two scripts
run, so that a name is never more than text.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paceline import __version__
from paceline.analysis.cells import Cell, TrialRow
from paceline.analysis.compare import Comparison
from paceline.analysis.load import Run
from paceline.analysis.tuning import Tuning
from paceline.inert import inert, inert_inside
from paceline.records import write_atomically
from paceline.report import answers, page_tables, palette, parts, pen, settings, tables, words

MAX_TRIAL_ROWS = 200
MAX_FAILURES = 50

_DRAW = """
const all = JSON.parse(document.getElementById("figures").textContent);
for (const figure of all.figures) {
  const spec = figure.spec;
  spec.datasets = Object.assign({}, spec.datasets, {[figure.data]: all.rows[figure.rows]});
  const place = document.getElementById(figure.id);
  vegaEmbed(place, spec, {renderer: "svg", actions: false, ast: true, config: all.config, tooltip: {theme: "dark"}})
    .then(() => place.setAttribute("data-drawn", "yes"))
    .catch((error) => { place.textContent = "This figure could not be drawn: " + error; });
}
"""


def render(run: Run, comparison: Comparison) -> str:
    """The whole page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("paceline.report", ""),
        autoescape=True,
        finalize=lambda value: inert(value) if type(value) is str else value,  # not the type of what is escaped already
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.lstrip_blocks = True
    environment.globals["words"] = words
    environment.filters["tied"] = words.tied
    tuning = comparison.tuning
    drawn = parts.drawn(run, comparison, tuning)
    scripts = [_bundle(), _DRAW]
    template = environment.get_template("template.html.j2")
    return template.render(
        comparison=comparison,
        answers=answers.answers(comparison),
        sureness=answers.sureness(comparison),
        rules=words.rules(comparison),
        columns=tables.page_columns(comparison),
        audit=page_tables.audit(comparison),
        sections=[
            _section(number, workload, comparison, drawn) for number, workload in enumerate(comparison.workloads)
        ],
        more=_more(comparison, tuning, drawn),
        colours=palette.colours(pen.labels_of(comparison)),
        update_parts=palette.PARTS,
        failures=_failures(comparison),
        hosts=_hosts(run),
        networks=run.networks,
        data=_data(run),
        study_toml=settings.study_toml(run.study) if run.study else "",
        environment=list(settings.flat(run.environment))[: settings.MAX_LINES],
        measured=_measured(run),
        version=__version__,
        folder=str(run.folder if run.is_anonymous else run.folder.resolve()),
        is_anonymous=run.is_anonymous,
        policy=_policy(scripts),
        figures_json=Markup(inert_json(_figures_json(drawn))),  # noqa: S704 - escaped by inert_json
        scripts=[Markup(script) for script in scripts],  # noqa: S704 - our own
    )


def write(run: Run, comparison: Comparison, path: Path) -> Path:
    """Write the page; a reader sees the old one or the new one. Returns its path."""
    content = render(run, comparison).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return path


def inert_json(value: Any) -> str:  # noqa: ANN401
    """JSON that can stand in a script element: nothing in it ends the element or begins a comment."""
    text = json.dumps(inert_inside(value), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@functools.cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script; it defines ``vegaEmbed``."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(scripts: Sequence[str]) -> str:
    """The page's Content-Security-Policy: no network, and no script but these."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"


def _figures_json(drawn: Mapping[str, pen.FigureSet]) -> dict[str, Any]:
    return {
        "config": pen.config("currentColor"),
        "rows": {f"{group}-{name}": rows for group, made in drawn.items() for name, rows in made.rows.items()},
        "figures": [
            {"id": f"figure-{group}-{one.name}", "spec": one.spec, "data": one.data, "rows": f"{group}-{one.data}"}
            for group, made in drawn.items()
            for one in made.figures
        ],
    }


def _section(number: int, workload: str, comparison: Comparison, drawn: Mapping[str, pen.FigureSet]) -> dict[str, Any]:
    """What the template shows of one workload."""
    cells, made = comparison.of(workload), drawn[f"{number}"]
    rows = [(cell, trial) for cell in cells for trial in cell.trials]
    timed = [cell for cell in cells if cell.time_to_target_s is not None]
    return {
        "workload": workload,
        "goal": words.goal(comparison.workloads[workload]),
        "cells": cells,
        "best": min(timed, key=lambda cell: cell.time_to_target_s or 0.0) if timed else None,
        "left_out": made.left_out,
        "parts": parts.of_workload(comparison, workload, made, f"{number}"),
        "trials": rows[:MAX_TRIAL_ROWS],
        "trials_left_out": max(0, len(rows) - MAX_TRIAL_ROWS),
    }


def _more(comparison: Comparison, tuning: Tuning | None, drawn: Mapping[str, pen.FigureSet]) -> list[parts.Part]:
    """The parts that are of no single section: over all workloads, and of tuning."""
    tuned = [
        parts.of_tuning(comparison, tuning, workload, drawn[f"{number}-tuning"], f"{number}-tuning")
        for number, workload in enumerate(comparison.workloads)
        if tuning
    ]
    return [*parts.over_all(comparison, drawn["all"]), *(part for part in tuned if part.tables[0].lines)]


def _failures(comparison: Comparison) -> dict[str, Any]:
    """Trials that failed, diverged, were stopped or are degraded, each with its cause."""
    found: list[tuple[Cell, TrialRow]] = [
        (cell, row)
        for cell in comparison.cells
        for row in cell.trials
        if row.status in ("failed", "diverged", "stopped", "degraded")
    ]
    return {"rows": found[:MAX_FAILURES], "left_out": max(0, len(found) - MAX_FAILURES)}


def _hosts(run: Run) -> list[dict[str, str]]:
    """Each host and kind of device that ranks ran on, as they say themselves."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for result in run.results:
        for start in result.starts:
            kind = start.device.partition(":")[0]
            found.setdefault(
                (start.host, kind),
                {
                    "host": start.host,
                    "device": kind,
                    "processor": start.processor,
                    "cores": f"{len(start.affinity) or start.num_cores} of {start.num_cores}",
                    "threads": str(start.num_threads),
                    "torch": start.torch_version,
                    "python": start.python_version,
                    "dtype": start.dtype,
                },
            )
    return [found[key] for key in sorted(found)]


def _data(run: Run) -> list[dict[str, str]]:
    """What each workload was trained on."""
    found: dict[str, dict[str, str]] = {}
    for result in run.results:
        trial = result.trial
        counts = next((start.num_examples for start in result.starts), {})
        if trial.workload not in found or (counts and not found[trial.workload]["examples"]):
            found[trial.workload] = {
                "workload": trial.workload,
                "name": trial.workload_name,
                "dataset": trial.dataset,
                "examples": ", ".join(f"{split} {count:,}" for split, count in counts.items()),
                "augmentation": trial.augmentation,
                "digest": trial.data_digest,
                "target": words.goal(trial.target),
            }
    return list(found.values())


def _measured(run: Run) -> str:
    """From when to when the ranks wrote records."""
    starts = [start.time for result in run.results for start in result.starts]
    if not starts:
        return ""
    ends = [result.last_record_time for result in run.results if result.last_record_time]
    first, last = (time.strftime("%Y-%m-%d %H:%M", time.gmtime(moment)) for moment in (min(starts), max(ends)))
    return f"{first} to {last} UTC"
