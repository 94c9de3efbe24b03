"""Ranks vote, element by element, whether a parameter goes up or down: one bit an element each way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from paceline.strategies.base import COMPUTE
from paceline.strategies.flat import Flat


class SignSgd(Flat):
    """Gradients become 1 or -1, by the majority of the signs of the ranks' own gradients.

    Each rank counts the votes on its share of the elements: an all-to-all of votes, an all-gather of what was decided.
    The numbers beside the gradients ride with the votes, and are added up in the order of ranks. A rank has one vote,
    however many examples it has; one whose gradient is nothing but zeros, as without any example, has none. One bit has
    no word for zero: an element of gradient zero, and one where votes are tied, count as 1 and -1 in turn, from one
    evaluation to the next.
    Source: Bernstein et al. 2018, algorithm 3. Departs: no server; every rank does its part of what one would do.
    """

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401
        super().__init__(**arguments)
        self._share_bytes = -(-self.size // (8 * self.ranks.world_size))  # votes that a rank counts, in bytes
        self._turn = False  # what zero counts as

    def add_up(self, whole: Tensor) -> None:
        """See the base class."""
        gradient, beside = whole[: self.size], whole[self.size :]
        world_size = self.ranks.world_size
        self._turn = not self._turn
        votes = gradient >= 0 if self._turn else gradient > 0
        bits = functional.pad(votes, (0, 8 * self._share_bytes * world_size - self.size))
        told = torch.cat([beside.view(torch.uint8), gradient.any().view(1).to(torch.uint8)])
        rows = torch.cat([packed(bits).view(world_size, -1), told.expand(world_size, -1)], dim=1)
        taken = self.all_to_all(rows)
        ups, numbers, voters = torch.split(taken, [self._share_bytes, len(told) - 1, 1], dim=1)
        majority = 2 * (unpacked(ups) * voters).sum(0) - voters.sum()
        decided = majority >= 0 if self._turn else majority > 0
        signs = unpacked(self.all_gather(packed(decided)).view(-1))[: self.size]
        gradient.copy_(signs).mul_(2).sub_(1)
        beside.zero_()
        for row in numbers.clone(memory_format=torch.contiguous_format).view(self.dtype):
            beside += row
        self.mark(COMPUTE)

    def bytes_of_collectives(self) -> list[int]:
        """See the base class."""
        beside_bytes = self.num_beside * self.dtype.itemsize + 1
        to_each_other = [self._share_bytes + beside_bytes, self._share_bytes]
        return [(self.ranks.world_size - 1) * num_bytes for num_bytes in to_each_other]

    def state_dict(self) -> dict[str, Any]:
        """See the base class."""
        return {"turn": self._turn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See the base class."""
        self._turn = state["turn"]


def packed(bits: Tensor) -> Tensor:
    """Eight to a byte, the first one lowest: from bool of shape (8 n,) to bytes of shape (n,)."""
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (bits.view(-1, 8).to(torch.uint8) << places).sum(1, dtype=torch.uint8)


def unpacked(packed_bits: Tensor) -> Tensor:
    """The reverse of ``packed``, as bytes of 0 or 1: from shape (..., n) to (..., 8 n)."""
    places = torch.arange(8, dtype=torch.uint8, device=packed_bits.device)
    return (packed_bits.unsqueeze(-1) >> places & 1).flatten(-2)
