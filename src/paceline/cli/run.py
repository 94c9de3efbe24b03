"""``paceline run``."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from paceline.plan.run import Setting


def run(
    study: Path,
    *,
    runs: Path = Path("runs"),
    data_dir: Path | None = None,
    cluster: Path | None = None,
    check: Annotated[bool, Parameter(negative="--no-check", help="check the study before its first trial")] = True,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    detach: Annotated[bool, Parameter(negative=())] = False,
    set: Annotated[list[str] | None, Parameter(help="override a setting: KEY=VALUE, may be repeated")] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
    in_background: Annotated[bool, Parameter(negative=(), show=False)] = False,
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
    cluster:
        A cluster file, or a list of hosts, one a line: where the ranks run. If left out, the [cluster] table of the
        study says so, or it is this machine.
    dry_run:
        Run no trial; say how many there are, how long they take (from a few updates of each), and what they could find.
    detach:
        Return at once and run in the background, whatever becomes of this shell, of the connections to hosts, or of
        the process in the background. `paceline status`, `logs`, `attach` and `stop` tell of it from any other shell.
    json:
        Print the comparison as one JSON object, as `paceline report --json` does; with --detach, who runs the study.
    in_background:
        This is the process in the background of a run that is detached: what it starts outlives it.
    """
    from paceline.cli.dry_run import show_plan
    from paceline.cli.output import say
    from paceline.cli.progress import make_watcher
    from paceline.cli.report import report
    from paceline.cluster import cluster_of
    from paceline.errors import UsageError
    from paceline.plan.control import refuse_rival
    from paceline.plan.run import prepare, run_study
    from paceline.study import load

    settings = load(study, set or ())
    place = cluster_of(study, cluster)
    if detach:
        if dry_run:
            raise UsageError("--dry-run runs no trial and --detach runs them in the background; give one of them")
        options = [f"--runs={runs.absolute()}", *(f"--set={override}" for override in set or ())]
        options += [f"--data-dir={data_dir.absolute()}"] if data_dir else []
        options += [f"--cluster={cluster.absolute()}"] if cluster else []
        options += [] if check else ["--no-check"]
        setting = prepare(settings, data_dir=data_dir, cluster=place)
        _detach(setting, [str(study.absolute()), *options], runs=runs, json=json)
        return 0
    if dry_run:
        show_plan(settings, data_dir=data_dir, cluster=place, json=json)
        return 0
    if not in_background:
        refuse_rival((runs / settings.name).absolute())
    with closing(make_watcher()) as watcher:
        result = run_study(
            settings,
            runs_dir=runs,
            data_dir=data_dir,
            watcher=watcher,
            check=check,
            cluster=place,
            detached=in_background,
        )
    if result.count("failed"):
        say(f"{result.count('failed')} of {len(result.trials)} trials failed; run the same command to try them again")
    report(result.run_dir, json=json)
    return 1 if result.count("failed") else 0


def _detach(setting: Setting, words: list[str], *, runs: Path, json: bool) -> None:
    """Have the same command, with these words, run in the background."""
    from paceline.cli.output import print_json, say
    from paceline.plan import control
    from paceline.records import SCHEMA_VERSION

    run_dir = control.begin(setting, runs_dir=runs, words=words)
    runner = control.who_runs(run_dir)
    if json:
        told = {"schema_version": SCHEMA_VERSION, "run": str(run_dir), "runner": runner and runner.as_json()}
        print_json(told)
    say(f"{run_dir} is {runner.in_words() if runner else 'over'}; follow it by `paceline attach {run_dir}`")
