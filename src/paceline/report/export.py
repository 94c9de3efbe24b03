"""Writes a run's results as files of other programs' formats, each whole or not at all."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from paceline.analysis.compare import Comparison, compare
from paceline.analysis.load import Run, load
from paceline.errors import PacelineError, UsageError, nearest
from paceline.inert import inert, inert_cell, inert_inside
from paceline.records import write_atomically
from paceline.report import figures, tables
from paceline.report.anonymous import anonymous as without_names
from paceline.report.pen import FILE, standalone

if TYPE_CHECKING:
    import pandas as pd


def export(run_dir: Path, *, to: str, out: Path | None = None, anonymous: bool = False) -> list[Path]:
    """Write the results of a run.

    Args:
        run_dir: a run folder.
        to: ``markdown``, ``csv``, ``parquet``, ``svg``, ``png`` or ``torch``.
        out: a folder, or for Markdown a file; by default ``RUN/export/TO``, or ``TO-anonymous``.
        anonymous: without names, see ``report.anonymous``.
    Returns: the paths written.
    Raises: UsageError for an unknown format or an ``out`` that is in the way, and for runs that cannot be compared.
    """
    if to not in FORMATS:
        raise UsageError(f"unknown format '{to}': {nearest(to, FORMATS)}")
    run = load(run_dir)
    folder = out if out is not None else run_dir / "export" / (f"{to}-anonymous" if anonymous else to)
    if to == "torch":  # numbers only
        return _torch(run_dir, _made(folder))
    if anonymous:
        run = without_names(run)
    return _WRITERS[to](run, compare(run), folder)


def _made(folder: Path) -> Path:
    """The folder, made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{folder} cannot be a folder, for a file is in the way; choose another --out") from error
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def _write(path: Path, content: bytes) -> Path:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def _unwritable(path: Path, error: OSError) -> PacelineError:
    return PacelineError(f"{path} cannot be written: {error.strerror}; make room, or choose another --out")


def _markdown(run: Run, comparison: Comparison, out: Path) -> list[Path]:
    del run
    is_file = out.suffix.lower() in (".md", ".markdown") and not out.is_dir()
    path = _made(out.parent) / out.name if is_file else _made(out) / "report.md"
    return [_write(path, tables.markdown(comparison).encode())]


def _frames(run: Run, comparison: Comparison) -> dict[str, pd.DataFrame]:
    from paceline.analysis.frames import evaluations_frame, trials_frame

    return {"trials": trials_frame(comparison), "evaluations": evaluations_frame(run)}


def _csv(run: Run, comparison: Comparison, out: Path) -> list[Path]:
    folder = _made(out)
    return [
        _write(folder / f"{name}.csv", _inert_cells(frame).to_csv(index=False, lineterminator="\n").encode())
        for name, frame in _frames(run, comparison).items()
    ]


def _inert_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with no text in it that a spreadsheet would compute."""

    def shown(cell: object) -> object:
        return inert_cell(inert(cell)) if isinstance(cell, str) else cell

    made = frame.rename(columns=shown)
    for name in made.select_dtypes(exclude=["number", "bool"]):
        made[name] = made[name].map(shown)
    return made


def _parquet(run: Run, comparison: Comparison, out: Path) -> list[Path]:
    folder, paths = _made(out), []
    for name, frame in _frames(run, comparison).items():
        content = io.BytesIO()
        frame.to_parquet(content, index=False)
        paths.append(_write(folder / f"{name}.parquet", content.getvalue()))
    return paths


def _svg(run: Run, comparison: Comparison, out: Path) -> list[Path]:
    import vl_convert

    return _draw(run, comparison, out, "svg", lambda spec: vl_convert.vegalite_to_svg(spec).encode())


def _png(run: Run, comparison: Comparison, out: Path) -> list[Path]:
    import vl_convert

    return _draw(run, comparison, out, "png", lambda spec: bytes(vl_convert.vegalite_to_png(spec, scale=2)))


def _draw(run: Run, comparison: Comparison, out: Path, suffix: str, convert: Callable[[str], bytes]) -> list[Path]:
    folder, paths, tuning = _made(out), [], comparison.tuning
    drawn = [("all", figures.overview(comparison, FILE))]
    for workload in comparison.workloads:
        drawn.append((workload, figures.figures(comparison, workload, run.results, FILE)))
        if tuning:
            drawn.append((workload, figures.of_tuning(comparison, tuning, workload, FILE)))
    for whose, made in drawn:
        for figure in made.figures:
            # inert, for what draws it ends this process at a NUL in a text
            spec = json.dumps(inert_inside(standalone(figure, made.rows[figure.data])), allow_nan=False)
            name = re.sub(r"[^A-Za-z0-9._-]", "-", f"{whose[:120]}-{figure.name}").lstrip(".-")
            paths.append(_write(folder / f"{name}.{suffix}", convert(spec)))
    return paths


def _torch(run_dir: Path, out: Path) -> list[Path]:
    """The files of the study that paceline replaces; written by a process of the rank side, which has torch."""
    command = [sys.executable, "-m", "paceline.train.export_torch", str(run_dir), str(out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise PacelineError(f"the export ended with exit code {done.returncode}; what it said stands above")
    return [Path(line) for line in done.stdout.splitlines()]


_WRITERS: dict[str, Callable[[Run, Comparison, Path], list[Path]]] = {
    "markdown": _markdown,
    "csv": _csv,
    "parquet": _parquet,
    "svg": _svg,
    "png": _png,
}
FORMATS = (*_WRITERS, "torch")
