"""Runs that outlive the shell that started them: begin one, say who runs what, end it from another process.

A detached run outlives its controlling process as well: what that has started on the hosts goes on, and is taken up by
another one, or ended.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM
from typing import Any, Literal

from filelock import FileLock, Timeout

from paceline.cluster import read_cluster
from paceline.errors import PacelineError, UsageError
from paceline.launch import supervisor
from paceline.launch.local import CONTROL, state_of
from paceline.plan.folder import LOCK_PATIENCE_S, Holder, claim, hold, holder_of, is_held
from paceline.plan.jobs import end_jobs, jobs_left, launchers_of
from paceline.plan.run import Setting
from paceline.plan.tune import FOLDER as TUNING_FOLDER
from paceline.plan.tune import tuning_trials

GRACE_S = 20.0  # for a run that is asked to end, until ending by force; longer than its launchers take
POLL_S = 0.02
RUN = (sys.executable, "-m", "paceline.cli", "run", "--in-background")  # what a detached run's command begins with


@dataclass(frozen=True, kw_only=True)
class Runner:
    """The process that runs a study: in somebody's shell, or detached from any."""

    holder: Holder
    detached: bool

    def as_json(self) -> dict[str, Any]:
        """Host, pid, since when (in s since 1970), and whether detached."""
        holder = self.holder
        return {"host": holder.host, "pid": holder.pid, "since": holder.since, "detached": self.detached}

    def in_words(self) -> str:
        """The same for people, such as: run by process 12 on node1 since 2026-01-31 12:00:00, detached."""
        return f"run by {self.holder.in_words()}, {'detached' if self.detached else 'in a shell'}"


@dataclass(frozen=True, kw_only=True)
class Detached:
    """The last detached run in a folder; ``exit_code`` is None while it runs, and where nobody saw it end."""

    status: Literal["running", "ended", "stopped"]
    exit_code: int | None
    time: float
    command: tuple[str, ...]

    @property
    def was_killed(self) -> bool:
        """Whether its controlling process had no time to end what it had started, or its host had none."""
        by_signal = self.exit_code is not None and self.exit_code > 128 and self.exit_code != 128 + SIGINT
        return self.status == "ended" and (self.exit_code is None or by_signal)


def begin(setting: Setting, *, runs_dir: Path, words: Sequence[str]) -> Path:
    """Have a study run in the background; returns the folder of the run.

    What is wrong with the study or its folder is found before anything is started.
    Args:
        words: what follows ``paceline run`` for it.
    Raises: UsageError if the folder is not to be used; PacelineError if the command cannot be started.
    """
    study, run_dir = setting.study, (runs_dir / setting.study.name).absolute()
    refuse_rival(run_dir)
    folder, trials = run_dir, setting.trials()
    if study.tuning is not None:
        folder = run_dir / TUNING_FOLDER
        trials = tuning_trials(study, setting.facts, threads_per_rank=setting.threads_per_rank)
    with hold(run_dir):
        claim(run_dir, study, folder, trials)
        log = log_of(run_dir)
        log.parent.mkdir(exist_ok=True)
        if log.exists():
            log.replace(log.with_name("run.old.log"))
    _start(run_dir, words)
    return run_dir


def go_on(run_dir: Path) -> bool:
    """Start anew the controlling process of a detached run, if it was killed, with the same words; whether it was.

    Raises: UsageError if the run folder tells of another command than paceline's own; PacelineError if it cannot be
        started.
    """
    last = last_detached(run_dir)
    if last is None or not last.was_killed or who_runs(run_dir) is not None:
        return False
    if last.command[1 : len(RUN)] != RUN[1:]:
        raise UsageError(f"{_folder(run_dir)} tells of a command that is not paceline's; it is not started")
    _start(run_dir, last.command[len(RUN) :])
    return True


def _start(run_dir: Path, words: Sequence[str]) -> None:
    command = [sys.executable, "-m", "paceline.launch.supervisor", "start", str(_folder(run_dir)), "--detach"]
    command += ["--grace", str(GRACE_S), "--log", str(log_of(run_dir)), "--", *RUN, *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise PacelineError(f"the run cannot be detached: {done.stderr.strip()}")


def who_runs(run_dir: Path) -> Runner | None:
    """Who runs a study now; None if nobody does."""
    state = state_of(_folder(run_dir))
    if state is not None and state["status"] == "running":
        supervised = Holder(**{key: state[key] for key in ("pid", "start", "host", "since")})
        return Runner(holder=supervised, detached=True)
    holder = holder_of(run_dir)
    return None if holder is None else Runner(holder=holder, detached=False)


def refuse_rival(run_dir: Path) -> None:
    """Leave a study to whoever runs it, also to a detached process that has not taken its folder yet.

    Raises: UsageError if there is one.
    """
    if (runner := who_runs(run_dir)) is not None:
        raise is_held(run_dir, runner.holder)


def last_detached(run_dir: Path) -> Detached | None:
    """How the last detached run of a study goes, or ended; None if there was none."""
    state = state_of(_folder(run_dir))
    if state is None:
        return None
    told = {key: state[key] for key in ("status", "exit_code", "time")}
    return Detached(**told, command=tuple(state["command"]))


def goes_on_alone(run_dir: Path) -> bool:
    """Whether ranks go on that a process which was killed has started; asks their hosts if there can be any.

    Raises: UnreachableError if a host cannot be asked.
    """
    if who_runs(run_dir) is not None:
        return False
    for folder in (run_dir, run_dir / TUNING_FOLDER):
        launchers = launchers_of(read_cluster(folder))
        if any(launchers[job.group].runs(job) for job in jobs_left(launchers, folder)):
            return True
    return False


def stop(run_dir: Path, *, now: bool) -> tuple[Runner | None, bool]:
    """End a run and wait until no process is left of it on any host.

    The running trial is left to be resumed from its last checkpoint. What a controlling process that was killed has
    left running on any host is ended too.
    Args:
        now: kill the controlling process.
    Returns: who ran it, None if nobody did; whether ranks had to be ended that it left, or one before it.
    Raises: UsageError if it runs on another host; PacelineError if it does not end, or a host cannot be reached.
    """
    runner = who_runs(run_dir)
    try:
        if runner is not None and runner.detached:
            supervisor.stop(_folder(run_dir), now=now)
        elif runner is not None:
            _stop_in_foreground(run_dir, runner.holder, now=now)
    except supervisor.SupervisorError as error:
        raise UsageError(f"{run_dir} cannot be stopped: {error}") from error
    try:
        with FileLock(run_dir / ".lock").acquire(timeout=LOCK_PATIENCE_S):  # nobody is to take it up meanwhile
            folders = (run_dir, run_dir / TUNING_FOLDER)
            went_on = [end_jobs(launchers_of(read_cluster(folder)), folder) for folder in folders]
    except Timeout as error:
        raise is_held(run_dir, holder_of(run_dir)) from error
    return runner, any(went_on)


def _stop_in_foreground(run_dir: Path, holder: Holder, *, now: bool) -> None:
    process = vars(holder)
    supervisor.signal_process(process, SIGKILL if now else SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while supervisor.is_alive(process) and holder_of(run_dir) == holder:
        if time.monotonic() > deadline:
            raise PacelineError(f"process {holder.pid} was asked to end and does not; kill it by --now")
        time.sleep(POLL_S)


def log_of(run_dir: Path) -> Path:
    """What a detached run says."""
    return run_dir / "logs" / "run.log"


def _folder(run_dir: Path) -> Path:
    return run_dir / CONTROL / "run"
