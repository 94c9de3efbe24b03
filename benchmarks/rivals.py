"""Training loops as users write them: by hand, with a DataLoader, with Lightning Fabric, with Accelerate.

All take the same examples in the same order through the same network and optimizer, and keep a running loss and
accuracy. ``ByHand`` is the leanest: it gathers bytes and normalizes them batch by batch. The others let a DataLoader
collate images that were normalized in memory beforehand.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Sampler, TensorDataset

from benchmarks.trials import BATCH_SIZE, SEED
from paceline.data.catalog import open_dataset
from paceline.data.order import epoch_permutation
from paceline.data.splits import stratified_split
from paceline.models.lenet5 import LeNet5


class Images:
    """The training images of a data set: bytes, labels, and what normalizes them."""

    def __init__(self, dataset: str, data_dir: Path | None) -> None:
        opened = open_dataset(dataset, data_dir)
        positions, _ = stratified_split(opened.train.labels)
        self.bytes = opened.train.gather(positions)
        self.labels = opened.train.labels[positions]
        self.mean = torch.from_numpy(opened.mean_image)
        self.scale = torch.from_numpy(opened.channel_std).reciprocal().view(-1, 1, 1)
        self.num_classes, self.num_channels = len(opened.class_names), opened.image_shape[0]

    def model(self) -> nn.Module:
        """The network from the seed that all share."""
        torch.manual_seed(SEED)
        return LeNet5(in_channels=self.num_channels, num_classes=self.num_classes)

    def normalized(self) -> TensorDataset:
        """All images as float32, in memory."""
        images = torch.from_numpy(self.bytes).float().sub_(self.mean).mul_(self.scale)
        return TensorDataset(images, torch.from_numpy(self.labels))


def build_optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """paceline's settings of the loop benchmark, by torch's fused kernels."""
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    return torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)


class Loop(ABC):
    """A loop that trains one epoch at a call."""

    model: nn.Module

    @abstractmethod
    def _train(self) -> tuple[float, int]:
        """One epoch; returns the sum of losses and the number of right answers."""

    def epoch(self) -> float:
        """Train one epoch; returns its seconds."""
        began = time.perf_counter()
        loss, correct = self._train()
        assert np.isfinite(loss) and correct >= 0
        return time.perf_counter() - began


class ByHand(Loop):
    """No library: gather, normalize, forward, backward, step."""

    def __init__(self, images: Images, optimizer: str) -> None:
        self.images, self.number = images, 0
        self.model = images.model()
        self.optimizer = build_optimizer(optimizer, self.model)

    def _train(self) -> tuple[float, int]:
        data, model, optimizer = self.images, self.model, self.optimizer
        order = epoch_permutation(len(data.labels), seed=SEED, epoch=self.number)
        self.number += 1
        loss_sum, correct = 0.0, 0
        for start in range(0, len(order), BATCH_SIZE):
            indices = order[start : start + BATCH_SIZE]
            images = torch.from_numpy(data.bytes[indices]).float().sub_(data.mean).mul_(data.scale)
            labels = torch.from_numpy(data.labels[indices])
            optimizer.zero_grad()
            outputs = model(images)
            loss = functional.cross_entropy(outputs, labels)
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(indices)
            correct += int((outputs.argmax(1) == labels).sum())
        return loss_sum, correct


class SharedOrder(Sampler[int]):
    """The order of examples that all loops share, a new one each time it is asked."""

    def __init__(self, num_examples: int) -> None:
        self.num_examples, self.number = num_examples, 0

    def __iter__(self) -> Iterator[int]:
        order = epoch_permutation(self.num_examples, seed=SEED, epoch=self.number)
        self.number += 1
        return iter(order.tolist())

    def __len__(self) -> int:
        return self.num_examples


class WithLoader(Loop):
    """A TensorDataset in a DataLoader, and nothing else."""

    def __init__(self, images: Images, optimizer: str) -> None:
        loader = DataLoader(images.normalized(), BATCH_SIZE, sampler=SharedOrder(len(images.labels)))
        self.bare = images.model()
        self.model, self.optimizer, self.loader = self._wrap(self.bare, build_optimizer(optimizer, self.bare), loader)

    def _wrap(self, model: nn.Module, optimizer: Any, loader: Any) -> tuple[nn.Module, Any, Any]:
        return model, optimizer, loader

    def _backward(self, loss: Tensor) -> None:
        loss.backward()

    def _train(self) -> tuple[float, int]:
        loss_sum, correct = 0.0, 0
        for images, labels in self.loader:
            self.optimizer.zero_grad()
            outputs = self.model(images)
            loss = functional.cross_entropy(outputs, labels)
            self._backward(loss)
            self.optimizer.step()
            loss_sum += loss.item() * len(labels)
            correct += int((outputs.argmax(1) == labels).sum())
        return loss_sum, correct


class WithFabric(WithLoader):
    """The same under Lightning Fabric."""

    def _wrap(self, model: nn.Module, optimizer: Any, loader: Any) -> tuple[nn.Module, Any, Any]:
        from lightning_fabric import Fabric

        self.fabric = Fabric(accelerator="cpu", devices=1)
        model, optimizer = self.fabric.setup(model, optimizer)
        return model, optimizer, self.fabric.setup_dataloaders(loader)

    def _backward(self, loss: Tensor) -> None:
        self.fabric.backward(loss)


class WithAccelerate(WithLoader):
    """The same under Accelerate."""

    def _wrap(self, model: nn.Module, optimizer: Any, loader: Any) -> tuple[nn.Module, Any, Any]:
        from accelerate import Accelerator

        self.accelerator = Accelerator(cpu=True)
        return self.accelerator.prepare(model, optimizer, loader)

    def _backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)
