"""A workload of tests: random pictures for the built-in models; option ``model``: lenet5 or resnet20."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from paceline.cards import Target
from paceline.models.lenet5 import LeNet5
from paceline.models.resnet20 import ResNet20
from paceline.workloads.base import Batch, Split, Workload, WorkloadRequest

NUM_CLASSES = 4


class Pictures(Workload):
    """Noise, brighter by class."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._is_resnet = options["model"] == "resnet20"
        self.dataset, self.data_digest, self.target = "toy", "0" * 16, Target(value=0.5)
        self.num_examples = {"train": 800, "validation": 16, "test": 16}
        shape = (3 if self._is_resnet else 1, 32, 32)
        generator = torch.Generator().manual_seed(3)
        self._labels = torch.randint(NUM_CLASSES, (800,), generator=generator)
        self._pictures = torch.randn(800, *shape, generator=generator) + self._labels.view(-1, 1, 1, 1) / 4

    def build_model(self) -> nn.Module:
        build = ResNet20 if self._is_resnet else LeNet5
        return build(in_channels=3 if self._is_resnet else 1, num_classes=NUM_CLASSES)

    def batch(self, split: Split, indices: NDArray[np.int64], *, seed: int, epoch: int) -> Batch:
        return Batch(self._pictures[indices], self._labels[indices])

    def loss_sum(self, outputs: Tensor, batch: Batch) -> Tensor:
        return functional.cross_entropy(outputs, batch.targets, reduction="sum")

    def metric_sums(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"accuracy": (outputs.argmax(1) == batch.targets).sum()}


def build(request: WorkloadRequest) -> Pictures:
    """The workload ``workloads.pictures:build``."""
    return Pictures(dict(request.options))
