"""A job: the trials that one set of warm ranks is to run, and the files in which both sides speak of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from paceline.errors import DataError
from paceline.records import exit_of, read_json, write_atomically, write_json
from paceline.trial import Trial

PARENT_VARIABLE = "PACELINE_PARENT_PID"  # whose death ends a process of the job


@dataclass(frozen=True, kw_only=True)
class Job:
    """What ``job.json`` holds: trials in order, by the names of their folders below ``run_dir``."""

    run_dir: str
    trials: list[str]
    num_ranks: int
    threads_per_rank: int
    device: str
    data_dir: str | None
    collective_timeout_s: float = 600.0

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.run_dir)

    @property
    def path(self) -> Path:
        """Where the job is written for the ranks to read."""
        return self.folder / "job.json"

    def write(self) -> None:
        """Write ``job.json``, and forget which trial ran last."""
        self.running_path.unlink(missing_ok=True)
        write_json(self.path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read ``job.json``."""
        fields: dict[str, Any] = read_json(path)
        return cls(**fields)

    @property
    def running_path(self) -> Path:
        """Names the trial that is running, or was when the ranks died."""
        return self.folder / "running"

    def mark_running(self, trial_id: str) -> None:
        """Say which trial is running."""
        write_atomically(self.running_path, trial_id.encode())

    def running(self) -> str | None:
        """The trial that is running, or was when the ranks died; None before the first."""
        return self.running_path.read_text() if self.running_path.exists() else None

    def open_trials(self) -> list[str]:
        """The trials of this job that have not ended."""
        return [name for name in self.trials if exit_of(self.folder / name) is None]


def read_trial(trial_dir: Path) -> Trial:
    """The trial that ``trial.json`` describes.

    Raises: DataError if it is damaged.
    """
    fields = read_json(trial_dir / "trial.json")
    try:
        return Trial.model_validate({key: value for key, value in dict(fields).items() if key not in ("id", "cell")})
    except (ValidationError, TypeError, ValueError) as error:
        raise DataError(f"{trial_dir / 'trial.json'} describes no trial: {error}") from error
