"""Several agents on this machine, each at a loopback address and with a run folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

from paceline.job import Job
from paceline.launch.local import ALLOCATOR
from paceline.records import write_json
from paceline.trial import Trial, as_json
from ranks import TESTS, free_port, wait_until_gone


class Agents:
    """The agents of one job of as many "hosts" as folders; use as a context: nothing outlives it."""

    def __init__(
        self,
        folder: Path,
        trials: list[Trial],
        *,
        num_hosts: int,
        ranks_per_host: int,
        heartbeat_timeout_s: float = 60,
        join_timeout_s: float = 120,
    ) -> None:
        self.folder = folder
        self.run_dirs = [folder / f"host{node}" for node in range(num_hosts)]
        for run_dir in self.run_dirs:
            for trial in trials:
                (run_dir / trial.id).mkdir(parents=True)
                write_json(run_dir / trial.id / "trial.json", as_json(trial))
            Job(
                run_dir=str(run_dir),
                trials=[trial.id for trial in trials],
                num_hosts=num_hosts,
                ranks_per_host=ranks_per_host,
                threads_per_rank=1,
                device="cpu",
                data_dir=None,
                heartbeat_timeout_s=heartbeat_timeout_s,
                join_timeout_s=join_timeout_s,
            ).write()

    def __enter__(self) -> Agents:
        environment = ALLOCATOR | os.environ | {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(TESTS),
            "PACELINE_PARENT_PID": str(os.getpid()),
        }  # fmt: skip
        endpoint, run_id = f"127.0.0.11:{free_port()}", uuid.uuid4().hex
        self.processes = []
        for node, run_dir in enumerate(self.run_dirs):
            # .11 and .9 are sorted otherwise as strings than as numbers: elastic numbers the hosts in reverse
            address = f"127.0.0.{11 - 2 * node}"
            options = ("--node", node, "--endpoint", endpoint, "--run-id", run_id, "--local-addr", address)
            with (run_dir / "agent.log").open("ab") as log:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "paceline.train.agent", run_dir / "job.json", *map(str, options)],
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                    )
                )
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert wait_until_gone(str(self.folder)) == [], "ranks outlived their agents"

    def wait(self, *, deadline_s: float) -> list[int]:
        """The exit codes of all agents."""
        deadline = time.monotonic() + deadline_s
        try:
            return [process.wait(max(0.1, deadline - time.monotonic())) for process in self.processes]
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"an agent still runs after {deadline_s} s\n{self.logs()}") from error

    def logs(self) -> str:
        """The end of what the agents wrote."""
        return "\n".join((run_dir / "agent.log").read_text()[-2000:] for run_dir in self.run_dirs)
