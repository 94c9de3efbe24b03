"""Gradients are told in 16 bits an element."""

from __future__ import annotations

import torch
from torch import Tensor

from paceline.strategies.base import COMPUTE
from paceline.strategies.flat import Flat


class Half(Flat):
    """Gradients are rounded to ``dtype_sent`` and added up in it; the loss has a small all-reduce beside theirs.

    gloo and NCCL add up both types of 16 bits. An all-gather with a sum in float32 would round once instead of once a
    rank, but send (W - 1) in place of 2 (W - 1) / W times the gradients: the same at two ranks, more at any other
    number. torch's own hook for bfloat16 refuses gloo.
    """

    dtype_sent: torch.dtype

    def add_up(self, whole: Tensor) -> None:
        """See the base class."""
        gradient, beside = whole[: self.size], whole[self.size :]
        rounded = gradient.to(self.dtype_sent)
        self.all_reduce(rounded, beside)
        gradient.copy_(rounded)
        self.mark(COMPUTE)

    def bytes_of_collectives(self) -> list[int]:
        """See the base class."""
        return [self.bytes_of_all_reduce(self.size, element_bytes=2), self.bytes_of_all_reduce(self.num_beside)]


class Fp16(Half):
    """11 significant bits; below 6e-8 nothing is left of an element, above 65,504 it is infinite."""

    dtype_sent = torch.float16


class Bf16(Half):
    """8 significant bits, and the range of float32."""

    dtype_sent = torch.bfloat16
