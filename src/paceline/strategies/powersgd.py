"""Gradients of matrices are told as products of two thin ones; what these miss is kept and added to the next ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paceline.strategies.base import COMPUTE
from paceline.strategies.flat import Flat
from paceline.strategies.ranks import Traffic
from paceline.strategies.vector import joined, put_back


@dataclass(frozen=True, kw_only=True)
class _Matrix:
    """Where a parameter lies in the buffer, as a matrix of its first dimension by all others, told by ``rank``."""

    place: slice
    num_rows: int
    num_columns: int
    rank: int

    def of(self, vector: Tensor) -> Tensor:
        """Its part of a vector of all parameters; shape (num_rows, num_columns)."""
        return vector[self.place].view(self.num_rows, self.num_columns)


class PowerSgd(Flat):
    """One step of subspace iteration an evaluation, from where the last one ended; warm start and error feedback.

    Two all-reduces: of M Q, with all that is not worth compressing and the numbers beside the gradients, and of
    M' P, where P is an orthonormal basis of M Q. Evaluations before ``start`` are not compressed. All ranks multiply
    P and Q out alike, to the bit if their processors are alike.
    Source: Vogels, Karimireddy and Jaggi 2019, algorithms 1 and 2. Departs: ranks contribute to a sum, not to a mean;
    P comes from a QR decomposition, which gives a basis for zeros, too; parameters that would not become smaller are
    told as they are. Not torch's ``powerSGD_hook``: that feeds back errors of what it does not compress, the loss
    included, sends thrice, and takes the CPU for a GPU on hosts that have one.
    """

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401
        super().__init__(**arguments)
        self._matrices, self._plain = self._divided(self.settings["rank"])
        self._num_evaluations = 0
        self._untold = torch.zeros(self.size, dtype=self.dtype, device=self.ranks.device)
        generator = torch.Generator().manual_seed(0)  # the same Q on every rank
        self._qs = [
            torch.randn(one.num_columns, one.rank, generator=generator).to(self._untold) for one in self._matrices
        ]

    def _divided(self, most: int) -> tuple[list[_Matrix], list[slice]]:
        """The parameters that are compressed, to a rank of at most ``most``, and the places of the others."""
        matrices, plain, start = [], [], 0
        for parameter in self.with_gradients:
            place = slice(start, start + parameter.numel())
            num_rows = len(parameter) if parameter.ndim else 1
            num_columns = parameter.numel() // max(1, num_rows)
            rank = min(num_rows, num_columns, most)
            if rank * (num_rows + num_columns) < parameter.numel():
                matrices.append(_Matrix(place=place, num_rows=num_rows, num_columns=num_columns, rank=rank))
            else:
                plain.append(place)
            start = place.stop
        return matrices, plain

    def add_up(self, whole: Tensor) -> None:
        """See the base class."""
        self._num_evaluations += 1
        if self._num_evaluations <= self.settings["start"] or not self._matrices:
            super().add_up(whole)
            return
        gradient = whole[: self.size]
        gradient += self._untold
        matrices = [one.of(gradient) for one in self._matrices]
        plain = [*(gradient[place] for place in self._plain), whole[self.size :]]
        ps = [matrix @ q for matrix, q in zip(matrices, self._qs, strict=True)]
        self._add_up_together([*plain, *ps])
        ps = [torch.linalg.qr(p).Q for p in ps]
        self._qs = [matrix.T @ p for matrix, p in zip(matrices, ps, strict=True)]
        self._add_up_together(self._qs)
        for one, matrix, p, q in zip(self._matrices, matrices, ps, self._qs, strict=True):
            total = p @ q.T
            one.of(self._untold).copy_(matrix - total / self.ranks.world_size)
            matrix.copy_(total)
        self.mark(COMPUTE)

    def _add_up_together(self, tensors: list[Tensor]) -> None:
        """Add up several tensors over ranks, in place, by one all-reduce."""
        together = joined(tensors)
        self.all_reduce(together)
        put_back(together, tensors)

    def bytes_of_collectives(self) -> list[int]:
        """See the base class: where there is compression."""
        num_plain = sum(place.stop - place.start for place in self._plain) + self.num_beside
        num_p = sum(one.rank * one.num_rows for one in self._matrices)
        num_q = sum(one.rank * one.num_columns for one in self._matrices)
        return [self.bytes_of_all_reduce(num_plain + num_p), self.bytes_of_all_reduce(num_q)]

    def expected_traffic(self, num_updates: int) -> Traffic:
        """See the base class."""
        num_whole = min(self.settings["start"], num_updates) if self._matrices else num_updates
        if self.ranks.world_size == 1:
            return Traffic()
        compressed = self.bytes_of_collectives()
        return Traffic(
            bytes_sent=num_whole * sum(super().bytes_of_collectives()) + (num_updates - num_whole) * sum(compressed),
            num_collectives=num_whole + (num_updates - num_whole) * len(compressed),
        )

    def state_dict(self) -> dict[str, Any]:
        """See the base class."""
        return {
            "num_evaluations": self._num_evaluations,
            "untold": self._untold.to("cpu", copy=True),
            "qs": [q.to("cpu", copy=True) for q in self._qs],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See the base class."""
        self._num_evaluations = state["num_evaluations"]
        self._untold.copy_(state["untold"])
        self._qs = [q.to(self._untold, copy=True) for q in state["qs"]]
