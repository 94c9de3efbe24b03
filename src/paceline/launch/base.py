"""What every launcher offers: start a job's ranks somewhere, say whether they still run, end them."""

from __future__ import annotations

from typing import Protocol

from paceline.job import Job
from paceline.study_tables import Scale


class Launcher(Protocol):
    """Starts the agents of one job at a time; made of a ``Cluster``."""

    @property
    def num_cores(self) -> int:
        """Cores for the ranks of each host; known once ``check`` was called."""

    def check(self, scales: tuple[Scale, ...]) -> list[str]:
        """Remarks on what would spoil a measurement here.

        Raises: UsageError if a scale cannot be run here at all.
        """

    def start(self, job: Job, *, detached: bool = False) -> None:
        """Start the job's agents, and see to it that they end with this process unless ``detached``."""

    def runs(self, job: Job) -> bool:
        """Whether a job runs that another process has started, all of it; changes nothing.

        Raises: UnreachableError if nobody can tell.
        """

    def adopt(self, job: Job) -> bool:
        """Take charge of a job that a process which is gone has started; False if it does not run any more.

        What it has written until then is collected either way, and what still runs of it is ended where not all does.
        Raises: UnreachableError if nobody can tell.
        """

    def poll(self) -> int | None:
        """The job's exit code, None while it runs."""

    def stop(self) -> None:
        """End the job and all its ranks.

        Raises: PacelineError if some of them may go on; it can be called again.
        """

    def last_words(self, job: Job) -> str:
        """Why the job ended with trials undone, in words."""


def cores_of_this_host() -> int:
    """Cores that this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
