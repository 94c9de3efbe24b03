"""On ranks: trials that are left after some updates, with checkpoints at an interval; and one that draws at random."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed import PrefixStore
from torch.distributed.distributed_c10d import _get_default_store

from paceline import registry
from paceline.errors import PacelineError
from paceline.train.interval import Keeping
from paceline.train.leave import Leaving
from paceline.train.loop import run_trial
from paceline.trial import Trial
from paceline.workloads.base import WorkloadRequest
from workloads.toy import Toy

DRAWING = "train.interrupted:build"


class After(Leaving):
    """Ranks that leave after some updates."""

    def __init__(self, num_updates: int) -> None:
        super().__init__()
        self.asked, self._after = True, num_updates

    def is_due(self, num_updates: int, next_meeting: int, ranks: Any) -> bool:
        del next_meeting, ranks
        return num_updates >= self._after


def run(ranks: Any, *, trial: dict[str, Any], folder: str, leave_after: int = 0, every: str = "auto",
        kept: int = 2, begins_with: str | None = None) -> dict[str, Any] | str | None:  # fmt: skip
    """Run a trial, or what is left of it; returns its end record, None if it was left, or why it was refused."""
    asked = Trial.model_validate(trial)
    workload = registry.resolve("workloads", asked.workload_name)(WorkloadRequest.of(asked.workload_entry, None))
    ranks.traffic.bytes_sent = ranks.traffic.num_collectives = 0
    store = PrefixStore(folder, _get_default_store())
    keeping = Keeping(every=every, kept=kept, store=store, begins_with=Path(begins_with) if begins_with else None)
    try:
        end = run_trial(asked, workload, ranks, Path(folder), After(leave_after) if leave_after else None, keeping)
    except PacelineError as error:
        return str(error)
    return None if end is None else end.model_dump(mode="json")


class Drawing(nn.Module):
    """Scales what passes by what the generators of python, numpy and torch give."""

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            return inputs
        return inputs * (random.gauss(1, 0.1) + np.random.random() + torch.rand(()).item())


class DrawingToy(Toy):
    """The toy, whose model draws in its forward passes."""

    def build_model(self) -> nn.Module:
        return nn.Sequential(Drawing(), super().build_model())


def build(request: WorkloadRequest) -> DrawingToy:
    """The workload ``train.interrupted:build``."""
    return DrawingToy(dict(request.options))
