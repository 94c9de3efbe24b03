"""The run folder: which study it belongs to, who holds it, and the trials laid out in it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from paceline.errors import PacelineError, UsageError
from paceline.records import read_json, trial_dirs, write_json
from paceline.study import Study
from paceline.trial import Trial, as_json


@contextmanager
def hold(run_dir: Path) -> Iterator[None]:
    """Lock the folder of a run, made if need be; ``.holder`` says meanwhile who holds it.

    Raises: UsageError if the folder holds something else, or another process runs this study;
        PacelineError if it cannot be written, then or while it is held.
    """
    holder = run_dir / ".holder"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(run_dir / ".lock").acquire(blocking=False):
            _refuse_strangers(run_dir)
            holder.write_text(f"process {os.getpid()} on {platform.node()}")
            try:
                yield
            finally:
                holder.unlink(missing_ok=True)
    except Timeout as error:
        who = holder.read_text() if holder.exists() else "another process"
        raise UsageError(f"{run_dir} is being run by {who}; wait for it, or stop it") from error
    except OSError as error:
        raise PacelineError(
            f"run folder {run_dir} cannot be used: {error.strerror or error} ({error.filename}); "
            "choose another by --runs DIR, or make room"
        ) from error


def lay_out(run_dir: Path, study: Study, trials: list[Trial]) -> None:
    """Write study and trials in a folder that is held.

    Raises: UsageError if it belongs to another study; then nothing is written.
    """
    _refuse_foreign(run_dir, trials)
    write_json(run_dir / "study.json", study.model_dump(mode="json"))
    for trial in trials:
        folder = run_dir / trial.id
        folder.mkdir(exist_ok=True)
        if not (folder / "trial.json").exists():
            write_json(folder / "trial.json", as_json(trial))


def _refuse_strangers(run_dir: Path) -> None:
    strangers = [path.name for path in run_dir.iterdir() if not path.name.startswith(".")]
    if strangers and not (run_dir / "study.json").exists():
        raise UsageError(
            f"{run_dir} holds no run of paceline but {', '.join(sorted(strangers)[:3])} ...; choose another --runs DIR"
        )


def _refuse_foreign(run_dir: Path, trials: list[Trial]) -> None:
    """A folder may hold trials of this study only; more of them than before is a study that grew."""
    known = run_dir / "study.json"
    others = {folder.name for folder in trial_dirs(run_dir)} - {trial.id for trial in trials}
    if others:
        raise UsageError(
            f"{run_dir} belongs to another study ({read_json(known)['name'] if known.exists() else 'unknown'}, other "
            f"settings): it holds {len(others)} trials that this one does not, such as {min(others)}. "
            f"Rename the study, choose another --runs DIR, or remove the old run by `paceline clean {run_dir}`"
        )
