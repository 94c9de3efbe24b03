"""Run a study: lay out its trials, start one warm job for what is left, and watch it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from paceline import registry
from paceline.errors import PacelineError
from paceline.job import Job
from paceline.launch.base import Launcher, cores_of_this_host
from paceline.plan.environment import environment
from paceline.plan.facts import remarks_on_targets, workload_facts
from paceline.plan.folder import hold
from paceline.records import DONE, AnyRecord, Exit, RecordFollower, exit_of, rank_file, write_json
from paceline.study import Study
from paceline.trial import Trial, expand

POLL_S = 0.1
EXIT_GRACE_S = 10.0
ROOM_FOR_RECORDS_BYTES = 1_000_000


class Watcher(Protocol):
    """Is told how a run goes on."""

    def planned(self, run_dir: Path, trials: list[Trial], num_done: int, remarks: list[str]) -> None:
        """Before the first trial: all trials, and how many are done already."""

    def recorded(self, trial: Trial, record: AnyRecord) -> None:
        """Rank 0 of a running trial wrote a record."""

    def ended(self, trial: Trial, how: Exit) -> None:
        """A trial is over."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The trials of a run and how each ended; None for those that were not reached."""

    run_dir: Path
    trials: list[Trial]
    exits: dict[str, Exit | None]

    def count(self, status: str) -> int:
        """How many trials ended so."""
        return sum(how is not None and how.status == status for how in self.exits.values())


def run_study(
    study: Study, *, runs_dir: Path, data_dir: Path | None, watcher: Watcher, launcher_name: str = "local"
) -> RunResult:
    """Run what is left of a study; repeats nothing that is done.

    Raises: UsageError, DataError before anything is started; PacelineError if the ranks cannot be kept alive.
        KeyboardInterrupt ends all ranks first.
    """
    launcher: Launcher = registry.resolve("launchers", launcher_name)()
    facts = workload_facts(study, data_dir)
    remarks = launcher.check(study.scales) + remarks_on_targets(study, facts)
    trials = expand(study, facts, threads_per_rank=_threads_per_rank(study))
    run_dir = (runs_dir / study.name).absolute()
    with hold(run_dir, study, trials):
        write_json(run_dir / "environment.json", environment())
        left = [trial for trial in trials if not _is_done(run_dir / trial.id)]
        watcher.planned(run_dir, trials, len(trials) - len(left), remarks)
        if left:
            _run_job(launcher, _job(study, run_dir, left, data_dir), left, watcher)
        exits = {trial.id: exit_of(run_dir / trial.id) for trial in trials}
    return RunResult(run_dir=run_dir, trials=trials, exits=exits)


def _threads_per_rank(study: Study) -> int:
    return max(1, cores_of_this_host() // max(scale.ranks_per_host for scale in study.scales))


def _is_done(trial_dir: Path) -> bool:
    how = exit_of(trial_dir)
    return how is not None and how.status in DONE


def _job(study: Study, run_dir: Path, trials: list[Trial], data_dir: Path | None) -> Job:
    for trial in trials:
        (run_dir / trial.id / "exit.json").unlink(missing_ok=True)
    return Job(
        run_dir=str(run_dir),
        trials=[trial.id for trial in trials],
        num_ranks=max(trial.num_ranks for trial in trials),
        threads_per_rank=trials[0].threads_per_rank,
        device=study.device,
        data_dir=None if data_dir is None else str(data_dir.absolute()),
    )


def _run_job(launcher: Launcher, job: Job, trials: list[Trial], watcher: Watcher) -> None:
    job.write()
    launcher.start(job)
    try:
        _watch(launcher.poll, job, trials, watcher)
        _wait_for_exit(launcher)
    finally:
        launcher.stop()
    if job.open_trials():
        raise PacelineError(_why_it_ended(job))


def _why_it_ended(job: Job) -> str:
    """Why a job left trials undone."""
    if shutil.disk_usage(job.folder).free < ROOM_FOR_RECORDS_BYTES:
        return f"the disk that holds {job.folder} is full; make room and run the same command to go on"
    logs = job.folder / "logs"
    tail = "\n".join((logs / "agent.log").read_text(errors="replace").splitlines()[-15:])
    return f"the ranks could not be kept alive, see {logs}; the agent said last:\n{tail}"


def _wait_for_exit(launcher: Launcher) -> None:
    """Let the ranks leave by themselves once the last trial is over."""
    deadline = time.monotonic() + EXIT_GRACE_S
    while launcher.poll() is None and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _watch(poll: Callable[[], int | None], job: Job, trials: list[Trial], watcher: Watcher) -> None:
    """Pass on what rank 0 writes, trial by trial, until the job ends."""
    followers = [RecordFollower(rank_file(job.folder / trial.id, 0)) for trial in trials]  # before any of them writes
    for trial, follower in zip(trials, followers, strict=True):
        folder = job.folder / trial.id
        while True:
            ended = exit_of(folder)
            gone = poll() is not None
            for record in follower.new_records():
                watcher.recorded(trial, record)
            if ended is not None:
                watcher.ended(trial, ended)
                break
            if gone:
                return
            time.sleep(POLL_S)
