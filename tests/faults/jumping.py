"""A workload of tests during which somebody sets the clock of the host that rank 0 is on."""

from __future__ import annotations

import os
import time

import numpy as np
from numpy.typing import NDArray

from paceline.workloads.base import Batch, Split, WorkloadRequest
from workloads.toy import Toy

_real = time.time


class Jumping(Toy):
    """Option ``jumps_s``: by how much the clock is ahead from each epoch on."""

    def __init__(self, request: WorkloadRequest) -> None:
        options = dict(request.options)
        self._jumps_s = [float(text) for text in str(options.pop("jumps_s")).split()]
        super().__init__(options)

    def batch(self, split: Split, indices: NDArray[np.int64], *, seed: int, epoch: int) -> Batch:
        if split == "train" and os.environ.get("RANK") == "0":
            time.time = lambda: _real() + self._jumps_s[epoch]
        return super().batch(split, indices, seed=seed, epoch=epoch)


def build(request: WorkloadRequest) -> Jumping:
    """The workload ``faults.jumping:build``."""
    return Jumping(request)
