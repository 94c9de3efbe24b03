"""Of all gradients, only the largest elements are told; what is not told is kept and added to the next ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from paceline.strategies.base import COMPUTE
from paceline.strategies.flat import Flat


class TopK(Flat):
    """Each rank tells ``num_sent`` elements and their places, of all parameters together; the sums are everyone's.

    One all-gather: the values, the numbers beside them, and the places as integers of the same width, in one row a
    rank. Rows are added up in the order of ranks.
    Source: Stich, Cordonnier and Jaggi 2018, algorithm 1. Departs: gradients are added to the memory before the
    optimizer scales them, so that any optimizer may follow.
    """

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401
        super().__init__(**arguments)
        self.num_sent = math.ceil(self.settings["density"] * self.size)
        self._untold = torch.zeros(self.size, dtype=self.dtype, device=self.ranks.device)
        self._dtype_of_places = torch.int32 if self.dtype == torch.float32 else torch.int64

    def add_up(self, whole: Tensor) -> None:
        """See the base class."""
        gradient, beside = whole[: self.size], whole[self.size :]
        self._untold += gradient
        places = torch.topk(self._untold.abs(), self.num_sent, sorted=False).indices
        values = self._untold[places]
        self._untold[places] = 0
        rows = self.all_gather(torch.cat([values, beside, places.to(self._dtype_of_places).view(self.dtype)]))
        whole.zero_()
        for row in rows:
            values, numbers, bits = torch.split(row, [self.num_sent, self.num_beside, self.num_sent])
            gradient.index_add_(0, bits.view(self._dtype_of_places), values)
            beside += numbers
        self.mark(COMPUTE)

    def bytes_of_collectives(self) -> list[int]:
        """See the base class: a value and its place are two elements."""
        return [(self.ranks.world_size - 1) * (2 * self.num_sent + self.num_beside) * self.dtype.itemsize]

    def state_dict(self) -> dict[str, Any]:
        """See the base class."""
        return {"untold": self._untold.to("cpu", copy=True)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See the base class."""
        self._untold.copy_(state["untold"])
