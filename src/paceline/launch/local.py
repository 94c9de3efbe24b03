"""All ranks on this host: a supervisor keeps their agent, and ends it and all its ranks when it is to end.

That is when this process dies, unless the run is detached.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from paceline.cluster import Cluster
from paceline.errors import DataError, PacelineError, UsageError
from paceline.job import Job
from paceline.launch import supervisor
from paceline.launch.base import cores_of_this_host
from paceline.study_tables import Scale

# glibc gives memory back to the kernel at the end of each update and faults it in again in the next, unless told not to
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "33554432", "MALLOC_MMAP_THRESHOLD_": "33554432"}
GRACE_S = 5.0  # from asking to end until ending by force
NUM_LINES = 15  # of what an agent said last
CONTROL = "control"  # where in a run folder it is kept who runs what


def thread_settings(job: Job) -> dict[str, str]:
    """What agents find in their environment, so that libraries start no more threads than a rank is to have."""
    threads = str(job.threads_per_rank)
    return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}


class LocalLauncher:
    """Runs a job on this host, which needs no settings."""

    def __init__(self, _cluster: Cluster) -> None:
        self._supervisor: subprocess.Popen[bytes] | None = None  # of a job that ends with this process
        self._detached: Path | None = None  # the control folder of a job that does not
        self._tethered: Path | None = None  # that of one that does
        self._code: int | None = None

    @property
    def num_cores(self) -> int:
        """See ``Launcher``."""
        return cores_of_this_host()

    def check(self, scales: tuple[Scale, ...]) -> list[str]:
        """See ``Launcher``: one host only; more ranks than cores is remarked upon."""
        for scale in scales:
            if scale.num_hosts > 1:
                raise UsageError(f"scale {scale} needs {scale.num_hosts} hosts, and a local run has one; use 1xRANKS")
        cores, most = cores_of_this_host(), max(scale.ranks_per_host for scale in scales)
        return [f"{most} ranks share {cores} cores: their times measure contention"] if most > cores else []

    def start(self, job: Job, *, detached: bool = False) -> None:
        """See ``Launcher``. The number of threads is set before torch is loaded, the same for every rank.

        Raises: PacelineError if a detached job cannot be started.
        """
        log = job.logs / "agent.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as said:
            said.write(_first_line(job))
        options = ["--grace", str(GRACE_S), "--log", str(log), *["--detach"] * detached]
        command = [
            *(sys.executable, "-m", "paceline.launch.supervisor", "start", str(_control(job)), *options),
            *("--", sys.executable, "-m", "paceline.train.agent", str(job.path), "--run-id", job.id),
        ]
        environment = ALLOCATOR | os.environ | thread_settings(job)
        if detached:
            done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            if done.returncode:
                raise PacelineError(f"the ranks cannot be started: {done.stderr.decode(errors='replace').strip()}")
            self._detached = _control(job)
            return
        self._tethered = _control(job)
        with log.open("ab") as said:
            self._supervisor = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,  # closes when this process dies, however it does
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def runs(self, job: Job) -> bool:
        """See ``Launcher``."""
        return supervisor.runs(state_of(_control(job)), job.id)

    def adopt(self, job: Job) -> bool:
        """See ``Launcher``."""
        self._detached = _control(job)
        if self.runs(job):
            return True
        self.stop()
        return False

    def poll(self) -> int | None:
        """See ``Launcher``."""
        if self._detached is not None:
            state = state_of(self._detached)
            if state is not None and state["status"] == "running":
                return None
            self._code = 1 if state is None or state["exit_code"] is None else int(state["exit_code"])
        elif self._supervisor is not None:
            self._code = self._supervisor.poll()
        return self._code

    def stop(self) -> None:
        """See ``Launcher``."""
        if self._detached is not None:
            _stop(self._detached)
            self._detached = None
        if self._supervisor is not None:
            assert self._supervisor.stdin is not None
            if self._supervisor.poll() is None:
                self._supervisor.send_signal(signal.SIGTERM)
                self._supervisor.wait()
            self._supervisor.stdin.close()
            if self._supervisor.returncode < 0 and self._tethered is not None:  # one keeper was killed, the other ends
                _stop(self._tethered)

    def last_words(self, job: Job) -> str:
        """See ``Launcher``."""
        said = (job.logs / "agent.log").read_bytes().rpartition(_first_line(job))[2].decode(errors="replace")
        last = "\n".join(said.splitlines()[-NUM_LINES:])
        return f"see {job.logs}; {_how(self._code)}, {'and said last:' if last else 'without a word'}\n{last}".strip()


def _stop(control: Path) -> None:
    """End what runs in a control folder, and wait until nothing is left of it."""
    try:
        supervisor.stop(control, now=False)
    except supervisor.SupervisorError as error:
        raise UsageError(f"the ranks cannot be stopped: {error}") from error


def _first_line(job: Job) -> bytes:
    """Parts what the agents of later jobs say from what those of earlier ones said."""
    return f"job {job.id}\n".encode()


def _how(code: int | None) -> str:
    """How the agent ended, by the exit code of what keeps it."""
    number = -code if code is not None and code < 0 else (code or 0) - 128
    if number in set(signal.Signals):
        return f"the agent, or what keeps it, was ended by {signal.Signals(number).name}"
    return f"the agent ended with code {code}"


def state_of(folder: Path) -> dict[str, Any] | None:
    """As ``supervisor.read_state``.

    Raises: DataError if the file is damaged.
    """
    try:
        return supervisor.read_state(folder)
    except supervisor.SupervisorError as error:
        raise DataError(str(error)) from error


def _control(job: Job) -> Path:
    return job.folder / CONTROL / "agent"
