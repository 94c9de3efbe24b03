"""Run a study: lay out its trials, start one warm job for what is left, and watch it; or only tune
or check it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from paceline import registry
from paceline.analysis.load import load
from paceline.analysis.tuning import Tuning, tuning_of
from paceline.cluster import THIS_HOST, Cluster
from paceline.errors import PacelineError, UsageError
from paceline.job import ChecksWanted, Job, checks_path, read_checks, stopping
from paceline.launch.base import Launcher
from paceline.plan.check import checks_wanted
from paceline.plan.environment import environment
from paceline.plan.facts import remarks_on_targets, workload_facts
from paceline.plan.folder import hold, lay_out
from paceline.plan.tune import FOLDER as TUNING_FOLDER
from paceline.plan.tune import chosen_in_words, first_of_each, tuning_study, tuning_trials
from paceline.records import AnyRecord, Checks, Exit, RecordFollower, Status, exit_of, rank_file, trial_dirs, write_json
from paceline.study import Study
from paceline.trial import Place, Trial, Values, WorkloadFacts, expand

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


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A study, and what was found out about this place before running it."""

    study: Study
    facts: dict[str, WorkloadFacts]
    remarks: list[str]
    threads_per_rank: int
    data_dir: Path | None
    cluster: Cluster
    launcher: Launcher

    def trials(self, tuned: Mapping[Place, Values] = MappingProxyType({})) -> list[Trial]:
        """The study's own trials, with the hyperparameters that tuning chose."""
        return expand(self.study, self.facts, threads_per_rank=self.threads_per_rank, tuned=tuned)


def prepare(study: Study, *, data_dir: Path | None, cluster: Cluster = THIS_HOST) -> Setting:
    """Find out what must be known to run a study on a cluster; starts nothing.

    Raises: UsageError, DataError if it cannot be run there; PacelineError if a host cannot be reached.
    """
    launcher: Launcher = registry.resolve("launchers", cluster.kind)(cluster)
    facts = workload_facts(study, data_dir)
    remarks = launcher.check(study.scales) + remarks_on_targets(study, facts)
    return Setting(
        study=study,
        facts=facts,
        remarks=remarks,
        threads_per_rank=max(1, launcher.num_cores // max(scale.ranks_per_host for scale in study.scales)),
        data_dir=data_dir,
        cluster=cluster,
        launcher=launcher,
    )


def run_study(
    study: Study,
    *,
    runs_dir: Path,
    data_dir: Path | None,
    watcher: Watcher,
    check: bool = True,
    cluster: Cluster = THIS_HOST,
) -> RunResult:
    """Run what is left of a study, its tuning first; repeats nothing that is done.

    Args:
        check: let the ranks check the study first, unless it was found sound before.
    Raises: UsageError, DataError before anything is started; PacelineError if a check fails, the ranks cannot be kept
        alive, or tuning gives nothing to choose from. KeyboardInterrupt ends all ranks first.
    """
    setting = prepare(study, data_dir=data_dir, cluster=cluster)
    trials, remarks = setting.trials(), setting.remarks
    run_dir = (runs_dir / study.name).absolute()
    with hold(run_dir):
        if study.tuning is not None:
            tuning = _tune(setting, run_dir, watcher, check=check)
            trials, remarks = setting.trials(tuning.chosen), remarks + chosen_in_words(tuning)
        wanted = checks_wanted(study, trials, setting.launcher.num_cores)
        return run_trials(setting, run_dir, study, trials, watcher, remarks=remarks, wanted=wanted, check=check)


def tune_study(
    study: Study,
    *,
    runs_dir: Path,
    data_dir: Path | None,
    watcher: Watcher,
    check: bool = True,
    cluster: Cluster = THIS_HOST,
) -> Tuning:
    """Run what is left of a study's tuning, and choose.

    Raises: as ``run_study``; UsageError if the study has no tuning.
    """
    if study.tuning is None:
        raise UsageError(f"the study {study.name} has no [tuning]; give it one, such as [tuning] with num_trials = 16")
    setting = prepare(study, data_dir=data_dir, cluster=cluster)
    setting.trials()  # what is wrong with the study's own trials is said before hours of tuning
    run_dir = (runs_dir / study.name).absolute()
    with hold(run_dir):
        return _tune(setting, run_dir, watcher, check=check)


def _tune(setting: Setting, run_dir: Path, watcher: Watcher, *, check: bool) -> Tuning:
    """Run what is left of the tuning in its folder, and choose.

    Once the study's own trials are laid out, failed ones are not tried again: the choice would change under them.
    """
    if not (run_dir / "study.json").exists():
        write_json(run_dir / "study.json", setting.study.model_dump(mode="json"))
    folder, inner = run_dir / TUNING_FOLDER, tuning_study(setting.study)
    trials = tuning_trials(setting.study, setting.facts, threads_per_rank=setting.threads_per_rank)
    again: Sequence[Status] = () if any(trial_dirs(run_dir)) else ("failed",)
    wanted = checks_wanted(inner, first_of_each(trials), setting.launcher.num_cores)
    with hold(folder):
        run_trials(setting, folder, inner, trials, watcher, again=again, wanted=wanted, check=check)
    tuning = tuning_of(load(folder))
    failed = [f"{one.label} at {one.scale} on {one.workload}" for one in tuning.searches if one.all_failed]
    if failed:
        raise PacelineError(
            f"every tuning trial failed of {', '.join(failed)}: there is nothing to choose from; "
            f"`paceline status {folder}` tells why. Search another space, or leave that optimizer out"
        )
    return tuning


def run_trials(
    setting: Setting,
    run_dir: Path,
    study: Study,
    trials: list[Trial],
    watcher: Watcher,
    *,
    remarks: Sequence[str] = (),
    again: Sequence[Status] = ("failed",),
    wanted: ChecksWanted | None = None,
    check: bool = False,
) -> RunResult:
    """Run, in a folder that is held, its trials that have not ended, and those that ended in one of the ways ``again``.

    ``wanted`` is checked before, where ``check`` asks for that.
    """
    lay_out(run_dir, study, trials)
    write_json(run_dir / "environment.json", environment())
    exits = {trial.id: exit_of(run_dir / trial.id) for trial in trials}
    kept = {name for name, how in exits.items() if how and how.status not in ("stopped", *again)}
    left = [trial for trial in trials if trial.id not in kept]
    watcher.planned(run_dir, trials, len(kept), list(remarks))
    if left:
        checks = _checks_left(run_dir, wanted, check=check) if wanted else None
        _run_job(setting.launcher, _job(setting, study, run_dir, left, checks), left, watcher)
    return RunResult(run_dir=run_dir, trials=trials, exits={trial.id: exit_of(run_dir / trial.id) for trial in trials})


def check_study(study: Study, *, data_dir: Path | None, cluster: Cluster = THIS_HOST) -> Checks:
    """Check a study and run nothing of it; the ranks work in a folder that is gone afterwards.

    Raises: as ``run_study``, but for checks that fail.
    """
    setting = prepare(study, data_dir=data_dir, cluster=cluster)
    trials = setting.trials()
    wanted = checks_wanted(study, trials, setting.launcher.num_cores)
    with tempfile.TemporaryDirectory(prefix="paceline-check-") as folder:
        run_dir = Path(folder)
        with hold(run_dir):
            lay_out(run_dir, study, [trial for trial in trials if trial.id in wanted.trials])
            job = _job(setting, study, run_dir, trials, wanted).model_copy(update={"trials": []})
            job.write()
            setting.launcher.start(job)
            try:
                while setting.launcher.poll() is None:
                    time.sleep(POLL_S)
            finally:
                setting.launcher.stop()
            made = read_checks(run_dir)
            if made is None:
                raise PacelineError(_why_it_ended(setting.launcher, job))
    return made


def _checks_left(run_dir: Path, wanted: ChecksWanted, *, check: bool) -> ChecksWanted | None:
    """What is to be checked before the first trial; what was found of another study, or is to be found anew, goes."""
    made = read_checks(run_dir)
    if made is not None and made.of == wanted.of and not (check and stopping(made.findings)):
        return None
    checks_path(run_dir).unlink(missing_ok=True)
    return wanted if check else None


def _job(setting: Setting, study: Study, run_dir: Path, trials: list[Trial], checks: ChecksWanted | None) -> Job:
    for trial in trials:
        (run_dir / trial.id / "exit.json").unlink(missing_ok=True)
    scales = study.scales if checks else [trial.scale for trial in trials]
    return Job(
        run_dir=str(run_dir),
        trials=[trial.id for trial in trials],
        num_hosts=max(scale.num_hosts for scale in scales),
        ranks_per_host=max(scale.ranks_per_host for scale in scales),
        threads_per_rank=trials[0].threads_per_rank,
        device=study.device,
        data_dir=None if setting.data_dir is None else str(setting.data_dir.absolute()),
        checks=checks,
        heartbeat_timeout_s=setting.cluster.heartbeat_timeout_s,
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
        made = read_checks(job.folder) if job.checks else None
        raise PacelineError(
            _why_it_was_refused(made) if made and stopping(made.findings) else _why_it_ended(launcher, job)
        )


def _why_it_was_refused(made: Checks) -> str:
    failed = "\n".join(f"  {finding.check}: {finding.evidence}" for finding in stopping(made.findings))
    return f"no trial was run, for the study is not sound:\n{failed}\n--no-check runs it all the same"


def _why_it_ended(launcher: Launcher, job: Job) -> str:
    """Why a job left trials undone."""
    if shutil.disk_usage(job.folder).free < ROOM_FOR_RECORDS_BYTES:
        return f"the disk that holds {job.folder} is full; make room and run the same command to go on"
    return f"the ranks could not be kept alive: {launcher.last_words(job)}"


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
