"""The ranks of one trial: who they are, how they add up numbers, and what they sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from paceline.errors import PacelineError

T = TypeVar("T")


@dataclass(kw_only=True)
class Traffic:
    """What this rank has sent for the sake of updates: bytes by the formula of the algorithm, and collectives."""

    bytes_sent: int = 0
    num_collectives: int = 0

    def count(self, num_bytes: int) -> None:
        """A collective that sends so much from this rank."""
        self.num_collectives += 1
        self.bytes_sent += num_bytes

    def count_all_reduce(self, payload_bytes: int, world_size: int) -> None:
        """A ring all-reduce sends 2 (W - 1) / W of its payload from each rank."""
        self.count(2 * (world_size - 1) * payload_bytes // world_size)

    def count_all_gather(self, payload_bytes: int, world_size: int) -> None:
        """A ring all-gather passes on what every other rank gives."""
        self.count((world_size - 1) * payload_bytes)

    def count_broadcast(self, payload_bytes: int) -> None:
        """A pipelined broadcast passes its payload through each rank once."""
        self.count(payload_bytes)


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's place in a trial. One process alone is ``world_size == 1`` and may have no group."""

    rank: int = 0
    world_size: int = 1
    group: dist.ProcessGroup | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    backend: str = "none"
    traffic: Traffic = field(default_factory=Traffic)

    def sum(self, values: Tensor) -> Tensor:
        """Add up a tensor over ranks, in place; the result has the same bits on every rank. Off the books."""
        if self.world_size > 1:
            dist.all_reduce(values, op=dist.ReduceOp.SUM, group=self.group)
        return values

    def maximum(self, values: Tensor) -> Tensor:
        """The largest value over ranks, in place, element by element. Off the books."""
        if self.world_size > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self.group)
        return values

    def from_first(self, value: Callable[[], T]) -> T:
        """What ``value`` gives on rank 0, which alone may have the files for it; its error, too. Off the books."""
        answer: list[Any] = [None, None]
        if self.rank == 0:
            try:
                answer[0] = value()
            except PacelineError as error:
                answer[1] = error
        if self.world_size > 1:
            dist.broadcast_object_list(answer, group=self.group, group_src=0)
        if answer[1] is not None:
            raise answer[1]
        return cast("T", answer[0])

    def gather(self, value: T) -> list[T] | None:
        """What every rank has, in their order, on rank 0, which waits for all; None on the others. Off the books."""
        if self.world_size == 1:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.rank == 0 else None
        dist.gather_object(value, values, group=self.group, group_dst=0)
        return values

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.world_size > 1:
            dist.barrier(group=self.group)
