"""Process groups: which backend, which device, and how a warm job's ranks form the group of a trial."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

from paceline.errors import UsageError
from paceline.strategies.ranks import Ranks


def choose_device(wanted: str) -> torch.device:
    """The device of this rank: its own GPU where there is one and ``wanted`` admits it, else the CPU.

    Raises: UsageError if a GPU is wanted and there is none.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError("device = 'cuda', but torch sees no GPU here; use 'auto' or 'cpu'")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def backend_of(device: torch.device) -> str:
    """gloo for tensors on the CPU; NCCL beside it for those on a GPU."""
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def initialize(device: torch.device, *, timeout_s: float) -> c10d.Store:
    """Join the job's world through the store of the elastic agent; returns a store of this attempt.

    After an elastic restart the agent's store still holds the keys of the attempt before, hence the prefix.
    """
    _import_before_init()
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    tcp_store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        world_size,
        is_master=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and rank == 0,
        timeout=timedelta(seconds=timeout_s),
    )
    store = c10d.PrefixStore(f"attempt{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", tcp_store)
    dist.init_process_group(
        backend_of(device), store=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout_s)
    )
    return store


def _import_before_init() -> None:
    """DDP's constructor imports these lazily; done after init they capture the world group and keep its sockets."""
    import torch._dynamo
    import torch.distributed.nn  # noqa: F401


class Groups:
    """The groups of the first W ranks of the world, made once for each W. Every rank makes them in the same order."""

    def __init__(self, sizes: list[int], device: torch.device) -> None:
        self._device, self._backend = device, backend_of(device)
        world_size = dist.get_world_size()
        self._groups = {
            size: dist.group.WORLD if size == world_size else dist.new_group(list(range(size)))
            for size in sorted(set(sizes))
        }

    def ranks(self, size: int) -> Ranks:
        """This process's place in a trial of ``size`` ranks; only for the first ``size`` ranks."""
        return Ranks(
            rank=dist.get_rank(),
            world_size=size,
            group=self._groups[size],
            device=self._device,
            backend=self._backend,
        )
