"""A warm rank: ``python -m paceline.train.worker JOB``, started by the agent; makes a job's checks, runs its trials.

A trial of H hosts with R ranks each uses the first R ranks of the first H hosts; the others sleep on the store until it
is over. Before each trial rank 0 says whether it is run, or all leave. An error ends the process with a word why;
elastic starts all ranks anew, on all hosts. The failure is recorded, and the trial goes on from its newest checkpoint;
if it has failed too often, it is over, and the job goes on with the next.
"""

from __future__ import annotations

import ctypes
import functools
import json
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
from paceline.job import (
    NODE_VARIABLE,
    PARENT_VARIABLE,
    ChecksWanted,
    Job,
    checks_path,
    members,
    read_checks,
    read_trial,
    stopping,
)
from paceline.records import (
    Checks,
    Exit,
    Failure,
    Failures,
    Finding,
    Status,
    failures_of,
    failures_path,
    sweep,
    write_json,
)
from paceline.strategies.ranks import Ranks
from paceline.study_tables import WorkloadEntry
from paceline.train import check, failure, network
from paceline.train.group import Groups, choose_device, connect, holds_store, initialize
from paceline.train.heartbeat import Heartbeat
from paceline.train.interval import Keeping
from paceline.train.leave import TRIAL_TIMEOUT, Leaving
from paceline.train.loop import run_trial
from paceline.trial import Trial
from paceline.workloads.base import Workload, WorkloadRequest


def main() -> None:
    """Run every open trial of the job named on the command line."""
    end_with_parent()
    job = Job.read(Path(sys.argv[1]))
    torch.set_num_threads(job.threads_per_rank)
    device = choose_device(job.device)
    store, heartbeat, leaving = _join(job, device)
    try:
        _run_job(job, device, store, heartbeat, leaving)
    except Exception as error:  # also of a rank that was idle, and lost the store
        if _may_speak(heartbeat.folder):
            with suppress(OSError):
                failure.leave_word(heartbeat.folder, dist.get_rank(), error)
        raise
    leaving.leave()


def end_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies (Linux); leave at once if it is dead already.

    The parent has put its id into ``PARENT_VARIABLE``; children of this process will find this one's there.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != int(os.environ[PARENT_VARIABLE]):
            os._exit(1)
    os.environ[PARENT_VARIABLE] = str(os.getpid())


def _join(job: Job, device: torch.device) -> tuple[Store, Heartbeat, Leaving]:
    """Connect to the other ranks, numbered by their places: elastic numbers hosts by how their addresses are spelt."""
    rank = int(os.environ[NODE_VARIABLE]) * job.ranks_per_host + int(os.environ["LOCAL_RANK"])
    heartbeat = Heartbeat(rank=rank, world_size=job.num_ranks, timeout_s=job.heartbeat_timeout_s, folder=job.logs)
    store = connect(timeout_s=2 * heartbeat.join_timeout_s)  # the heartbeat gives up before, and says why
    heartbeat.beat(store.clone(), holds_store=holds_store())  # type: ignore[attr-defined] # the stub lacks it
    store.set_timeout(timedelta(seconds=job.collective_timeout_s))
    initialize(device, timeout_s=job.collective_timeout_s, store=store, rank=rank)
    heartbeat.joined()
    leaving = Leaving()
    leaving.listen(
        job.leave_path,
        store,
        rank=rank,
        world_size=job.num_ranks,
        holds_store=holds_store(),
        say_farewell=lambda: _say_farewell(heartbeat.folder, rank),
    )
    return store, heartbeat, leaving


def _say_farewell(folder: Path, rank: int) -> None:
    if _may_speak(folder):
        failure.say_farewell(folder, rank)


def _may_speak(folder: Path) -> bool:
    """Whether this rank may still leave a word there: what is over is touched no more, and the first word counts."""
    return not (folder / "exit.json").exists() and not failure.has_word(folder, dist.get_rank())


def _run_job(job: Job, device: torch.device, store: Store, heartbeat: Heartbeat, leaving: Leaving) -> None:
    _record_crash(job, store)
    trials = [read_trial(job.folder / name) for name in _open_trials(job, store)]
    checked = [read_trial(job.folder / name) for name in (job.checks.trials if job.checks else ())]
    scales = {trial.scale for trial in (*trials, *checked)}
    groups = Groups(scales | network.scales(job), device, ranks_per_host=job.ranks_per_host)
    if _from_first(store, "network", "yes" if network.is_wanted(job) else ""):
        network.measure(job, groups, dist.get_rank())
    if job.checks is not None and not _may_begin(job, job.checks, checked, groups, store):
        return
    keeping = Keeping(
        every=job.checkpoint_every,
        kept=job.checkpoints_kept,
        store=store,
        begins_with=Path(job.begins_with) if job.begins_with else None,
    )
    number = 0
    while leaving.goes_on(number, len(trials)):
        trial = trials[number]
        heartbeat.folder = job.folder / trial.id
        failure.forget(heartbeat.folder, dist.get_rank())  # of an idle rank, too
        if groups.has_part(trial.scale):
            if dist.get_rank() == 0:
                job.mark_running(trial.id)
            run_and_record(trial, job.data_dir, groups.ranks(trial.scale), heartbeat.folder, leaving, keeping)
        number += 1


def _record_crash(job: Job, store: Store) -> None:
    """If an earlier attempt died in a trial or a check, say so in its place, from the words of all hosts."""
    rank = dist.get_rank()
    crashed = _from_first(store, "crashed", (job.running() or "") if rank == 0 else "")
    if not crashed:
        return
    logs = job.logs
    folder = job.folder / crashed if crashed in job.trials else logs
    of_this_agent = Path(os.environ["TORCHELASTIC_ERROR_FILE"]).parents[3]  # hosts may share the folder above it
    word = failure.last_word(folder, rank, int(os.environ["LOCAL_RANK"]), of_this_agent)
    store.set(f"word-{rank}", json.dumps(word))
    if rank == 0:
        ranks = list(range(job.num_ranks))
        words = [json.loads(store.get(f"word-{number}")) for number in ranks]
        if folder != logs:
            ranks = members(read_trial(folder).scale, ranks_per_host=job.ranks_per_host)
        cause = failure.merged_cause(words, ranks)
        if crashed in job.open_trials():
            _record_failure(folder, cause, retries=job.retries if failure.is_curable(words) else 0)
        elif job.checks is not None and not checks_path(job.folder).exists():
            _write_checks(job, job.checks, (Finding(check=crashed, status="fail", evidence=cause),))
        job.running_path.unlink(missing_ok=True)  # what dies before it runs again is not its fault
    for place in (*(job.folder / name for name in job.trials), logs):
        failure.forget(place, rank)


def _record_failure(trial_dir: Path, cause: str, *, retries: int) -> None:
    """Count an attempt at a trial that failed; the trial is over if it was the last one."""
    failures = (*failures_of(trial_dir), Failure(cause=cause))
    write_json(failures_path(trial_dir), Failures(failures=failures).model_dump(mode="json"))
    if len(failures) > retries:
        write_exit(trial_dir, Exit(status="failed", cause=cause, num_attempts=len(failures)))


def _open_trials(job: Job, store: Store) -> list[str]:
    """What is left to do, as rank 0 finds it."""
    names = "\n".join(job.open_trials()) if dist.get_rank() == 0 else ""
    return [name for name in _from_first(store, "open", names).split("\n") if name]


def _from_first(store: Store, key: str, text: str) -> str:
    """What rank 0 has to say."""
    if dist.get_rank() == 0:
        store.set(key, text)
    return str(store.get(key).decode())


def _may_begin(job: Job, wanted: ChecksWanted, checked: list[Trial], groups: Groups, store: Store) -> bool:
    """Make the checks, unless an earlier attempt did or died of them; whether all that matter pass."""
    path = checks_path(job.folder)
    if not _from_first(store, "checked", "yes" if path.exists() else ""):
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
            failure.leave_word(job.logs, dist.get_rank(), error)
        raise


def _write_checks(job: Job, wanted: ChecksWanted, found: tuple[Finding, ...]) -> None:
    made = Checks(of=wanted.of, findings=wanted.findings + found)
    write_json(checks_path(job.folder), made.model_dump(mode="json"))


def run_and_record(
    trial: Trial,
    data_dir: str | Path | None,
    ranks: Ranks,
    trial_dir: Path,
    leaving: Leaving | None = None,
    keeping: Keeping | None = None,
) -> Status | None:
    """Run one trial; rank 0 records how it ended, a rank that fails leaves word why and raises.

    Returns: None if the ranks were asked to leave it, open.
    """
    failure.forget(trial_dir, dist.get_rank())  # of ranks that were ended together, some may have blamed the others
    if ranks.rank == 0:
        sweep(trial_dir)
    try:
        workload = open_workload(trial.workload_entry, data_dir)
        if workload.data_digest != trial.data_digest:
            raise DataError(f"the data set {trial.dataset} has changed since the trial was planned; run it anew")
        end = run_trial(trial, workload, ranks, trial_dir, leaving, keeping)
        if end is not None:
            ranks.barrier()  # a trial is over when all of its ranks have recorded their end
    except (Exception, SystemExit) as error:
        with suppress(OSError):  # a full disk must not hide the error
            failure.leave_word(trial_dir, dist.get_rank(), error)
        if isinstance(error, SystemExit):  # elastic would take the work of a rank that leaves with 0 for done
            raise RuntimeError("a contestant called sys.exit") from error
        raise
    if end is None:
        return None
    if dist.get_rank() == 0:
        cause = end.reason if end.status == "diverged" else ""
        num_attempts = len(failures_of(trial_dir)) + 1
        write_exit(trial_dir, Exit(status=end.status, cause=cause, num_attempts=num_attempts))
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
