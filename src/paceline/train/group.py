"""Process groups: which backend, which device, and how a warm job's ranks form the group of a trial."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

from paceline.errors import UsageError
from paceline.job import members
from paceline.strategies.ranks import Ranks
from paceline.study_tables import Scale


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


def connect(*, timeout_s: float) -> c10d.Store:
    """The store of this attempt of the job. The rank that elastic calls 0 holds it, unless the agent does.

    The agent's store still holds the keys of the attempt before, hence the prefix.
    """
    agent_holds_it = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        int(os.environ["WORLD_SIZE"]),
        is_master=holds_store(),
        timeout=timedelta(seconds=timeout_s),
    )
    return c10d.PrefixStore(f"attempt{os.environ['TORCHELASTIC_RESTART_COUNT']}", store) if agent_holds_it else store


def holds_store() -> bool:
    """Whether the store of this attempt lives in this process."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and os.environ["RANK"] == "0"


def initialize(
    device: torch.device, *, timeout_s: float, store: c10d.Store | None = None, rank: int | None = None
) -> c10d.Store:
    """Join the job's world; returns the store of this attempt.

    Args:
        timeout_s: how long a collective may wait.
        store: what ``connect`` returned, if that was called already.
        rank: the number that the job gives to this process; else the one that elastic gave.
    """
    _import_before_init()
    store = connect(timeout_s=timeout_s) if store is None else store
    dist.init_process_group(
        backend_of(device),
        store=store,
        rank=int(os.environ["RANK"]) if rank is None else rank,
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=timedelta(seconds=timeout_s),
    )
    return store


def _import_before_init() -> None:
    """DDP's constructor imports these lazily; done after init they capture the world group and keep its sockets."""
    import torch._dynamo
    import torch.distributed.nn  # noqa: F401


class Groups:
    """A process group for each of some scales, and one of all ranks.

    Every rank makes them in the same order.
    """

    def __init__(self, scales: Iterable[Scale], device: torch.device, *, ranks_per_host: int) -> None:
        self._device, self._backend, self._ranks_per_host = device, backend_of(device), ranks_per_host
        self._whole = Scale(num_hosts=dist.get_world_size() // ranks_per_host, ranks_per_host=ranks_per_host)
        self._groups = {
            scale: dist.group.WORLD if scale == self._whole else dist.new_group(self._members(scale))
            for scale in sorted({*scales, self._whole}, key=lambda scale: (scale.num_hosts, scale.ranks_per_host))
        }

    @property
    def world(self) -> Ranks:
        """All ranks of the job."""
        return self.ranks(self._whole)

    def has_part(self, scale: Scale) -> bool:
        """Whether this process takes part in a trial of this scale."""
        return dist.get_rank() in self._members(scale)

    def ranks(self, scale: Scale) -> Ranks:
        """This process's place in a trial of this scale; only where it has part in it."""
        return Ranks(
            rank=self._members(scale).index(dist.get_rank()),
            world_size=scale.num_ranks,
            group=self._groups[scale],
            device=self._device,
            backend=self._backend,
        )

    def _members(self, scale: Scale) -> list[int]:
        return members(scale, ranks_per_host=self._ranks_per_host)
