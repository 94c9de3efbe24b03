"""The agent of one host: ``python -m paceline.train.agent JOB``; the only caller of torch elastic."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from paceline.job import Job
from paceline.train.worker import end_with_parent


def main() -> int:
    """Start the job's ranks, and start them anew after a trial that killed them; returns the exit code."""
    end_with_parent()
    job = Job.read(Path(sys.argv[1]))
    logs = job.folder / "logs"
    logs.mkdir(exist_ok=True)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=job.num_ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        rdzv_configs={"is_host": True},
        local_addr="127.0.0.1",
        max_restarts=len(job.trials) + 2,  # checks may kill ranks, too
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=Std.ALL),
    )
    try:
        elastic_launch(config, sys.executable)("-m", "paceline.train.worker", str(job.path))
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        sys.stderr.write(f"rank {rank} ended the job with exit code {first.exitcode}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
