"""What a study would take and what it could find, before any of its trials: its size, its time, its power.

Time comes from a calibration: every cell, as it stands, makes a few updates and one evaluation in a folder that is gone
afterwards. Tuned hyperparameters are not known yet; those that stand in for them may make an update slower or faster.
The checks before the first trial are not counted.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from paceline.analysis.inference import seeds_needed
from paceline.analysis.load import TrialResult, load
from paceline.analysis.power import detectable_ratio
from paceline.analysis.tuning import label_of
from paceline.cluster import THIS_HOST, Cluster
from paceline.errors import PacelineError
from paceline.plan.folder import hold
from paceline.plan.jobs import Silence
from paceline.plan.run import Setting, prepare, run_trials
from paceline.plan.tune import tuning_trials
from paceline.study import Study
from paceline.trial import Trial, comparisons

NUM_UPDATES = 8
SPREADS = (0.05, 0.1, 0.2)
POWER = 0.8


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What the calibration measured of one cell: seconds for an update, an evaluation, and a trial's start and end."""

    cell: str
    num_train: int
    update_time_s: float
    evaluation_time_s: float
    overhead_s: float


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some trials of the study and how long they take; ``low_s`` is where each reaches its target at first sight."""

    num_trials: int
    low_s: float
    high_s: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study would take and could find.

    ``final`` holds the study's own trials without the A/A repeats. ``detectable`` gives for each spread between seeds
    (see ``analysis.power``) the smallest ratio of times that is found with 80 % power; infinite with too few seeds.
    """

    study: str
    tuning: Part
    final: Part
    repeats: Part
    startup_s: float
    paces: tuple[Pace, ...]
    num_seeds: int
    num_comparisons: int
    seeds_needed: int
    detectable: dict[float, float]
    remarks: tuple[str, ...]

    @property
    def num_trials(self) -> int:
        """All of them."""
        return sum(part.num_trials for part in (self.tuning, self.final, self.repeats))

    @property
    def time_s(self) -> tuple[float, float]:
        """From where every trial that may stop at its target does so at once, to where all use up their budget."""
        parts = (self.tuning, self.final, self.repeats)
        startup_s = self.startup_s * (2 if self.tuning.num_trials else 1)  # of the ranks, once a job
        return startup_s + sum(part.low_s for part in parts), startup_s + sum(part.high_s for part in parts)


def plan(study: Study, *, data_dir: Path | None, cluster: Cluster = THIS_HOST) -> Plan:
    """Calibrate, and say what the study would take and could find; starts none of its trials.

    Raises: as ``run_study``; PacelineError if a cell cannot make its first updates.
    """
    setting = prepare(study, data_dir=data_dir, cluster=cluster)
    trials = setting.trials()
    tuning = (
        tuning_trials(study, setting.facts, threads_per_rank=setting.threads_per_rank)
        if study.tuning is not None
        else []
    )
    paces, startup_s = _calibrate(setting)
    pairs = comparisons(study, trials)
    return Plan(
        study=study.name,
        tuning=_part([trial.model_copy(update={"label": label_of(trial.label)}) for trial in tuning], paces),
        final=_part([trial for trial in trials if not trial.repeat], paces),
        repeats=_part([trial for trial in trials if trial.repeat], paces),
        startup_s=startup_s,
        paces=tuple(paces.values()),
        num_seeds=len(study.seeds),
        num_comparisons=len(pairs),
        seeds_needed=seeds_needed(len(pairs)),
        detectable={
            spread: detectable_ratio(len(study.seeds), len(pairs), spread, POWER) for spread in SPREADS if pairs
        },
        remarks=tuple(setting.remarks),
    )


def _calibrate(setting: Setting) -> tuple[dict[str, Pace], float]:
    """The pace of every cell, and how long the ranks take to start."""
    study = setting.study
    largest = max(study.batch_size(label, scale) for label in study.workloads for scale in study.scales)
    small = study.model_copy(
        update={
            "seeds": setting.study.seeds[:1],
            "aa_pair": False,
            "tuning": None,
            "max_epochs": 1,
            "max_train_time_s": 1e-9,  # looked at after each evaluation: the first one ends the trial
            "evaluate_every": NUM_UPDATES * largest,
            "stop_at_target": False,
        }
    )
    with tempfile.TemporaryDirectory(prefix="paceline-dry-run-") as folder:
        run_dir = Path(folder)
        began = time.monotonic()
        with hold(run_dir):
            trials = Setting(**vars(setting) | {"study": small}).trials()
            run_trials(setting, run_dir, small, trials, Silence())
        took_s = time.monotonic() - began
        results = load(run_dir).results
    paces = {result.trial.cell: _pace(result) for result in results}
    return paces, max(0.0, took_s - sum(result.end.wall_time_s for result in results if result.end))


def _pace(result: TrialResult) -> Pace:
    if result.end is None or not result.evaluations or not result.starts:
        raise PacelineError(f"{result.trial.cell} failed in its first updates, so no time can be told: {result.cause}")
    last = result.evaluations[-1]
    return Pace(
        cell=result.trial.cell,
        num_train=result.starts[0].num_examples["train"],
        update_time_s=last.train_time_s / last.num_updates,
        evaluation_time_s=last.evaluation_time_s / len(result.evaluations),
        overhead_s=max(0.0, result.end.wall_time_s - result.end.train_time_s - last.evaluation_time_s),
    )


def _part(trials: list[Trial], paces: dict[str, Pace]) -> Part:
    times = [_time_s(trial, paces) for trial in trials]
    return Part(num_trials=len(trials), low_s=sum(low for low, _ in times), high_s=sum(high for _, high in times))


def _time_s(trial: Trial, paces: dict[str, Pace]) -> tuple[float, float]:
    """The least and the most seconds of a trial; they differ only where it may stop at its target."""
    pace = paces[trial.cell]
    num_updates = trial.max_epochs * -(-pace.num_train // trial.global_batch_size)
    num_evaluations = float(trial.max_epochs)
    if trial.evaluate_every != "epoch":
        num_evaluations *= 1 + (pace.num_train - 1) // trial.evaluate_every
    train_time_s = num_updates * pace.update_time_s
    if trial.max_train_time_s != "unlimited" and train_time_s > trial.max_train_time_s:
        num_evaluations *= trial.max_train_time_s / train_time_s
        train_time_s = trial.max_train_time_s
    whole_s = train_time_s + num_evaluations * pace.evaluation_time_s
    least_s = whole_s / max(1.0, num_evaluations) if trial.stop_at_target else whole_s
    return pace.overhead_s + least_s, pace.overhead_s + whole_s
