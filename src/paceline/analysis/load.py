"""From a run folder to what its trials measured; nothing is judged here, and nothing is left out."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from paceline.analysis.columns import Columns, Gathering
from paceline.errors import DataError, UsageError
from paceline.job import read_checks, read_trial
from paceline.records import (
    Checks,
    End,
    Epoch,
    Evaluation,
    Exit,
    Network,
    Start,
    Status,
    each_record,
    exit_of,
    rank_file,
    read_versioned,
    trial_dirs,
)
from paceline.study import Study
from paceline.trial import Trial

State = Status | Literal["degraded", "running", "waiting"]
STATES: tuple[State, ...] = ("completed", "diverged", "failed", "degraded", "stopped", "running", "waiting")


@dataclass(frozen=True, kw_only=True)
class RankRecords:
    """What one rank wrote of itself; several starts where the trial was resumed."""

    rank: int
    starts: tuple[Start, ...]
    epochs: Columns[Epoch]
    end: End | None


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """One trial: what it was to do, how far it came, and every record of it.

    ``evaluations`` are rank 0's, in order; ``ranks`` holds the ranks whose files exist. A trial is degraded if it ran
    on another number of ranks than it was to, at any time: it may go on, but is compared with none.
    """

    trial: Trial
    folder: Path
    status: State
    cause: str
    evaluations: Columns[Evaluation]
    ranks: tuple[RankRecords, ...]

    @property
    def starts(self) -> list[Start]:
        """The latest start of each rank."""
        return [rank.starts[-1] for rank in self.ranks if rank.starts]

    @property
    def end(self) -> End | None:
        """How rank 0 ended, with the test scores."""
        return next((rank.end for rank in self.ranks if rank.rank == 0), None)

    @property
    def is_over(self) -> bool:
        """Whether no more is to be had of the trial: it completed, diverged, failed or is degraded."""
        return self.status in ("completed", "diverged", "failed", "degraded")

    @property
    def groups(self) -> list[str]:
        """The groups of hosts it ran on, by the host of rank 0: several if it was resumed on another."""
        return list(dict.fromkeys(start.host for rank in self.ranks if rank.rank == 0 for start in rank.starts))

    @property
    def missing_ranks(self) -> list[int]:
        """Ranks that left no record though others did."""
        present = {rank.rank for rank in self.ranks}
        return [rank for rank in range(self.trial.num_ranks) if rank not in present] if present else []

    @property
    def last_record_time(self) -> float:
        """Seconds since 1970 of the newest record; 0 where there is none."""
        times = [start.time for rank in self.ranks for start in rank.starts]
        columns = [self.evaluations.column("time"), *(rank.epochs.column("time") for rank in self.ranks)]
        return max((*times, *(float(column.max()) for column in columns if len(column))), default=0.0)


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that a run folder holds: its study (None where the folder holds bare trials), its environment, its trials.

    ``networks`` are those measured between hosts, in the order of their groups' names. ``checks`` were made before the
    first trial, None where none were; ``tuning`` is the run in the folder of that name, None where nothing was tuned.
    Once it ``is_anonymous``, its folders are names that lead nowhere.
    """

    folder: Path
    study: Study | None
    environment: dict[str, Any]
    results: tuple[TrialResult, ...]
    networks: tuple[Network, ...] = ()
    checks: Checks | None = None
    tuning: Run | None = None
    is_anonymous: bool = False

    @property
    def name(self) -> str:
        """The study's name, or the folder's."""
        return self.study.name if self.study else self.folder.resolve().name

    @property
    def num_planned(self) -> int:
        """How many trials the study has, started or not."""
        if self.study is None:
            return len(self.results)
        cells = self.study.num_cells + self.study.repeats_baseline
        return max(len(self.results), len(self.study.workloads) * cells * len(self.study.seeds))


def load(run_dir: Path) -> Run:
    """Read a run folder, finished or not.

    Raises:
        UsageError: the folder is missing, is no run of paceline, or holds no trial yet.
        DataError: a file in it is damaged.
    """
    folders = _trial_folders(run_dir)
    study = _read_study(run_dir / "study.json")
    environment_path, tuning = run_dir / "environment.json", run_dir / "tuning"
    with _without_collector():
        results = tuple(_read_result(folder, study) for folder in folders)
    return Run(
        folder=run_dir,
        study=study,
        environment=read_versioned(environment_path) if environment_path.exists() else {},
        results=results,
        networks=tuple(_read_network(path) for path in sorted(run_dir.glob("network*.json"))),
        checks=read_checks(run_dir),
        tuning=load(tuning) if any(trial_dirs(tuning)) else None,
    )


def _read_network(path: Path) -> Network:
    try:
        return Network.model_validate(read_versioned(path))
    except ValidationError as error:
        raise DataError(f"{path} says nothing of a network: {_first(error)}; remove it") from error


@contextmanager
def _without_collector() -> Iterator[None]:
    """Do not look for cycles: records have none, and looking through millions of them takes a seventh of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _trial_folders(run_dir: Path) -> list[Path]:
    """The folders of the trials; says what is wrong where there is none."""
    if not run_dir.exists():
        raise UsageError(f"there is no folder {run_dir}; `paceline run STUDY.toml` writes one below ./runs")
    if not run_dir.is_dir():
        raise UsageError(f"{run_dir} is a file; give the folder of a run, such as runs/STUDY")
    if (run_dir / "trial.json").exists():
        raise UsageError(f"{run_dir} is a single trial; give the folder of its run: {run_dir.resolve().parent}")
    folders = list(trial_dirs(run_dir))
    if folders:
        return folders
    if (run_dir / "study.json").exists():
        raise UsageError(f"the run {run_dir} has no trial yet; start it with `paceline run`, then ask again")
    inner = sorted(path.parent.name for path in run_dir.glob("*/study.json"))
    if inner:
        raise UsageError(f"{run_dir} is no run but holds runs ({', '.join(inner)}); give one: {run_dir / inner[0]}")
    raise UsageError(f"{run_dir} is no run of paceline: it has neither study.json nor a folder with trial.json")


def _read_study(path: Path) -> Study | None:
    if not path.exists():
        return None
    try:
        return Study.model_validate(read_versioned(path))
    except ValidationError as error:
        raise DataError(
            f"{path} is not a study that this paceline can read: {_first(error)}. "
            "Is a package with a contestant of this study missing here, or was it written by another version?"
        ) from error


def _read_result(folder: Path, study: Study | None) -> TrialResult:
    trial = _with_target_of(study, read_trial(folder))
    files = ((rank, rank_file(folder, rank)) for rank in range(trial.num_ranks))
    read = {rank: _read_rank(rank, path) for rank, path in files if path.exists()}
    ranks = tuple(own for own, _ in read.values())
    exit_ = exit_of(folder)
    status: State = exit_.status if exit_ else "running" if any(rank.starts for rank in ranks) else "waiting"
    cause = _cause(exit_, ranks) if exit_ else ""
    if changed := _change_of_size(trial, ranks):
        status, cause = "degraded", f"{changed}{'; ' * bool(cause)}{cause}"
    return TrialResult(
        trial=trial,
        folder=folder,
        status=status,
        cause=cause,
        evaluations=read[0][1] if 0 in read else Columns(Evaluation),
        ranks=ranks,
    )


def _read_rank(rank: int, path: Path) -> tuple[RankRecords, Columns[Evaluation]]:
    """What a rank wrote and still holds; only rank 0 evaluates."""
    starts: list[Start] = []
    epochs, evaluations = Gathering(Epoch), Gathering(Evaluation)
    end: End | None = None
    for record in each_record(path):
        if isinstance(record, Evaluation):
            evaluations.add(record)
        elif isinstance(record, Epoch):
            epochs.add(record)
        elif isinstance(record, Start):
            starts.append(record)
        elif isinstance(record, End):
            end = record
        else:  # resumed: what follows its checkpoint no longer holds
            end = None
            epochs.drop_after(record.num_updates)
            evaluations.drop_after(record.num_updates)
    return RankRecords(rank=rank, starts=tuple(starts), epochs=epochs.columns(), end=end), evaluations.columns()


def _with_target_of(study: Study | None, trial: Trial) -> Trial:
    """The trial, with the target that the study states now unless training stopped at the old one."""
    entry = study.workloads.get(trial.workload) if study else None
    if entry is None or entry.target == "auto" or trial.stop_at_target:
        return trial
    return trial.model_copy(update={"target_value": entry.target})


def _cause(exit_: Exit, ranks: Sequence[RankRecords]) -> str:
    """Why the trial did not complete: what the job says, else what the first rank says."""
    if exit_.cause or exit_.status == "completed":
        return exit_.cause
    return next((rank.end.reason for rank in ranks if rank.end), "")


def _change_of_size(trial: Trial, ranks: Sequence[RankRecords]) -> str:
    """Says on how many ranks a trial ran, if ever on others than it was to; else empty."""
    starts = sorted((start for rank in ranks for start in rank.starts), key=lambda start: start.time)
    sizes = dict.fromkeys(start.world_size for start in starts)
    if set(sizes) <= {trial.num_ranks}:
        return ""
    then = ", then on ".join(map(str, sizes))
    return f"it ran on {then}, and was to run on {trial.num_ranks} rank{'s' * (trial.num_ranks != 1)}"


def _first(error: ValidationError) -> str:
    item = error.errors()[0]
    return f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
