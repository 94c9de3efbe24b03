"""The jobs of a run, one for each group of hosts: started, watched side by side, and ended together."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from paceline import registry
from paceline.cluster import Cluster
from paceline.errors import PacelineError
from paceline.job import Job, job_path, read_checks, read_trial, stopping
from paceline.launch.base import Launcher
from paceline.records import AnyRecord, Checks, Exit, RecordFollower, exit_of, failures_of, rank_file
from paceline.trial import Trial

T = TypeVar("T")

POLL_S = 0.1
EXIT_GRACE_S = 10.0
ROOM_FOR_RECORDS_BYTES = 1_000_000


class Watcher(Protocol):
    """Is told how a run goes on."""

    def planned(self, run_dir: Path, trials: list[Trial], num_done: int, remarks: list[str]) -> None:
        """Before the first trial: all trials, and how many are done already."""

    def remarked(self, remark: str) -> None:
        """Something that would spoil a measurement was found after that, or an attempt at a trial failed."""

    def recorded(self, trial: Trial, record: AnyRecord) -> None:
        """Rank 0 of a running trial wrote a record."""

    def ended(self, trial: Trial, how: Exit) -> None:
        """A trial is over."""


class Silence:
    """A watcher that tells nothing."""

    def planned(self, run_dir: Path, trials: list[Trial], num_done: int, remarks: list[str]) -> None:
        """See ``Watcher``."""

    def remarked(self, remark: str) -> None:
        """See ``Watcher``."""

    def recorded(self, trial: Trial, record: AnyRecord) -> None:
        """See ``Watcher``."""

    def ended(self, trial: Trial, how: Exit) -> None:
        """See ``Watcher``."""


def launchers_of(cluster: Cluster) -> dict[str, Launcher]:
    """What starts and ends jobs on each group of a cluster's hosts, by its name; nothing is asked yet."""
    return {name: registry.resolve("launchers", cluster.kind)(group) for name, group in cluster.groups().items()}


def run_jobs(launchers: Mapping[str, Launcher], jobs: Sequence[Job], watcher: Watcher, *, detached: bool) -> None:
    """Run each job on its group of hosts, all at once; where the first makes checks, the others wait for these.

    Args:
        launchers: by the names of the groups.
        detached: what was started goes on when this process dies.
    Raises: PacelineError if trials are left undone, once all jobs are over.
    """
    running: list[_Running] = []
    waiting = list(jobs)
    try:
        while waiting or running:
            for job in [job for job in waiting if _may_start(job, jobs[0])]:
                waiting.remove(job)
                running.append(_Running(launchers[job.group], job, watcher))
                job.write()
                launchers[job.group].start(job, detached=detached)
            running = [one for one in running if one.goes_on()]
            if not running and jobs[0] not in waiting and not _may_start(jobs[-1], jobs[0]):
                break
            time.sleep(POLL_S)
    finally:
        _end(launchers, [job for job in jobs if job not in waiting])
    if undone := [job for job in jobs if job.open_trials()]:
        made = read_checks(jobs[0].folder) if jobs[0].checks else None
        if made and stopping(made.findings):
            raise PacelineError(_why_it_was_refused(made))
        started = [job for job in undone if job not in waiting]
        raise PacelineError("\n".join(why_it_ended(launchers[job.group], job) for job in started))


def adopt_jobs(launchers: Mapping[str, Launcher], run_dir: Path, watcher: Watcher) -> None:
    """Watch the jobs until their end that a process which is gone has left running in a run folder."""
    left = jobs_left(launchers, run_dir)
    followed = [_Running(launchers[job.group], job, watcher) for job in left]  # before what is new is collected
    try:
        goes_on = _on_all(left, lambda job: launchers[job.group].adopt(job))
        followed = [one for one, does in zip(followed, goes_on, strict=True) if one.goes_on() and does]
        while followed := [one for one in followed if one.goes_on()]:
            time.sleep(POLL_S)
    finally:
        _end(launchers, left)


def end_jobs(launchers: Mapping[str, Launcher], run_dir: Path) -> bool:
    """End the jobs that a process which is gone has left running in a run folder; whether there were any.

    What they wrote is collected.
    """
    left = jobs_left(launchers, run_dir)
    went_on = _on_all(left, lambda job: launchers[job.group].adopt(job))
    _end(launchers, left)
    return any(went_on)


def jobs_left(launchers: Mapping[str, Launcher], run_dir: Path) -> list[Job]:
    """The jobs of a run folder that have not been seen to end, on these groups of hosts."""
    return [Job.read(path) for group in launchers if (path := job_path(run_dir, group)).exists()]


def _end(launchers: Mapping[str, Launcher], jobs: Sequence[Job]) -> None:
    """Leave nothing of these jobs.

    Raises: PacelineError if some of a job goes on, which is remembered.
    """

    def end(job: Job) -> None:
        launchers[job.group].stop()
        job.forget()

    _on_all(jobs, end)


def why_it_ended(launcher: Launcher, job: Job) -> str:
    """Why a job left undone what it was to do."""
    if job.leave_path.exists():
        return "the ranks were asked to leave, and did after a checkpoint; run the same command to go on"
    if shutil.disk_usage(job.folder).free < ROOM_FOR_RECORDS_BYTES:
        return f"the disk that holds {job.folder} is full; make room and run the same command to go on"
    return f"the ranks could not be kept alive: {launcher.last_words(job)}"


class _Running:
    """A job under way: what rank 0 writes is passed on, trial by trial."""

    def __init__(self, launcher: Launcher, job: Job, watcher: Watcher) -> None:
        self._launcher, self._watcher, self._folder = launcher, watcher, job.folder
        trials = [read_trial(job.folder / name) for name in job.open_trials()]  # the others were counted as done
        # before any of them writes
        self._left = [(trial, RecordFollower(rank_file(job.folder / trial.id, 0))) for trial in trials]
        self._num_failures = {trial.id: len(failures_of(job.folder / trial.id)) for trial in trials}
        are_over = bool(job.trials) and not trials
        self._deadline = time.monotonic() + EXIT_GRACE_S if are_over else float("inf")

    def goes_on(self) -> bool:
        """Pass on what is new; False once the job is over, or its ranks had time to leave after the last trial."""
        is_gone = self._launcher.poll() is not None
        while self._left:
            trial, follower = self._left[0]
            ended = exit_of(self._folder / trial.id)
            for record in follower.new_records():
                self._watcher.recorded(trial, record)
            if ended is None:
                self._tell_failures(trial)
                break
            self._watcher.ended(trial, ended)
            del self._left[0]
            if not self._left:
                self._deadline = time.monotonic() + EXIT_GRACE_S
        return not is_gone and time.monotonic() < self._deadline

    def _tell_failures(self, trial: Trial) -> None:
        """Pass on why attempts at an open trial failed."""
        for failure in failures_of(self._folder / trial.id)[self._num_failures[trial.id] :]:
            self._watcher.remarked(f"an attempt at {trial.id} failed: {failure.cause}")
            self._num_failures[trial.id] += 1


def _may_start(job: Job, first: Job) -> bool:
    if job is first or first.checks is None:
        return True
    made = read_checks(first.folder)
    return made is not None and not stopping(made.findings)


def _why_it_was_refused(made: Checks) -> str:
    failed = "\n".join(f"  {finding.check}: {finding.evidence}" for finding in stopping(made.findings))
    return f"no trial was run, for the study is not sound:\n{failed}\n--no-check runs it all the same"


def _on_all(jobs: Sequence[Job], act: Callable[[Job], T]) -> list[T]:
    """Do something with all jobs at once; the first error counts."""
    with ThreadPoolExecutor(max(1, len(jobs))) as pool:
        return list(pool.map(act, jobs))
