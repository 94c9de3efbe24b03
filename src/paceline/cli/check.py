"""``paceline check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def check(
    study: Path,
    *,
    data_dir: Path | None = None,
    cluster: Path | None = None,
    set: Annotated[list[str] | None, Parameter(help="override a setting: KEY=VALUE, may be repeated")] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Check a study and train nothing of it; `paceline run` does so first by itself. Ends with 1 if a check fails.

    Parameters
    ----------
    study:
        A study file.
    data_dir:
        Where to look for data first.
    cluster:
        A cluster file, as for `paceline run`.
    json:
        Print one JSON object.
    """
    from paceline.cli.output import print_json, print_text
    from paceline.cluster import cluster_of
    from paceline.plan.run import check_study
    from paceline.study import load

    made = check_study(load(study, set or ()), data_dir=data_dir, cluster=cluster_of(study, cluster))
    if json:
        print_json(made.model_dump())
    else:
        print_text("\n".join(f"{found.status:<15} {found.check}: {found.evidence}" for found in made.findings))
    return 1 if any(found.status == "fail" for found in made.findings) else 0
