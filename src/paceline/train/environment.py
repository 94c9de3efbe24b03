"""What a rank can say of itself: processor, threads, versions, memory."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from paceline.records import Start
from paceline.strategies.ranks import Ranks
from paceline.train.chance import chance_level
from paceline.trial import Trial
from paceline.workloads.base import Workload


def start_record(
    trial: Trial,
    workload: Workload,
    ranks: Ranks,
    model: nn.Module,
    *,
    initial_parameters_digest: str,
    startup_s: float,
    continues: str = "",
    num_epochs_before: int = 0,
) -> Start:
    """The record with which a rank begins a trial, or goes on."""
    return Start(
        trial=trial.id,
        rank=ranks.rank,
        world_size=ranks.world_size,
        host=platform.node(),
        pid=os.getpid(),
        device=_device_name(ranks.device),
        backend=ranks.backend,
        num_threads=torch.get_num_threads(),
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
        torch_version=torch.__version__,
        python_version=platform.python_version(),
        processor=_processor(),
        num_cores=os.cpu_count() or 1,
        affinity=sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_examples=workload.num_examples,
        chance=chance_level(workload) if ranks.rank == 0 else {},
        initial_parameters_digest=initial_parameters_digest,
        startup_s=startup_s,
        continues=continues,
        num_epochs_before=num_epochs_before,
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@functools.cache
def _processor() -> str:
    """The processor's name where the system tells it, else its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def reset_peak_memory(device: torch.device) -> None:
    """Let ``peak_memory_bytes`` start anew from what is in use, where the system can (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # of glibc, which keeps what was freed below something that was not
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that this process held: of the GPU on a GPU, else its resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
