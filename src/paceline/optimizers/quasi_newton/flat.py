"""Parameters as one vector of equal blocks: what is computed block by block has the same bits with any thread count."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK_SIZE = 65536  # elements; a pair of blocks stays in a core's cache


class Flat:
    """How parameters lie in a vector of ``num_blocks`` rows of ``block_size`` elements, the last ones padded with 0.

    Shapes: a whole vector is (num_blocks, block_size). The number of blocks is a power of two, or the next multiple of
    ``num_shares``, the number of ranks among whom blocks are shared out. Lower precision than float32 is kept in
    float32.
    Raises: ValueError for parameters that are complex, sparse, frozen or on several devices, or where there is none.
    """

    def __init__(self, parameters: Sequence[Tensor], *, num_shares: int) -> None:
        self.parameters = list(parameters)
        _refuse(self.parameters)
        self.size = sum(parameter.numel() for parameter in self.parameters)
        is_double = any(parameter.dtype == torch.float64 for parameter in self.parameters)
        self.dtype = torch.float64 if is_double else torch.float32
        self.device = self.parameters[0].device
        wanted = 1 << (-(-self.size // BLOCK_SIZE) - 1).bit_length()
        self.num_blocks = -(-wanted // num_shares) * num_shares
        self.block_size = -(-self.size // (16 * self.num_blocks)) * 16
        padding = self.num_blocks * self.block_size - self.size
        self._shapes = [parameter.shape for parameter in self.parameters]
        self._sizes = [*(parameter.numel() for parameter in self.parameters), padding]

    def zeros(self) -> Tensor:
        """A whole vector of zeros."""
        return torch.zeros(self.num_blocks, self.block_size, dtype=self.dtype, device=self.device)

    def blank(self) -> Tensor:
        """A whole vector for parameters to be written to; only its padding is zero already."""
        out = torch.empty(self.num_blocks, self.block_size, dtype=self.dtype, device=self.device)
        out.view(-1)[self.size :] = 0
        return out

    def views(self, vector: Tensor) -> list[Tensor]:
        """The parts of a whole vector, each in the shape of its parameter."""
        parts = torch.split_with_sizes(vector.view(-1), self._sizes)
        return [part.view(shape) for part, shape in zip(parts[:-1], self._shapes, strict=True)]


def block_dots(left: Tensor, right: Tensor) -> NDArray[np.float64]:
    """The dot product of each pair of rows of two tensors of shape (blocks, block_size); shape (blocks,).

    By matrix-vector products: ``torch.dot`` and ``sum`` change their bits with the number of threads.
    """
    if left.shape[0] == 1:
        return torch.mv(left, right[0]).double().cpu().numpy()
    out = torch.empty(len(left), dtype=left.dtype, device=left.device)
    for row, vector, place in zip(left.unsqueeze(1), right, out.unsqueeze(1), strict=True):
        torch.mv(row, vector, out=place)
    return out.double().cpu().numpy()


def largest(vector: Tensor) -> float:
    """The largest absolute value; NaN where there is one."""
    low, high = torch.aminmax(vector)
    return max(-float(low), float(high))


def bits_digest(vector: Tensor) -> int:
    """A number below 2^32 that tells whole vectors apart which differ in bits; the same with any thread count.

    Within a block, bits are weighted by their place: two values off by one bit each, up and down, must not cancel.
    """
    bits = vector.view(torch.int32)
    weights = torch.arange(1, 2 * bits.shape[1], 2, dtype=torch.int32, device=bits.device)
    return zlib.crc32((bits * weights).sum(1, dtype=torch.int32).cpu().numpy().tobytes())


def _refuse(parameters: Sequence[Tensor]) -> None:
    if not parameters:
        raise ValueError("there are no parameters; give at least one")
    for number, parameter in enumerate(parameters):
        what = f"parameter {number} of shape {tuple(parameter.shape)}"
        if parameter.is_complex():
            raise ValueError(f"{what} is complex; optimize its real and imaginary parts (torch.view_as_real)")
        if not parameter.is_floating_point():
            raise ValueError(f"{what} is of type {parameter.dtype}; only floating-point parameters can be optimized")
        if parameter.is_sparse:
            raise ValueError(f"{what} is sparse; use a dense one")
        if not parameter.requires_grad:
            raise ValueError(f"{what} is frozen (requires_grad is False); leave it out")
        if parameter.device != parameters[0].device:
            raise ValueError(f"parameters are on {parameters[0].device} and {parameter.device}; put all on one device")
