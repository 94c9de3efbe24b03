"""A warm rank: ``python -m paceline.train.worker JOB``, started by the agent; makes a job's checks, runs its trials.

A trial of W ranks uses the first W; the others sleep on the store until it is over. An error ends the process with a
word why; elastic starts all ranks anew, the trial is recorded as failed, and the job goes on with the next.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from paceline import registry
from paceline.errors import DataError
from paceline.job import PARENT_VARIABLE, ChecksWanted, Job, checks_path, read_checks, read_trial, stopping
from paceline.records import Checks, Exit, Finding, Status, write_json
from paceline.study import WorkloadEntry
from paceline.train import check, failure
from paceline.train.group import Groups, choose_device, initialize
from paceline.train.loop import run_trial
from paceline.trial import Trial
from paceline.workloads.base import Workload, WorkloadRequest

TRIAL_TIMEOUT = timedelta(days=365)  # how long idle ranks sleep; the death of a busy one ends them much sooner


def main() -> None:
    """Run every open trial of the job named on the command line."""
    end_with_parent()
    job = Job.read(Path(sys.argv[1]))
    torch.set_num_threads(job.threads_per_rank)
    device = choose_device(job.device)
    store = initialize(device, timeout_s=job.collective_timeout_s)
    _run_job(job, device, store)
    dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # destroying process groups at exit aborts now and then


def end_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies (Linux); leave at once if it is dead already.

    The parent has put its id into ``PARENT_VARIABLE``; children of this process will find this one's there.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != int(os.environ[PARENT_VARIABLE]):
            os._exit(1)
    os.environ[PARENT_VARIABLE] = str(os.getpid())


def _run_job(job: Job, device: torch.device, store: Store) -> None:
    trials = [read_trial(job.folder / name) for name in _open_trials(job, store)]
    checked = [read_trial(job.folder / name) for name in (job.checks.trials if job.checks else ())]
    groups = Groups([dist.get_world_size(), *(trial.num_ranks for trial in (*trials, *checked))], device)
    if job.checks is not None and not _may_begin(job, job.checks, checked, groups, store):
        return
    for number, trial in enumerate(trials):
        trial_dir = job.folder / trial.id
        if dist.get_rank() < trial.num_ranks:
            if dist.get_rank() == 0:
                job.mark_running(trial.id)
            run_and_record(trial, job.data_dir, groups, trial_dir)
            if dist.get_rank() == 0:
                store.set(f"done-{number}", "1")
        else:
            store.wait([f"done-{number}"], TRIAL_TIMEOUT)


def _may_begin(job: Job, wanted: ChecksWanted, checked: list[Trial], groups: Groups, store: Store) -> bool:
    """Make the checks, unless an earlier attempt did or died of them; whether all that matter pass."""
    if dist.get_rank() == 0:
        path, logs = checks_path(job.folder), job.folder / "logs"
        if not path.exists() and (fatal := job.running()) is not None:
            cause = failure.merged_cause(logs, job.num_ranks)
            _write_checks(job, wanted, (Finding(check=fatal, status="fail", evidence=cause),))
        failure.forget(logs)
        store.set("check", "" if path.exists() else "1")
    if store.get("check"):
        found = _findings(job, checked, groups)
        if dist.get_rank() == 0:
            _write_checks(job, wanted, found)
    if dist.get_rank() == 0:
        made = read_checks(job.folder)
        assert made is not None
        store.set("may_begin", "" if stopping(made.findings) else "1")
    store.wait(["may_begin"], TRIAL_TIMEOUT)
    return bool(store.get("may_begin"))


def _findings(job: Job, checked: list[Trial], groups: Groups) -> tuple[Finding, ...]:
    def begin(name: str) -> None:
        if dist.get_rank() == 0:
            job.mark_running(name)

    try:
        return check.findings(checked, lambda trial: open_workload(trial.workload_entry, job.data_dir), groups, begin)
    except Exception as error:
        with suppress(OSError):  # a full disk must not hide the error
            failure.leave_word(job.folder / "logs", dist.get_rank(), error)
        raise


def _write_checks(job: Job, wanted: ChecksWanted, found: tuple[Finding, ...]) -> None:
    made = Checks(of=wanted.of, findings=wanted.findings + found)
    write_json(checks_path(job.folder), made.model_dump(mode="json"))


def _open_trials(job: Job, store: Store) -> list[str]:
    """What is left to do, as rank 0 finds it; a trial that killed its ranks is recorded first."""
    if dist.get_rank() == 0:
        crashed = job.running() if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) else None
        if crashed is not None and crashed in job.open_trials():
            trial_dir = job.folder / crashed
            cause = failure.merged_cause(trial_dir, read_trial(trial_dir).num_ranks)
            write_exit(trial_dir, Exit(status="failed", cause=cause))
        for name in job.open_trials():
            failure.forget(job.folder / name)
        store.set("open", "\n".join(job.open_trials()))
    return [name for name in store.get("open").decode().split("\n") if name]


def run_and_record(trial: Trial, data_dir: str | Path | None, groups: Groups, trial_dir: Path) -> Status:
    """Run one trial; rank 0 records how it ended, a rank that fails leaves word why and raises."""
    try:
        workload = open_workload(trial.workload_entry, data_dir)
        if workload.data_digest != trial.data_digest:
            raise DataError(f"the data set {trial.dataset} has changed since the trial was planned; run it anew")
        end = run_trial(trial, workload, groups.ranks(trial.num_ranks), trial_dir)
    except Exception as error:
        with suppress(OSError):  # a full disk must not hide the error
            failure.leave_word(trial_dir, dist.get_rank(), error)
        raise
    if dist.get_rank() == 0:
        write_exit(trial_dir, Exit(status=end.status, cause=end.reason if end.status == "diverged" else ""))
    return end.status


def write_exit(trial_dir: Path, how: Exit) -> None:
    """Record that a trial is over."""
    write_json(trial_dir / "exit.json", how.model_dump())


def open_workload(entry: WorkloadEntry, data_dir: str | Path | None) -> Workload:
    """The workload that a study or trial asks for; the last few stay open."""
    return _open_workload(entry.name, WorkloadRequest.of(entry, data_dir))


@functools.lru_cache(maxsize=4)  # the trials of a study read their data once
def _open_workload(name: str, request: WorkloadRequest) -> Workload:
    workload: Workload = registry.resolve("workloads", name)(request)
    return workload


if __name__ == "__main__":
    main()
