"""``paceline run``."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def run(
    study: Path,
    *,
    runs: Path = Path("runs"),
    data_dir: Path | None = None,
    check: Annotated[bool, Parameter(negative="--no-check", help="check the study before its first trial")] = True,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    set: Annotated[list[str] | None, Parameter(help="override a setting: KEY=VALUE, may be repeated")] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Run a study, or go on with it where it stopped; then print the comparison and write the report.

    Parameters
    ----------
    study:
        A study file; `paceline init` writes one to start from.
    runs:
        Folder of all runs; this one goes to RUNS/NAME.
    data_dir:
        Where to look for data first.
    dry_run:
        Run no trial; say how many there are, how long they take (from a few updates of each), and what they could find.
    json:
        Print the comparison as one JSON object, as `paceline report --json` does.
    """
    from paceline.cli.dry_run import show_plan
    from paceline.cli.output import say
    from paceline.cli.progress import make_watcher
    from paceline.cli.report import report
    from paceline.plan.run import run_study
    from paceline.study import load

    settings = load(study, set or ())
    if dry_run:
        show_plan(settings, data_dir=data_dir, json=json)
        return 0
    with closing(make_watcher()) as watcher:
        result = run_study(settings, runs_dir=runs, data_dir=data_dir, watcher=watcher, check=check)
    if result.count("failed"):
        say(f"{result.count('failed')} of {len(result.trials)} trials failed; run the same command to try them again")
    report(result.run_dir, json=json)
    return 1 if result.count("failed") else 0
