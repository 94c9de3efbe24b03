"""How a run shows its progress on standard error: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from paceline.cli.output import console, say
from paceline.inert import inert
from paceline.records import AnyRecord, Evaluation, Exit, Resumed
from paceline.trial import Trial

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def make_watcher() -> PlainWatcher | BarWatcher:
    """What suits standard error."""
    return BarWatcher() if sys.stderr.isatty() else PlainWatcher()


def describe(trial: Trial) -> str:
    """A trial in a few words."""
    return f"{trial.workload} {trial.label} {trial.strategy} {trial.scale} seed {trial.seed}"


def describe_state(trial: Trial, record: Evaluation) -> str:
    """An evaluation in a few words."""
    metric = trial.target_metric
    return (
        f"epoch {record.epoch}/{trial.max_epochs}, training loss {record.train['loss']:.4f}, "
        f"validation {metric} {record.validation[metric]:.4f}, {record.train_time_s:.2f} s of training"
    )


def describe_damage(trial: Trial, record: Resumed) -> str:
    """Which checkpoints a trial has passed over."""
    return f"{describe(trial)} went on after update {record.num_updates}: {', '.join(record.passed_over)}"


def introduction(run_dir: Path, trials: list[Trial], num_done: int) -> str:
    """The first line of a run."""
    data = ", ".join(sorted({f"{trial.workload} on {trial.dataset}" for trial in trials}))
    done = f", {num_done} of them done already" if num_done else ""
    return f"{len(trials)} trials{done}; {data}; records in {run_dir}"


class PlainWatcher:
    """One line for each end, and for each evaluation if asked."""

    def __init__(self, *, of_evaluations: bool = True) -> None:
        self._ended, self._total, self._of_evaluations = 0, 0, of_evaluations

    def planned(self, run_dir: Path, trials: list[Trial], num_done: int, remarks: list[str]) -> None:
        """See plan.jobs.Watcher."""
        self._ended, self._total = num_done, len(trials)
        say(introduction(run_dir, trials, num_done))
        for remark in remarks:
            self.remarked(remark)

    def remarked(self, remark: str) -> None:
        """See plan.jobs.Watcher."""
        say(f"note: {remark}")

    def recorded(self, trial: Trial, record: AnyRecord) -> None:
        """See plan.jobs.Watcher."""
        if isinstance(record, Evaluation) and self._of_evaluations:
            say(f"[{self._ended + 1}/{self._total}] {describe(trial)}: {describe_state(trial, record)}")
        elif isinstance(record, Resumed) and record.passed_over:
            self.remarked(describe_damage(trial, record))

    def ended(self, trial: Trial, how: Exit) -> None:
        """See plan.jobs.Watcher."""
        self._ended += 1
        say(f"[{self._ended}/{self._total}] {describe(trial)}: {how.status}{f', {how.cause}' if how.cause else ''}")

    def close(self) -> None:
        """Nothing to leave behind."""


class BarWatcher:
    """A bar for the study with the time left, one for each running trial; failures stay above them."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._study: TaskID | None = None
        self._starting: TaskID | None = None  # until the first trial is heard of
        self._trials: dict[str, TaskID] = {}  # those that run, by their ids

    def planned(self, run_dir: Path, trials: list[Trial], num_done: int, remarks: list[str]) -> None:
        """See plan.jobs.Watcher."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.close()  # the bars of tuning, when the study's own trials follow
        screen = console(stderr=True)
        screen.print(introduction(run_dir, trials, num_done))
        for remark in remarks:
            screen.print(f"note: {remark}")
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=screen,
            speed_estimate_period=3600,
        )
        self._study = self._progress.add_task("trials", total=len(trials), completed=num_done)
        self._starting, self._trials = self._progress.add_task("starting the ranks", total=None), {}
        self._progress.start()

    def remarked(self, remark: str) -> None:
        """See plan.jobs.Watcher."""
        assert self._progress is not None
        self._progress.console.print(f"note: {remark}")

    def recorded(self, trial: Trial, record: AnyRecord) -> None:
        """See plan.jobs.Watcher."""
        assert self._progress is not None
        if trial.id not in self._trials:
            self._end_start()
            self._trials[trial.id] = self._progress.add_task(inert(describe(trial)), total=trial.max_epochs)
        if isinstance(record, Evaluation):
            text = f"{describe(trial)}: {trial.target_metric} {record.validation[trial.target_metric]:.4f}"
            self._progress.update(self._trials[trial.id], description=inert(text), completed=record.epoch)
        elif isinstance(record, Resumed) and record.passed_over:
            self.remarked(describe_damage(trial, record))

    def ended(self, trial: Trial, how: Exit) -> None:
        """See plan.jobs.Watcher."""
        assert self._progress is not None
        assert self._study is not None
        self._progress.advance(self._study)
        self._end_start()
        if trial.id in self._trials:
            self._progress.remove_task(self._trials.pop(trial.id))
        if how.status != "completed":
            self._progress.console.print(f"{describe(trial)}: {how.status}, {how.cause}")

    def _end_start(self) -> None:
        if self._progress is not None and self._starting is not None:
            self._progress.remove_task(self._starting)
            self._starting = None

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._progress is not None:
            self._progress.stop()
