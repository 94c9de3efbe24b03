"""The agent of one host; the only caller of torch elastic.

``python -m paceline.train.agent JOB [--node N --endpoint HOST:PORT --run-id ID --local-addr ADDRESS]``. Without
options the job has this host only. With them, an agent for each host is started so, with the same endpoint, at an
address of host 0, and the same id, both of them new for every job; the address is this host's, as the others reach it.
Hosts that share the run folder keep their logs apart by ``--logs FOLDER``.
"""

from __future__ import annotations

import argparse
import ipaddress
import math
import os
import socket
import sys
import uuid
from pathlib import Path

import psutil
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from paceline.job import NODE_VARIABLE, RANKS_FILE, Job
from paceline.records import write_json
from paceline.train import failure
from paceline.train.leave import STOP_TIMEOUT_S, pass_on
from paceline.train.worker import end_with_parent


def main() -> int:
    """Start the job's ranks, and start them anew after a trial that killed them; returns the exit code."""
    end_with_parent()
    asked = _arguments()
    job = Job.read(asked.job)
    logs = asked.logs or job.logs
    logs.mkdir(parents=True, exist_ok=True)
    first = asked.node * job.ranks_per_host
    write_json(logs / RANKS_FILE, list(range(first, first + job.ranks_per_host)))
    for rank in range(job.num_ranks):
        failure.forget(job.logs, rank)
    job.running_path.unlink(missing_ok=True)  # what ran when another agent was ended, not killed by its trial
    pass_on()
    os.environ[NODE_VARIABLE] = str(asked.node)
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # else all ranks hang on the store of one agent for good
    if card := _network_card(asked.local_addr):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", card)  # else gloo takes the one that the host's name resolves to
        os.environ.setdefault("NCCL_SOCKET_IFNAME", card)
    try:
        elastic_launch(_config(job, asked, logs), sys.executable)("-m", "paceline.train.worker", str(job.path))
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        sys.stderr.write(f"rank {rank} ended the job with exit code {first.exitcode}\n")
        return 1
    except RendezvousError as error:
        sys.stderr.write(f"{job.num_hosts} hosts did not come together: {error}\n")
        return 1
    except SignalException as error:
        sys.stderr.write(f"ended by {error.sigval.name}\n{failure.words_in(job.logs)}")
        return 128 + error.sigval
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m paceline.train.agent")
    parser.add_argument("job", type=Path)
    parser.add_argument("--node", type=int, default=0)
    parser.add_argument("--endpoint", default="127.0.0.1:0")
    parser.add_argument("--run-id", default=uuid.uuid4().hex)
    parser.add_argument("--local-addr", default="127.0.0.1")
    parser.add_argument("--logs", type=Path)
    return parser.parse_args()


def _config(job: Job, asked: argparse.Namespace, logs: Path) -> LaunchConfig:
    config = LaunchConfig(
        min_nodes=job.num_hosts,
        max_nodes=job.num_hosts,
        nproc_per_node=job.ranks_per_host,
        run_id=asked.run_id,
        rdzv_backend="c10d",
        rdzv_endpoint=asked.endpoint,
        rdzv_configs={"is_host": asked.node == 0, "join_timeout": math.ceil(job.join_timeout_s)},
        local_addr=asked.local_addr,
        max_restarts=(job.retries + 1) * len(job.trials) + 2,  # checks may kill ranks, too
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=Std.ALL),
    )
    config.shutdown_timeout = STOP_TIMEOUT_S  # older versions of torch do not heed it, and wait for half a minute
    return config


def _network_card(address: str) -> str | None:
    """The name of the network card that has an address of this host; None where none has."""
    wanted = ipaddress.ip_address(socket.gethostbyname(address))
    for name, addresses in psutil.net_if_addrs().items():
        for own in addresses:
            if own.family == socket.AF_INET and own.netmask is not None:
                card = ipaddress.ip_interface(f"{own.address}/{own.netmask}")
                if wanted == card.ip or (wanted.is_loopback and wanted in card.network):
                    return name
    return None


if __name__ == "__main__":
    sys.exit(main())
