"""The run folder: which study it belongs to, who holds it, and the trials laid out in it."""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from paceline.errors import DataError, PacelineError, UsageError
from paceline.launch.supervisor import identity, is_alive
from paceline.records import read_json, trial_dirs, write_json, write_versioned
from paceline.study import Study
from paceline.trial import Trial, as_json

LOCK_PATIENCE_S = 5.0  # with a lock that nobody who lives is known to have
LOCK_POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that holds a run folder, named for good by host, pid and ``start``; ``since`` is in s since 1970."""

    pid: int
    start: str
    host: str
    since: float

    def in_words(self) -> str:
        """Such as: process 12 on node1 since 2026-01-31 12:00:00."""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host} since {since}"


@contextmanager
def hold(run_dir: Path) -> Iterator[None]:
    """Lock the folder of a run, made if need be; ``.holder`` says meanwhile who holds it.

    A process that is asked to end by SIGTERM meanwhile is interrupted as by Ctrl-C.
    Raises: UsageError if the folder holds something else, or another process runs this study;
        PacelineError if it cannot be written, then or while it is held.
    """
    holder = run_dir / ".holder"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with _locked(run_dir), _sigterm_interrupts():
            _refuse_strangers(run_dir)
            write_json(holder, identity(os.getpid()) | {"since": time.time()})
            try:
                yield
            finally:
                holder.unlink(missing_ok=True)
    except OSError as error:
        raise PacelineError(
            f"run folder {run_dir} cannot be used: {error.strerror or error} ({error.filename}); "
            "choose another by --runs DIR, or make room"
        ) from error


@contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    """Have the lock of a folder. A killed process lets go of it a little later: its threads die one after another.

    Raises: UsageError if another process has it.
    """
    lock, deadline = FileLock(run_dir / ".lock"), time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            lock.acquire(blocking=False)
            break
        except Timeout as error:
            holder = holder_of(run_dir)
            if holder is not None or time.monotonic() > deadline:
                raise is_held(run_dir, holder) from error
        time.sleep(LOCK_POLL_S)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def is_held(run_dir: Path, holder: Holder | None) -> UsageError:
    """The error that another process runs this study."""
    who = holder.in_words() if holder else "another process"
    return UsageError(f"{run_dir} is being run by {who}; wait for it, or stop it: `paceline stop {run_dir}`")


def holder_of(run_dir: Path) -> Holder | None:
    """Who holds a run folder now; None if nobody does, whatever a killed process left there."""
    path = run_dir / ".holder"
    if not path.exists():
        return None
    try:
        holder = Holder(**read_json(path))
    except (DataError, TypeError):  # of a version that wrote less, or cut short by a crash of the host
        return None
    here = holder.host == platform.node()
    return holder if (is_alive(vars(holder)) if here else _is_locked(run_dir / ".lock")) else None


def _is_locked(path: Path) -> bool:
    """Whether a process on any host has this lock."""
    try:
        with FileLock(path).acquire(blocking=False):
            return False
    except Timeout:
        return True
    except OSError:  # a copy on a disk that cannot be written: nobody runs it there
        return False


def claim(run_dir: Path, study: Study, folder: Path, trials: list[Trial]) -> None:
    """Make a run folder that is held this study's, and lay out no trial yet.

    Args:
        folder: where the trials that come first are to be, ``run_dir`` or the folder of its tuning.
    Raises: UsageError if it belongs to another study; then nothing is written.
    """
    _refuse_foreign(folder, trials)
    if not (run_dir / "study.json").exists():
        write_versioned(run_dir / "study.json", study.model_dump(mode="json"))


def lay_out(run_dir: Path, study: Study, trials: list[Trial]) -> None:
    """Write study and trials in a folder that is held.

    Raises: UsageError if it belongs to another study; then nothing is written.
    """
    _refuse_foreign(run_dir, trials)
    write_versioned(run_dir / "study.json", study.model_dump(mode="json"))
    for trial in trials:
        folder = run_dir / trial.id
        folder.mkdir(exist_ok=True)
        if not (folder / "trial.json").exists():
            write_versioned(folder / "trial.json", as_json(trial))


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
