"""How long all-reduces take between hosts.

The ranks meet, one a host, as those of a run do, through torch elastic and gloo. The first writes what it measured to
its standard output as JSON. It ends with its standard input, and within a minute in any case.

This file is sent to hosts as it stands, which may not have paceline yet, hence torch and the standard library alone.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

SIZES = tuple(1024 * 4**power for power in range(8))  # bytes, 1 kB to 16 MB
TIME_A_SIZE_S = 0.15
MOST_REPEATS = 50
LONGEST_S = 3.0  # for one all-reduce; larger sizes are left out
MEETING_TIMEOUT_S = 40.0
COLLECTIVE_TIMEOUT_S = 20.0
DEADLINE_S = 60.0


def main() -> int:
    """Be one host's agent; returns the exit code."""
    _end_with_input()
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    parser = argparse.ArgumentParser(description="Time all-reduces between hosts.")
    parser.add_argument("--num-hosts", type=int, required=True)
    parser.add_argument("--endpoint", required=True, help="HOST:PORT where the first host listens")
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--local-addr", required=True)
    parser.add_argument("--interface", default="", help="network card that gloo uses")
    parser.add_argument("--is-host", type=int, choices=(0, 1), required=True)
    arguments = parser.parse_args()
    if arguments.interface:
        os.environ["GLOO_SOCKET_IFNAME"] = arguments.interface
    with tempfile.TemporaryDirectory(prefix="paceline-") as logs:
        try:
            results = elastic_launch(_config(arguments, logs), sweep)(os.getpid())
        except (ChildFailedError, RendezvousError) as error:
            sys.stderr.write(f"{_cause(error)}\n")
            return 1
    if 0 in results:
        sys.stdout.write(json.dumps(results[0]) + "\n")
    return 0


def _config(arguments: argparse.Namespace, logs: str) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=arguments.num_hosts,
        max_nodes=arguments.num_hosts,
        nproc_per_node=1,
        run_id=arguments.run_id,
        rdzv_backend="c10d",
        rdzv_endpoint=arguments.endpoint,
        rdzv_configs={
            "is_host": bool(arguments.is_host),
            "timeout": MEETING_TIMEOUT_S,
            "join_timeout": MEETING_TIMEOUT_S,
        },
        local_addr=arguments.local_addr,
        max_restarts=0,
        monitor_interval=0.05,
        start_method="fork",  # torch is loaded already
        logs_specs=DefaultLogsSpecs(log_dir=logs),
    )


def _end_with_input() -> None:
    """Leave at once when the standard input closes, or after ``DEADLINE_S``; the rank goes with its agent."""

    def wait_for_end() -> None:
        while os.read(0, 4096):  # not by sys.stdin, whose lock the forked rank would inherit, and wait for
            pass
        os._exit(1)

    threading.Thread(target=wait_for_end, daemon=True).start()
    deadline = threading.Timer(DEADLINE_S, os._exit, (1,))
    deadline.daemon = True
    deadline.start()


def _cause(error: ChildFailedError | RendezvousError) -> str:
    if isinstance(error, ChildFailedError):
        _, first = error.get_first_failure()
        message = first.message if isinstance(first.message, str) else str(first.message.get("message", ""))
        return message.strip().splitlines()[0] if message.strip() else f"exit code {first.exitcode}"
    return f"{type(error).__name__}: {error}"


@record
def sweep(agent: int) -> list[dict[str, float]]:
    """Meet the other ranks, and ``measure``.

    Args:
        agent: the process id of the parent, with which this one ends.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != agent:
        os._exit(1)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S))
    measured = measure()
    dist.monitored_barrier(timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S))
    dist.destroy_process_group()
    return measured


def measure(group: dist.ProcessGroup | None = None, device: torch.device | str = "cpu") -> list[dict[str, float]]:
    """The median seconds of all-reduces of float32, by size, as this rank saw them; every rank of ``group`` calls it.

    Args:
        group: the ranks that take part, rank 0 of all among them; all if left out.
    """
    tensors = [torch.zeros(size // 4, device=device) for size in SIZES]
    _once(tensors[0], group)  # connects
    expected_s = min(_once(tensors[0], group), LONGEST_S)
    measured = []
    for size, tensor in zip(SIZES, tensors, strict=True):
        repeats = torch.tensor([_repeats(expected_s)], device=device)
        dist.broadcast(repeats, src=0, group=group)
        if not repeats:
            break
        times = [_once(tensor, group) for _ in range(int(repeats))]
        measured.append({"bytes": size, "seconds": statistics.median(times), "repeats": len(times)})
        expected_s = 4 * measured[-1]["seconds"]
    return measured


def _repeats(expected_s: float) -> int:
    """How many all-reduces there is time for; none where a single one would take too long."""
    return 0 if expected_s > LONGEST_S else max(1, min(MOST_REPEATS, int(TIME_A_SIZE_S / max(expected_s, 1e-9))))


def _once(tensor: torch.Tensor, group: dist.ProcessGroup | None) -> float:
    began = time.perf_counter()
    dist.all_reduce(tensor, group=group)
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter() - began


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the interpreter's own end waits for threads of the rendezvous
