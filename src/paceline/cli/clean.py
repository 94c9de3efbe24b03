"""``paceline clean``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

# What paceline writes into a run folder beside the folders of trials; ``*`` is the name of a group of hosts.
OWN = (
    *(
        "study.json",
        "environment.json",
        "checks.json",
        "cluster.json",
        "doctor.json",
        "network.json",
        "network-*.json",
        "job.json",
        "job-*.json",
        "running",
        "running-*",
        "exit.json",
        "control",
        "logs",
        "report.html",
        "report-anonymous.html",
        "export",
        "tuning",
    ),
    *(".lock", ".holder"),
)


def clean(run: Path, *, yes: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Remove a run after asking: its trials, records, checkpoints and reports.

    Parameters
    ----------
    run:
        The folder of a run, such as runs/demo. What paceline did not write there stays.
    yes:
        Remove without asking.
    """
    from paceline.cli.output import say
    from paceline.errors import UsageError

    own, foreign = contents(run)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"nobody is there to be asked whether to remove {run}; give --yes to remove it unasked")
        say(_question(run, own))
        if input().strip().lower() not in ("y", "yes"):
            say("nothing was removed")
            return 1
    with _unused(run):
        for path in own:
            _remove(path)
    if foreign:
        listed = ", ".join(path.name for path in foreign)
        say(f"removed the run; {run} stays, for it holds what is not paceline's: {listed}")
    else:
        run.rmdir()
        say(f"removed {run}")
    return 0


@contextmanager
def _unused(run: Path) -> Iterator[None]:
    """Keep others from running the study meanwhile.

    Raises: UsageError if one does already.
    """
    from filelock import FileLock, Timeout

    from paceline.errors import UsageError

    try:
        with FileLock(run / ".lock").acquire(blocking=False) if (run / ".lock").exists() else nullcontext():
            yield
    except Timeout as error:
        raise UsageError(f"{run} is being run now; stop that first. Nothing was removed") from error


def contents(run: Path) -> tuple[list[Path], list[Path]]:
    """What paceline wrote in a run folder, and what it did not.

    Raises: UsageError if ``run`` is missing, a link, or no run of paceline.
    """
    from paceline.errors import UsageError

    if run.is_symlink():
        raise UsageError(f"{run} is a link; give the folder that it points to: {run.resolve()}")
    if not run.is_dir():
        raise UsageError(f"there is no folder {run}")
    if (run / "trial.json").exists():
        raise UsageError(f"{run} is a single trial; give the folder of its run: {run.resolve().parent}")
    paths = sorted(run.iterdir())
    trials = [path for path in paths if _is_trial(path)]
    if not trials and not _is_study(run / "study.json"):
        raise UsageError(f"{run} is no run of paceline: it has neither its study.json nor a trial; nothing was removed")
    own = [path for path in paths if path in trials or any(fnmatchcase(path.name, name) for name in OWN)]
    return own, [path for path in paths if path not in own]


def _is_trial(path: Path) -> bool:
    """A folder that is a trial of paceline, not a link to one."""
    from paceline.errors import DataError
    from paceline.records import read_json

    if path.is_symlink() or not (path / "trial.json").is_file():
        return False
    try:
        settings = read_json(path / "trial.json")
    except DataError:
        return False
    return isinstance(settings, dict) and {"workload", "optimizer", "seed"} <= settings.keys()


def _is_study(path: Path) -> bool:
    from paceline.errors import DataError
    from paceline.records import read_json

    try:
        settings = read_json(path)
    except DataError:
        return False
    return isinstance(settings, dict) and {"seeds", "workloads", "optimizers"} <= settings.keys()


def _question(run: Path, own: list[Path]) -> str:
    files = [inner for path in own for inner in (path, *path.rglob("*")) if inner.is_file() and not inner.is_symlink()]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    trials = [path for path in own if (path / "trial.json").exists()]
    going = sum(not (path / "exit.json").exists() for path in trials)
    remark = f", {going} of them not over" if going else ""
    return f"Remove {run} with {len(trials)} trials{remark} ({len(files)} files, {megabytes:.1f} MB)? [y/N]"


def _remove(path: Path) -> None:
    """Remove a file, a folder or a link; what a link points to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)  # does not follow links inside
    else:
        path.unlink()
