"""All ranks on this host: a supervisor keeps their agent, and ends it and all its ranks when it is to end.

That is when this process dies, unless the run is detached.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from paceline.cluster import Cluster
from paceline.errors import PacelineError, UsageError
from paceline.job import Job
from paceline.launch import supervisor
from paceline.launch.base import cores_of_this_host
from paceline.study_tables import Scale

# glibc gives memory back to the kernel at the end of each update and faults it in again in the next, unless told not to
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "33554432", "MALLOC_MMAP_THRESHOLD_": "33554432"}
GRACE_S = 5.0  # from asking to end until ending by force
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
        return supervisor.runs(supervisor.read_state(_control(job)), job.id)

    def adopt(self, job: Job) -> bool:
        """See ``Launcher``."""
        self._detached = _control(job)
        if self.runs(job):
            return True
        self.stop()
        return False

    def poll(self) -> int | None:
        """See ``Launcher``."""
        if self._detached is None:
            assert self._supervisor is not None
            return self._supervisor.poll()
        state = supervisor.read_state(self._detached)
        if state is not None and state["status"] == "running":
            return None
        return 1 if state is None or state["exit_code"] is None else int(state["exit_code"])

    def stop(self) -> None:
        """See ``Launcher``."""
        if self._detached is not None:
            try:
                supervisor.stop(self._detached, now=False)
            except supervisor.SupervisorError as error:
                raise UsageError(f"the ranks cannot be stopped: {error}") from error
            self._detached = None
        if self._supervisor is not None:
            assert self._supervisor.stdin is not None
            if self._supervisor.poll() is None:
                self._supervisor.send_signal(signal.SIGTERM)
                self._supervisor.wait()
            self._supervisor.stdin.close()

    def last_words(self, job: Job) -> str:
        """See ``Launcher``."""
        logs = job.logs
        tail = "\n".join((logs / "agent.log").read_text(errors="replace").splitlines()[-15:])
        return f"see {logs}; the agent said last:\n{tail}"


def _control(job: Job) -> Path:
    return job.folder / CONTROL / "agent"
