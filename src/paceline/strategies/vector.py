"""Several tensors as one vector, so that one collective carries them all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def joined(parts: Sequence[Tensor]) -> Tensor:
    """A copy of all elements in one row, in a type that holds each of theirs: float32 beside float64 gives float64."""
    return torch.cat([part.detach().reshape(-1) for part in parts])


def put_back(vector: Tensor, parts: Sequence[Tensor]) -> None:
    """Write the elements of ``vector`` over those that ``joined`` would take from ``parts``."""
    pieces = torch.split(vector, [part.numel() for part in parts])
    for part, piece in zip(parts, pieces, strict=True):
        part.detach().copy_(piece.view_as(part))
