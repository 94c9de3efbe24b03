"""How far a trial has come: what a checkpoint keeps beside parameters and the optimizer's state."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

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


def seed_building(seed: int) -> None:
    """Seed what a model's first parameters, and whatever else a contestant sets up, are drawn from."""
    _seed(seed, seed, seed)


def seed_generators(seed: int, *, epoch: int, rank: int) -> None:
    """Seed the global generators of torch (dropout), python and numpy for an epoch on a rank.

    So an epoch can be repeated alone. Draws for examples, which another thread gathers ahead of need, are none of
    these: they depend on (seed, epoch) by ``Workload.batch``.
    """
    words = [int(word) for word in np.random.SeedSequence((seed, epoch, rank)).generate_state(3, np.uint64)]
    _seed(words[0] >> 1, words[1], words[2] >> 32)


def generators(device: torch.device) -> dict[str, Any]:
    """The states of the global generators that a rank with this device draws from: tensors, numbers and text."""
    on_gpu = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    version, words, next_gauss = random.getstate()
    name, keys, *rest = np.random.get_state()  # others may draw from it
    return {
        "torch": [torch.get_rng_state(), *on_gpu],
        "python": [version, torch.tensor(words), next_gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
    }


def set_generators(states: dict[str, Any], device: torch.device) -> None:
    """The reverse of ``generators``; those that are missing stay as they are."""
    if "torch" in states:
        first, *others = states["torch"]
        torch.set_rng_state(first)
        for state in others:
            torch.cuda.set_rng_state(state, device)
    if "python" in states:
        version, words, next_gauss = states["python"]
        random.setstate((version, tuple(words.tolist()), next_gauss))
    if "numpy" in states:
        name, keys, *rest = states["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))


def _seed(of_torch: int, of_python: int, of_numpy: int) -> None:
    torch.manual_seed(of_torch)
    random.seed(of_python)
    np.random.seed(of_numpy)
