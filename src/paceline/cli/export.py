"""``paceline export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def export(
    run: Path,
    *,
    to: str,
    out: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
    anonymous: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Write a run's results in another format; prints the paths of the files.

    Parameters
    ----------
    run:
        The folder of a run, such as runs/demo.
    to:
        markdown, csv, parquet, svg, png, or torch (lists and models saved by torch, a folder for each trial).
    out:
        A folder, or for Markdown a file; RUN/export/FORMAT if left out, with --anonymous
        RUN/export/FORMAT-anonymous.
    json:
        Print one JSON object with the paths.
    anonymous:
        Number the hosts, and leave out users, paths, addresses and process ids; what the author of the study wrote
        stays: its name, its question, its labels.
    """
    from paceline.cli.output import print_json, print_text
    from paceline.report.export import export as write

    paths = [str(path) for path in write(run, to=to, out=out, anonymous=anonymous)]
    if json:
        print_json({"schema_version": 1, "format": to, "files": paths})
    else:
        print_text("\n".join(paths))
