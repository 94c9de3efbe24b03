"""What ranks tell each other for one evaluation: gradients, and a few numbers of each rank.

Whoever decides, decides from numbers that came to every rank with the same bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.float64]
_PIECES = {torch.float32: 3, torch.float64: 1}  # that make up a float64 number


class Exchange(ABC):
    """One process and no other; the base of those that have peers.

    ``owned`` are the blocks whose history this rank keeps. ``num_collectives`` and ``bytes_sent`` count what
    evaluations and directions have sent from this rank. ``mark`` is called before and after each, for clocks,
    ``count`` with the bytes of each.
    """

    def __init__(self, group: dist.ProcessGroup | None, num_blocks: int) -> None:
        self.group = group
        self.world_size = 1 if group is None else dist.get_world_size(group)
        self.rank = 0 if group is None else dist.get_rank(group)
        self.owned = slice(0, num_blocks)
        self.num_collectives = self.bytes_sent = 0
        self.mark: Callable[[], None] = lambda: None
        self.count: Callable[[int], None] = lambda _: None

    @property
    def shares(self) -> bool:
        """Whether a rank holds the sum of the gradients of its own blocks only."""
        return False

    @abstractmethod
    def sum(self, gradient: Tensor, numbers: Sequence[float]) -> tuple[Tensor, Numbers]:
        """Add up gradients over ranks, and hand around each rank's numbers.

        Args:
            gradient: this rank's, shape (num_blocks, block_size); it may be what is returned.
        Returns: the sum for the blocks owned; the numbers of all ranks, shape (world_size, len(numbers)).
        """

    def gather_rows(self, rows: Numbers) -> Numbers:
        """Put together what ranks have computed of their blocks: from (owned, K) to (num_blocks, K)."""
        return rows

    def gather_vector(self, vector: Tensor) -> Tensor:
        """Put together a vector: from (owned, block_size) to (num_blocks, block_size)."""
        return vector

    def _count(self, num_bytes: int) -> None:
        self.num_collectives += 1
        self.bytes_sent += num_bytes
        self.count(num_bytes)


class Alone(Exchange):
    """Nothing is sent: one process, or closures whose result is the sum over ranks already."""

    def sum(self, gradient: Tensor, numbers: Sequence[float]) -> tuple[Tensor, Numbers]:
        """See the base class."""
        return gradient, np.array([numbers], dtype=np.float64)


class Replicated(Exchange):
    """Every rank keeps everything: one all-reduce an evaluation, in which the numbers ride."""

    def sum(self, gradient: Tensor, numbers: Sequence[float]) -> tuple[Tensor, Numbers]:
        """See the base class. A rank's numbers go into slots where the others have zeros."""
        pieces = _in_pieces(numbers, gradient)
        buffer = gradient.new_zeros(gradient.numel() + self.world_size * len(pieces))
        buffer[: gradient.numel()] = gradient.view(-1)
        slots = buffer[gradient.numel() :].view(self.world_size, len(pieces))
        slots[self.rank] = pieces
        self.mark()
        dist.all_reduce(buffer, group=self.group)
        self.mark()
        self._count(2 * (self.world_size - 1) * buffer.nbytes // self.world_size)
        return buffer[: gradient.numel()].view_as(gradient), _whole(slots)


class Sharded(Exchange):
    """Every rank keeps the history of its own blocks: a reduce-scatter and a small all-gather an evaluation."""

    def __init__(self, group: dist.ProcessGroup | None, num_blocks: int) -> None:
        super().__init__(group, num_blocks)
        share = num_blocks // self.world_size
        self.owned = slice(self.rank * share, (self.rank + 1) * share)

    @property
    def shares(self) -> bool:
        """See the base class."""
        return True

    def sum(self, gradient: Tensor, numbers: Sequence[float]) -> tuple[Tensor, Numbers]:
        """See the base class. By all-to-all and a local sum, which gloo does six times as fast as a reduce-scatter."""
        parts = gradient.view(self.world_size, gradient.numel() // self.world_size)
        pieces = _in_pieces(numbers, gradient)
        sends = torch.cat([parts, pieces.expand(self.world_size, -1)], dim=1)
        takes = torch.empty_like(sends)
        self.mark()
        dist.all_to_all_single(takes, sends, group=self.group)
        self.mark()
        self._count((self.world_size - 1) * sends.nbytes // self.world_size)
        total = takes[0, : parts.shape[1]].clone()
        for taken in takes[1:, : parts.shape[1]]:  # always in the order of ranks
            total += taken
        return total.view(len(gradient) // self.world_size, gradient.shape[1]), _whole(takes[:, parts.shape[1] :])

    def gather_rows(self, rows: Numbers) -> Numbers:
        """See the base class."""
        return self._gather(torch.from_numpy(np.ascontiguousarray(rows))).numpy()

    def gather_vector(self, vector: Tensor) -> Tensor:
        """See the base class."""
        return self._gather(vector)

    def _gather(self, own: Tensor) -> Tensor:
        self.mark()
        whole = gathered(own, self.group)
        self.mark()
        self._count((self.world_size - 1) * own.nbytes)
        return whole


def gathered(own: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """What all ranks have, one after the other along the first dimension. Off the books."""
    whole = own.new_empty(dist.get_world_size(group) * len(own), *own.shape[1:])
    dist.all_gather_into_tensor(whole, own.contiguous(), group=group)
    return whole


def agree(exchange: Exchange, what: Sequence[int], device: torch.device) -> list[int]:
    """The ranks, counted from 0, whose numbers differ from those of rank 0."""
    if exchange.world_size == 1:
        return []
    own = torch.tensor(what, dtype=torch.int64, device=device)
    whole = gathered(own, exchange.group)
    return [rank for rank, row in enumerate(whole.view(-1, len(own))) if not torch.equal(row, whole[: len(own)])]


def _in_pieces(numbers: Sequence[float], like: Tensor) -> Tensor:
    """Numbers as sums of numbers of a type, which a sum with zeros keeps to the bit; shape (pieces * len(numbers),)."""
    left = np.array(numbers, dtype=np.float64)
    if like.dtype == torch.float64:
        return torch.from_numpy(left).to(like.device)
    pieces = []
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(_PIECES[like.dtype]):
            pieces.append(left.astype(np.float32))
            left = np.where(np.isfinite(pieces[-1]), left - pieces[-1], 0.0)
    return torch.from_numpy(np.stack(pieces, axis=1).reshape(-1)).to(like.device)


def _whole(pieces: Tensor) -> Numbers:
    """Each rank's numbers again; shape (world_size, len(numbers))."""
    numbers: Numbers = pieces.double().cpu().numpy()
    whole: Numbers = numbers.reshape(len(numbers), -1, _PIECES[pieces.dtype])[:, :, ::-1].sum(axis=2)
    return whole
