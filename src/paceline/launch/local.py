"""All ranks on this host: the agent is a child process in a session of its own, and dies with this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from paceline.errors import UsageError
from paceline.job import PARENT_VARIABLE, Job
from paceline.launch.base import cores_of_this_host
from paceline.study import Scale

# glibc gives memory back to the kernel at the end of each update and faults it in again in the next, unless told not to
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "33554432", "MALLOC_MMAP_THRESHOLD_": "33554432"}
GRACE_S = 5.0  # from asking to end until ending by force


class LocalLauncher:
    """Runs a job on this host."""

    def __init__(self) -> None:
        self._agent: subprocess.Popen[bytes] | None = None

    def check(self, scales: tuple[Scale, ...]) -> list[str]:
        """See ``Launcher``: one host only; more ranks than cores is remarked upon."""
        for scale in scales:
            if scale.num_hosts > 1:
                raise UsageError(f"scale {scale} needs {scale.num_hosts} hosts, and a local run has one; use 1xRANKS")
        cores, most = cores_of_this_host(), max(scale.ranks_per_host for scale in scales)
        return [f"{most} ranks share {cores} cores: their times measure contention"] if most > cores else []

    def start(self, job: Job) -> None:
        """See ``Launcher``. The number of threads is set before torch is loaded, the same for every rank."""
        threads = str(job.threads_per_rank)
        own = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, PARENT_VARIABLE: str(os.getpid())}
        logs = job.folder / "logs"
        logs.mkdir(exist_ok=True)
        with (logs / "agent.log").open("ab") as log:
            self._agent = subprocess.Popen(
                [sys.executable, "-m", "paceline.train.agent", str(job.path)],
                env=ALLOCATOR | os.environ | own,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """See ``Launcher``."""
        assert self._agent is not None
        return self._agent.poll()

    def stop(self) -> None:
        """See ``Launcher``. Ranks that do not heed their agent are killed by the kernel when it dies."""
        if self._agent is None or self._agent.poll() is not None:
            return
        self._agent.send_signal(signal.SIGTERM)
        try:
            self._agent.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._agent.kill()
            self._agent.wait()
