"""All ranks on this host: a supervisor keeps their agent, and ends it and all its ranks when this process dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from paceline.cluster import Cluster
from paceline.errors import UsageError
from paceline.job import Job
from paceline.launch.base import cores_of_this_host
from paceline.study import Scale

# glibc gives memory back to the kernel at the end of each update and faults it in again in the next, unless told not to
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "33554432", "MALLOC_MMAP_THRESHOLD_": "33554432"}
GRACE_S = 5.0  # from asking to end until ending by force
CONTROL = "control"  # where in a run folder it is kept who runs what


class LocalLauncher:
    """Runs a job on this host, which needs no settings."""

    def __init__(self, _cluster: Cluster) -> None:
        self._supervisor: subprocess.Popen[bytes] | None = None

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

    def start(self, job: Job, *, detached: bool = False) -> None:  # noqa: ARG002
        """See ``Launcher``. The number of threads is set before torch is loaded, the same for every rank."""
        threads = str(job.threads_per_rank)
        logs = job.logs
        logs.mkdir(parents=True, exist_ok=True)
        with (logs / "agent.log").open("ab") as log:
            self._supervisor = subprocess.Popen(
                [
                    *(sys.executable, "-m", "paceline.launch.supervisor"),
                    *("start", str(job.folder / CONTROL / "agent"), "--grace", str(GRACE_S)),
                    *("--", sys.executable, "-m", "paceline.train.agent", str(job.path)),
                ],
                env=ALLOCATOR | os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
                stdin=subprocess.PIPE,  # closes when this process dies, however it does
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def adopt(self, job: Job) -> bool:  # noqa: ARG002
        """See ``Launcher``."""
        return False

    def poll(self) -> int | None:
        """See ``Launcher``."""
        assert self._supervisor is not None
        return self._supervisor.poll()

    def stop(self) -> None:
        """See ``Launcher``."""
        if self._supervisor is None:
            return
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
