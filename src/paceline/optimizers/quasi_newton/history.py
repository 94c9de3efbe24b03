"""The pairs (s, y) of L-BFGS, and a direction from scalar products of them alone.

A rank keeps rows of the blocks that it owns. All else is small and in float64: the same numbers on every rank.
Byrd, Nocedal and Schnabel 1994 (compact representation); Chen, Wang and Zhou 2014 (coefficients instead of vectors).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.float64]


class History:
    """Up to ``size`` pairs. Rows 2i and 2i + 1 of a block hold s and y of slot i; the oldest slot is written over.

    Shapes, for n blocks owned of B elements and k pairs: the rows of a block (2k, B); ``sy`` and ``yy``, the products
    of all pairs, (k, k), oldest first, of ``sy`` the upper triangle only.
    """

    def __init__(
        self, size: int, num_blocks: int, block_size: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.size = size
        self._rows = torch.empty(num_blocks, 2 * size, block_size, dtype=dtype, device=device)
        self.clear()

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def num_bytes(self) -> int:
        """What the rows take on this rank once all slots are used."""
        return self._rows.nbytes

    def clear(self) -> None:
        """Forget all pairs."""
        self._slots: list[int] = []  # oldest first
        self._blocks: list[Tensor] = []
        self._transposed: list[Tensor] = []
        self.sy, self.yy = np.zeros((0, 0)), np.zeros((0, 0))

    def products(self, vector: Tensor) -> Numbers:
        """For each block owned, the products of its rows with a vector's block; shape (n, 2k).

        Args:
            vector: shape (n, B).
        """
        out = torch.empty(len(vector), 2 * len(self), dtype=vector.dtype, device=vector.device)
        if len(self):
            for rows, block, place in zip(self._blocks, vector, out, strict=True):
                torch.mv(rows, block, out=place)
        return out.double().cpu().numpy()

    def by_age(self, products: Numbers) -> tuple[Numbers, Numbers]:
        """Products summed over blocks, shape (2k,), as those with s and those with y, oldest first; shapes (k,)."""
        pairs = products.reshape(-1, 2)[self._slots]
        return pairs[:, 0], pairs[:, 1]

    def append(
        self, direction: Tensor, t: float, y: Tensor, *, sy: float, yy: float, with_y: tuple[Numbers, Numbers]
    ) -> int:
        """Add the pair of s = ``t`` directions and y, in place of the oldest where all slots are taken.

        Args:
            direction, y: shape (n, B).
            sy, yy: their products.
            with_y: products of y with the s and the y that are here, oldest first.
        Returns: its slot.
        """
        s_y, y_y = with_y
        if len(self) == self.size:
            slot = self._slots.pop(0)
            s_y, y_y, self.sy, self.yy = s_y[1:], y_y[1:], self.sy[1:, 1:], self.yy[1:, 1:]
        else:
            slot = len(self)
        self._slots.append(slot)
        torch.mul(direction, t, out=self._rows[:, 2 * slot])
        self._rows[:, 2 * slot + 1] = y
        if len(self._blocks) == 0 or len(self._blocks[0]) != 2 * len(self):
            self._look()
        self.sy = _bordered(self.sy, s_y, np.zeros_like(s_y), sy)
        self.yy = _bordered(self.yy, y_y, y_y, yy)
        return slot

    def coefficients(self, with_gradient: tuple[Numbers, Numbers]) -> tuple[float, Numbers]:
        """The direction -H g as ``scale * g`` plus a combination of the rows.

        Args:
            with_gradient: products of g with s and with y, oldest first.
        Returns: scale, and a coefficient for each row in the order of slots; shape (2k,).
        """
        if not len(self):
            return -1.0, np.zeros(0)
        s_g, y_g = with_gradient
        gamma = float(self.sy[-1, -1] / self.yy[-1, -1])
        p = _solve_upper(self.sy, s_g)
        q = _solve_lower(self.sy.T, np.diag(self.sy) * p + gamma * (self.yy @ p) - gamma * y_g)
        out = np.zeros((len(self), 2))
        out[self._slots, 0], out[self._slots, 1] = -q, gamma * p
        return -gamma, out.reshape(-1)

    def combine(self, scale: float, coefficients: Numbers, vector: Tensor) -> Tensor:
        """``scale * vector`` plus the rows by their coefficients; shape (n, B)."""
        out = vector * scale
        if len(self):
            weights = torch.from_numpy(coefficients).to(vector)
            for rows, place in zip(self._transposed, out, strict=True):
                torch.addmv(place, rows, weights, out=place)
        return out

    def state(self) -> dict[str, Any]:
        """The pairs of the blocks owned, their slots from the oldest on, and their products; rows: (2k, n * B)."""
        num_blocks, _, block_size = self._rows.shape
        rows = self._rows[:, : 2 * len(self)].transpose(0, 1).reshape(2 * len(self), num_blocks * block_size)
        return {
            "rows": rows,
            "slots": list(self._slots),
            "sy": torch.from_numpy(self.sy.copy()),
            "yy": torch.from_numpy(self.yy.copy()),
        }

    def restore(self, rows: Tensor, slots: Sequence[int], sy: Tensor, yy: Tensor) -> None:
        """What ``state`` gave, for the blocks owned; only the newest pairs where there is no room for all."""
        self.clear()
        if len(slots) > self.size:
            kept = slots[-self.size :]
            rows = rows[[row for slot in kept for row in (2 * slot, 2 * slot + 1)]]
            slots = range(self.size)
        if not slots:
            return
        self._slots = list(slots)
        num_blocks, _, block_size = self._rows.shape
        self._rows[:, : len(rows)] = rows.reshape(len(rows), num_blocks, block_size).transpose(0, 1)
        self._look()
        newest = slice(-len(slots), None)
        self.sy, self.yy = (one.cpu().double().numpy()[newest, newest].copy() for one in (sy, yy))

    def _look(self) -> None:
        """Views of the rows in use, block by block: made once, for they cost more than small products."""
        self._blocks = list(self._rows[:, : 2 * len(self)])
        self._transposed = [rows.t() for rows in self._blocks]


def _bordered(matrix: Numbers, column: Numbers, row: Numbers, corner: float) -> Numbers:
    """A matrix with one more column and row."""
    out = np.empty((len(column) + 1, len(column) + 1))
    out[:-1, :-1], out[:-1, -1], out[-1, :-1], out[-1, -1] = matrix, column, row, corner
    return out


def _solve_upper(matrix: Numbers, right: Numbers) -> Numbers:
    """By substitution, in an order that no library may change."""
    out = np.zeros_like(right)
    for row in reversed(range(len(right))):
        out[row] = (right[row] - matrix[row, row + 1 :] @ out[row + 1 :]) / matrix[row, row]
    return out


def _solve_lower(matrix: Numbers, right: Numbers) -> Numbers:
    out = np.zeros_like(right)
    for row in range(len(right)):
        out[row] = (right[row] - matrix[row, :row] @ out[:row]) / matrix[row, row]
    return out
