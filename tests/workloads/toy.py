"""A workload of tests, as a third party would write one: classes of random points; nothing of images.

Options: ``num_train``, ``num_validation``, ``num_test``, ``hidden`` (0: logistic regression), ``dtype``; and faults:
``train_sleep_s`` on ``sleep_rank`` (-1: all), ``evaluation_sleep_s``, ``nan_example``, ``running_mean`` (a buffer that
moves), ``dropout``, ``break_build_unless`` (a file without which the ranks cannot open the data).
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from paceline.cards import Target
from paceline.workloads.base import Batch, Split, Workload, WorkloadRequest

NUM_FEATURES, NUM_CLASSES = 6, 3
DEFAULTS: dict[str, Any] = {
    "num_train": 501,
    "num_validation": 101,
    "num_test": 67,
    "hidden": 8,
    "dtype": "float32",
    "train_sleep_s": 0.0,
    "sleep_rank": -1,
    "evaluation_sleep_s": 0.0,
    "nan_example": -1,
    "running_mean": False,
    "dropout": 0.0,
    "break_build_unless": "",
}


class RunningMean(nn.Module):
    """Keeps a moving mean of what passes, and changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(NUM_FEATURES))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(inputs.detach().mean(0).to(self.mean.dtype), 0.1)
        return inputs


class Toy(Workload):
    """Points around class centres, with noise enough that no parameters fit them all."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = DEFAULTS | options
        self.dataset, self.data_digest, self.target = "toy", "0" * 16, Target(value=0.5)
        splits: list[Split] = ["train", "validation", "test"]
        self.num_examples = {split: int(self.options[f"num_{split}"]) for split in splits}
        rng = np.random.default_rng(7)
        centres = rng.normal(size=(NUM_CLASSES, NUM_FEATURES))
        self._points: dict[str, NDArray[np.float64]] = {}
        self._labels: dict[str, NDArray[np.int64]] = {}
        for split, count in self.num_examples.items():
            self._labels[split] = rng.integers(0, NUM_CLASSES, count)
            self._points[split] = centres[self._labels[split]] + rng.normal(size=(count, NUM_FEATURES))
        if self.options["nan_example"] >= 0:
            self._points["train"][self.options["nan_example"]] = np.nan
        self.dtype: torch.dtype = getattr(torch, self.options["dtype"])
        self.served: Counter[str] = Counter()
        self._lock = threading.Lock()

    def build_model(self) -> nn.Module:
        hidden = self.options["hidden"]
        layers: list[nn.Module] = [RunningMean()] if self.options["running_mean"] else []
        if hidden:
            layers += [nn.Linear(NUM_FEATURES, hidden), nn.Tanh()]
        if self.options["dropout"]:
            layers += [nn.Dropout(self.options["dropout"])]
        layers += [nn.Linear(hidden or NUM_FEATURES, NUM_CLASSES)]
        return nn.Sequential(*layers).to(self.dtype)

    def batch(self, split: Split, indices: NDArray[np.int64], *, seed: int, epoch: int) -> Batch:
        slow = self.options["sleep_rank"] in (-1, int(os.environ.get("RANK", "0")))
        seconds = self.options["evaluation_sleep_s"] if split != "train" else self.options["train_sleep_s"] * slow
        if seconds:
            time.sleep(seconds)
        with self._lock:
            self.served[split] += len(indices)
        points = torch.from_numpy(self._points[split][indices]).to(self.dtype)
        return Batch(points, torch.from_numpy(self._labels[split][indices]))

    def loss_sum(self, outputs: Tensor, batch: Batch) -> Tensor:
        return functional.cross_entropy(outputs, batch.targets, reduction="sum")

    def metric_sums(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"accuracy": (outputs.argmax(1) == batch.targets).sum()}


def build(request: WorkloadRequest) -> Toy:
    """The workload ``workloads.toy:build``."""
    options = dict(request.options)
    needed = str(options.get("break_build_unless", ""))
    if needed and "RANK" in os.environ and not Path(needed).exists():
        raise OSError(f"the data behind {needed} is gone")
    return Toy(options)
