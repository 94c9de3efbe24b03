"""Run a study: lay out its trials, and have warm ranks run what is left; or only tune or check it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from paceline.analysis.load import load
from paceline.analysis.tuning import Tuning, tuning_of
from paceline.cluster import THIS_HOST, Cluster, read_cluster, write_cluster
from paceline.errors import PacelineError, UsageError
from paceline.job import ChecksWanted, Job, checks_path, network_path, read_checks, stopping
from paceline.launch.base import Launcher
from paceline.plan.check import checks_wanted
from paceline.plan.environment import environment
from paceline.plan.examine import examine_hosts
from paceline.plan.facts import remarks_on_targets, workload_facts
from paceline.plan.folder import hold, lay_out
from paceline.plan.jobs import Silence, Watcher, adopt_jobs, end_jobs, launchers_of, run_jobs, why_it_ended
from paceline.plan.tune import FOLDER as TUNING_FOLDER
from paceline.plan.tune import chosen_in_words, first_of_each, tuning_study, tuning_trials
from paceline.records import Checks, Exit, Status, exit_of, failures_path, sweep, trial_dirs, write_versioned
from paceline.study import Study
from paceline.trial import Place, Trial, Values, WorkloadFacts, expand


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
    data_dir: Path | None
    cluster: Cluster
    launchers: dict[str, Launcher]  # one a group of hosts, by its name
    detached: bool = False
    begins_with: Path | None = None

    @property
    def launcher(self) -> Launcher:
        """That of the first group."""
        return next(iter(self.launchers.values()))

    @property
    def num_cores(self) -> int:
        """Cores for the ranks of each host: of the one with the fewest."""
        return min(launcher.num_cores for launcher in self.launchers.values())

    @property
    def threads_per_rank(self) -> int:
        """What ``auto`` stands for: these cores shared by the ranks of the largest scale."""
        return max(1, self.num_cores // max(scale.ranks_per_host for scale in self.study.scales))

    def trials(self, tuned: Mapping[Place, Values] = MappingProxyType({})) -> list[Trial]:
        """The study's own trials, with the hyperparameters that tuning chose."""
        return expand(self.study, self.facts, threads_per_rank=self.threads_per_rank, tuned=tuned)


def prepare(study: Study, *, data_dir: Path | None, cluster: Cluster = THIS_HOST, detached: bool = False) -> Setting:
    """Find out what must be known to run a study on a cluster; starts nothing.

    Args:
        detached: what is started later outlives this process.
    Raises: UsageError, DataError if it cannot be run there; PacelineError if a host cannot be reached.
    """
    launchers = launchers_of(cluster)
    facts = workload_facts(study, data_dir)
    with ThreadPoolExecutor(len(launchers)) as pool:
        remarks = [
            remark for found in pool.map(lambda one: one.check(study.scales), launchers.values()) for remark in found
        ]
    return Setting(
        study=study,
        facts=facts,
        remarks=[*remarks, *remarks_on_targets(study, facts)],
        data_dir=data_dir,
        cluster=cluster,
        launchers=launchers,
        detached=detached,
    )


def run_study(
    study: Study,
    *,
    runs_dir: Path,
    data_dir: Path | None,
    watcher: Watcher,
    check: bool = True,
    cluster: Cluster = THIS_HOST,
    detached: bool = False,
    begins_with: Path | None = None,
) -> RunResult:
    """Run what is left of a study, its tuning first; repeats nothing that is done.

    Args:
        check: let the ranks check the study first, unless it was found sound before.
        detached: ranks outlive this process, and what such a process left running is watched to its end.
        begins_with: folder of a trial, maybe on another number of ranks, that the study's one trial goes on with.
    Raises: UsageError, DataError before anything is started; PacelineError if a check fails, the ranks cannot be kept
        alive, or tuning gives nothing to choose from. KeyboardInterrupt ends all ranks first.
    """
    setting = prepare(study, data_dir=data_dir, cluster=cluster, detached=detached)
    setting = replace(setting, begins_with=begins_with)
    trials, remarks = setting.trials(), setting.remarks
    run_dir = (runs_dir / study.name).absolute()
    with hold(run_dir):
        if study.tuning is not None:
            tuning = _tune(setting, run_dir, watcher, check=check)
            trials, remarks = setting.trials(tuning.chosen), remarks + chosen_in_words(tuning)
        wanted = checks_wanted(study, trials, setting.num_cores)
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
        write_versioned(run_dir / "study.json", setting.study.model_dump(mode="json"))
    folder, inner = run_dir / TUNING_FOLDER, tuning_study(setting.study)
    trials = tuning_trials(setting.study, setting.facts, threads_per_rank=setting.threads_per_rank)
    again: Sequence[Status] = () if any(trial_dirs(run_dir)) else ("failed",)
    wanted = checks_wanted(inner, first_of_each(trials), setting.num_cores)
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
    write_versioned(run_dir / "environment.json", environment())
    watcher.planned(run_dir, trials, len(trials) - len(_left(run_dir, trials, again)), list(remarks))
    _take_up(setting, run_dir, watcher)
    sweep(run_dir)
    write_cluster(run_dir, setting.cluster)
    if left := _left(run_dir, trials, again):
        if check:
            examine_hosts(setting.cluster, study, run_dir, watcher)
        checks = _checks_left(run_dir, wanted, check=check) if wanted else None
        run_jobs(setting.launchers, _jobs(setting, study, run_dir, left, checks), watcher, detached=setting.detached)
        sweep(run_dir)
    return RunResult(run_dir=run_dir, trials=trials, exits={trial.id: exit_of(run_dir / trial.id) for trial in trials})


def _take_up(setting: Setting, run_dir: Path, watcher: Watcher) -> None:
    """Watch what a process that is gone has left running to its end, where this run is detached too; else end it."""
    place = read_cluster(run_dir)
    if place == setting.cluster and setting.detached:
        adopt_jobs(setting.launchers, run_dir, watcher)
        return
    try:
        end_jobs(setting.launchers if place == setting.cluster else launchers_of(place), run_dir)
    except PacelineError as error:  # hosts that are used no more may be off for good
        if place == setting.cluster:
            raise
        watcher.remarked(str(error))


def _left(run_dir: Path, trials: list[Trial], again: Sequence[Status]) -> list[Trial]:
    """The trials to run: those that are not over for good."""
    exits = {trial.id: exit_of(run_dir / trial.id) for trial in trials}
    return [trial for trial in trials if (how := exits[trial.id]) is None or how.status in ("stopped", *again)]


def check_study(study: Study, *, data_dir: Path | None, cluster: Cluster = THIS_HOST) -> Checks:
    """Check a study and run nothing of it; the ranks work in a folder that is gone afterwards.

    Raises: as ``run_study``, but for checks that fail.
    """
    setting = prepare(study, data_dir=data_dir, cluster=cluster)
    trials = setting.trials()
    wanted = checks_wanted(study, trials, setting.num_cores)
    with tempfile.TemporaryDirectory(prefix="paceline-check-") as folder:
        run_dir = Path(folder)
        with hold(run_dir):
            lay_out(run_dir, study, [trial for trial in trials if trial.id in wanted.trials])
            job = _job(setting, study, run_dir, "", trials, wanted).model_copy(update={"trials": []})
            run_jobs({"": setting.launcher}, [job], Silence(), detached=False)
            made = read_checks(run_dir)
            if made is None:
                raise PacelineError(why_it_ended(setting.launcher, job))
    return made


def _checks_left(run_dir: Path, wanted: ChecksWanted, *, check: bool) -> ChecksWanted | None:
    """What is to be checked before the first trial; what was found of another study, or is to be found anew, goes."""
    made = read_checks(run_dir)
    if made is not None and made.of == wanted.of and not (check and stopping(made.findings)):
        return None
    checks_path(run_dir).unlink(missing_ok=True)
    return wanted if check else None


def _jobs(setting: Setting, study: Study, run_dir: Path, trials: list[Trial], checks: ChecksWanted | None) -> list[Job]:
    """A job for each group of hosts that has trials left; those of one seed are all for one group."""
    names = list(setting.launchers)
    shares = {
        name: [trial for trial in trials if names[study.seeds.index(trial.seed) % len(names)] == name] for name in names
    }
    first, *others = [name for name, share in shares.items() if share]
    return [
        _job(setting, study, run_dir, first, shares[first], checks),
        *(_job(setting, study, run_dir, name, shares[name], None) for name in others),
    ]


def _job(
    setting: Setting, study: Study, run_dir: Path, group: str, trials: list[Trial], checks: ChecksWanted | None
) -> Job:
    network_path(run_dir, group).unlink(missing_ok=True)
    for folder in (run_dir / trial.id for trial in trials):
        if exit_of(folder) is not None:  # its attempts are counted anew, those of one that was interrupted are not
            failures_path(folder).unlink(missing_ok=True)
            (folder / "exit.json").unlink()
    scales = study.scales if checks else [trial.scale for trial in trials]
    return Job(
        run_dir=str(run_dir),
        group=group,
        trials=[trial.id for trial in trials],
        num_hosts=max(scale.num_hosts for scale in scales),
        ranks_per_host=max(scale.ranks_per_host for scale in scales),
        threads_per_rank=trials[0].threads_per_rank,
        device=study.device,
        data_dir=None if setting.data_dir is None else str(setting.data_dir.absolute()),
        checks=checks,
        checkpoint_every=study.checkpoint_every,
        checkpoints_kept=study.checkpoints_kept,
        heartbeat_timeout_s=setting.cluster.heartbeat_timeout_s,
        retries=study.retries,
        begins_with=None if setting.begins_with is None else str(setting.begins_with.absolute()),
        collective_timeout_s=setting.cluster.collective_timeout_s,
    )
