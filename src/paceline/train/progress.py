"""How far a trial has come: what a checkpoint keeps beside parameters and the optimizer's state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paceline.train.evaluate import MetricSums


@dataclass(kw_only=True)
class Progress:
    """Counts and seconds since the trial began."""

    epoch: int = 0
    num_updates: int = 0
    num_samples: int = 0
    num_gradient_evaluations: int = 0
    evaluation_time_s: float = 0.0
    checkpoint_time_s: float = 0.0


@dataclass(kw_only=True)
class EpochSums:
    """What an epoch adds up as it goes, off the clock: samples of all ranks, metrics of this one."""

    num_samples: int = 0
    metrics: MetricSums = field(default_factory=MetricSums)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: plain numbers."""
        return {"num_samples": self.num_samples, "metrics": self.metrics.state_dict()}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], device: torch.device) -> EpochSums:
        """The reverse of ``state_dict``."""
        return cls(num_samples=state["num_samples"], metrics=MetricSums.from_state_dict(state["metrics"], device))


def seed_generators(seed: int, *, epoch: int, rank: int) -> None:
    """Seed torch's generators (dropout) for an epoch on a rank, so that an epoch can be repeated alone."""
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1, np.uint64)[0] >> 1))


def generators(device: torch.device) -> list[Tensor]:
    """The states of torch's generators that a rank with this device draws from."""
    on_gpu = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *on_gpu]


def set_generators(states: list[Tensor], device: torch.device) -> None:
    """The reverse of ``generators``."""
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)
