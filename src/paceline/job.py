"""A job: the trials that one set of warm ranks is to run, and the files in which both sides speak of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paceline.errors import DataError
from paceline.records import Checks, Finding, exit_of, read_versioned, write_atomically, write_versioned
from paceline.study_tables import CheckpointInterval, Scale
from paceline.trial import Trial

PARENT_VARIABLE = "PACELINE_PARENT_PID"  # whose death ends a process of the job
NODE_VARIABLE = "PACELINE_NODE"  # which of the job's hosts a rank is on, counted from 0
RANKS_FILE = "ranks.json"  # the ranks whose logs a folder has, in the order in which elastic numbers them
ENOUGH_SEEDS = "enough seeds"


# Both become part of paths: they lead nowhere else.
TrialName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]*[A-Za-z0-9_-][A-Za-z0-9._-]*$", max_length=255)]
Group = Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")]


class ChecksWanted(BaseModel):
    """What ranks are to check before the first trial: ``trials``, one a cell, by the names of their folders.

    ``findings`` are those that need no ranks; ``of`` is a digest of all that is checked.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: str
    trials: list[TrialName]
    findings: tuple[Finding, ...]


class Job(BaseModel):
    """What ``job.json`` holds: trials in order, by the names of their folders below ``run_dir``.

    It is there from before the job's start until all of its processes have ended; ``id`` is the job's own, by which
    they can be told from those of an earlier one.

    Groups of hosts that share a study have a job each, which run side by side; ``group`` is the name of this one's,
    empty where there is one only, and part of the names of the job's own files.

    Hosts that share no files have a run folder each, with a ``job.json`` of its own. Rank ``node * ranks_per_host +
    local`` is on host ``node``; rank 0 writes what is written once. Where ``checks`` are wanted, no trial is run if one
    of them fails. A rank that is silent for longer than ``heartbeat_timeout_s`` ends its trial; hosts that do not
    come together within ``join_timeout_s``, at first or after a death, end the job. A trial that fails is tried again
    up to ``retries`` times. That and what is said of checkpoints is the study's, and changes no result.
    ``begins_with`` is the folder of a trial, maybe on another number of ranks, whose computation a single trial goes on
    with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_dir: str
    id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    group: Group = ""
    trials: list[TrialName]
    num_hosts: int = 1
    ranks_per_host: int
    threads_per_rank: int
    device: str
    data_dir: str | None
    checks: ChecksWanted | None = None
    checkpoint_every: CheckpointInterval = "auto"
    checkpoints_kept: int = Field(2, ge=2)
    collective_timeout_s: float = 600.0
    heartbeat_timeout_s: float = 60.0
    join_timeout_s: float = 120.0
    retries: int = 0
    begins_with: str | None = None

    @property
    def num_ranks(self) -> int:
        """World size."""
        return self.num_hosts * self.ranks_per_host

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.run_dir)

    @property
    def path(self) -> Path:
        """Where the job is written for the ranks to read."""
        return job_path(self.folder, self.group)

    @property
    def logs(self) -> Path:
        """Where agents and ranks write what they say."""
        return self.folder / "logs" / self.group

    def write(self) -> None:
        """Write ``job.json``, and forget which trial ran last, and who was asked to leave."""
        self.running_path.unlink(missing_ok=True)
        self.leave_path.unlink(missing_ok=True)
        write_versioned(self.path, self.model_dump(mode="json", exclude={"run_dir"}))

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read ``job.json``; the folder that it lies in is the run's.

        Raises: DataError if it is damaged.
        """
        try:
            return cls.model_validate(read_versioned(path) | {"run_dir": str(path.absolute().parent)})
        except ValidationError as error:
            raise DataError(f"{path} describes no job: {error}") from error

    def forget(self) -> None:
        """Remove ``job.json``: nothing of this job runs any more."""
        self.path.unlink(missing_ok=True)

    @property
    def running_path(self) -> Path:
        """Names the trial, or the check, that is running, or was when the ranks died."""
        return self.folder / _named("running", self.group)

    @property
    def leave_path(self) -> Path:
        """Asks the ranks, while it exists, to leave: with a checkpoint, and the trial that runs left open."""
        return self.folder / _named("leave", self.group)

    def mark_running(self, name: str) -> None:
        """Say which trial, or check, is running."""
        write_atomically(self.running_path, name.encode())

    def running(self) -> str | None:
        """The trial, or check, that is running, or was when the ranks died; None before the first."""
        return self.running_path.read_text() if self.running_path.exists() else None

    def open_trials(self) -> list[str]:
        """The trials of this job that have not ended."""
        return [name for name in self.trials if exit_of(self.folder / name) is None]


def job_path(run_dir: Path, group: str) -> Path:
    """Where the job of a group of hosts is written."""
    return run_dir / _named("job", group, ".json")


def _named(stem: str, group: str, suffix: str = "") -> str:
    return f"{stem}-{group}{suffix}" if group else f"{stem}{suffix}"


def members(scale: Scale, *, ranks_per_host: int) -> list[int]:
    """The ranks of a job with so many on each host that make up a trial of ``scale``: the first of the first hosts."""
    places = product(range(scale.num_hosts), range(scale.ranks_per_host))
    return [node * ranks_per_host + local for node, local in places]


def network_path(run_dir: Path, group: str) -> Path:
    """Where a job on several hosts of a group writes how fast their network is."""
    return run_dir / _named("network", group, ".json")


def checks_path(run_dir: Path) -> Path:
    """Where the findings made before the first trial are."""
    return run_dir / "checks.json"


def read_checks(run_dir: Path) -> Checks | None:
    """What was found before the first trial of a run; None where nothing was checked.

    Raises: DataError if it is damaged.
    """
    path = checks_path(run_dir)
    try:
        return Checks.model_validate(read_versioned(path)) if path.exists() else None
    except ValidationError as error:
        raise DataError(f"{path} holds no findings: {error.errors()[0]['msg']}") from error


def stopping(findings: Iterable[Finding]) -> list[Finding]:
    """The failed checks that keep trials from being run; too few seeds only weaken what can be claimed."""
    return [finding for finding in findings if finding.status == "fail" and finding.check != ENOUGH_SEEDS]


def read_trial(trial_dir: Path) -> Trial:
    """The trial that ``trial.json`` describes.

    Raises: DataError if it is damaged.
    """
    fields = read_versioned(trial_dir / "trial.json")
    try:
        return Trial.model_validate({key: value for key, value in fields.items() if key not in ("id", "cell")})
    except ValidationError as error:
        raise DataError(f"{trial_dir / 'trial.json'} describes no trial: {error}") from error
