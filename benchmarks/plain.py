"""The script a user would write: load every pickle, convert all of it to float32 in memory, train LeNet-5 with Adam.

``python -m benchmarks.plain SOURCE [--with fabric | accelerate]``; prints its times and its peak memory as JSON.
"""

from __future__ import annotations

import argparse
import json
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # every optimizer of torch imports it at its first step: no part of an epoch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.programs import peak_memory_bytes


def read(source: Path) -> TensorDataset:
    """All training images as normalized float32, and their labels."""
    batches = [pickle.loads((source / f"train_data_batch_{number}").read_bytes()) for number in range(1, 11)]
    images = np.concatenate([batch["data"] for batch in batches]).astype(np.float32)
    labels = np.concatenate([batch["labels"] for batch in batches]) - 1
    images -= batches[0]["mean"].astype(np.float32)
    images = images.reshape(-1, 3, 32, 32)
    images /= images.std(axis=(0, 2, 3), keepdims=True)
    return TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))


def lenet5(num_classes: int) -> nn.Module:
    """LeNet-5 for 3x32x32 images."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(16, 120, 5), nn.Tanh(), nn.Flatten(),
        nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, num_classes),
    )  # fmt: skip


def wrap(library: str, model: nn.Module, optimizer: Any, loader: Any) -> tuple[Any, Any, Any, Any]:
    """Model, optimizer, loader and the way to call backward, by the library's own hand."""
    if library == "fabric":
        from lightning_fabric import Fabric

        fabric = Fabric(accelerator="cpu", devices=1)
        model, optimizer = fabric.setup(model, optimizer)
        return model, optimizer, fabric.setup_dataloaders(loader), fabric.backward
    if library == "accelerate":
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=True)
        return *accelerator.prepare(model, optimizer, loader), accelerator.backward
    return model, optimizer, loader, torch.Tensor.backward


def train(model: Any, optimizer: Any, loader: Any, backward: Any) -> tuple[float, int]:
    """One epoch; returns the sum of losses and the number of right answers."""
    loss_sum, correct = 0.0, 0
    for images, labels in loader:
        optimizer.zero_grad()
        outputs = model(images)
        loss = functional.cross_entropy(outputs, labels)
        backward(loss)
        optimizer.step()
        loss_sum += loss.item() * len(labels)
        correct += int((outputs.argmax(1) == labels).sum())
    return loss_sum, correct


def main() -> None:
    """Read, train one epoch, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("--with", dest="library", default="none", choices=["none", "fabric", "accelerate"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    library = arguments.library
    if library == "fabric":  # importing a library is no part of an epoch
        import lightning_fabric  # noqa: F401
    if library == "accelerate":
        import accelerate  # noqa: F401
    began = time.perf_counter()
    dataset = read(arguments.source)
    read_s = time.perf_counter() - began
    model = lenet5(1000)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train(*wrap(library, model, optimizer, DataLoader(dataset, batch_size=64, shuffle=True)))
    epoch_s = time.perf_counter() - began - read_s
    times = {"read_s": read_s, "epoch_s": epoch_s, "num_images": len(dataset)}
    print(json.dumps({**times, "peak_memory_bytes": peak_memory_bytes()}))


if __name__ == "__main__":
    main()
