"""Real digits spoilt as it happens in practice, as a workload that a third party would write.

Option ``fault`` says how; ``opened`` names a file to which each process adds a line when it opens the data.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paceline.workloads import lenet5_mnist, logreg_mnist
from paceline.workloads.base import Batch, Split, Workload, WorkloadRequest

LABELS_KEPT = 5  # of ten, where the others are dropped and their images are not
FAULTS = (
    "none", "labels dropped", "same batches", "fewer labels", "sorted", "own of each rank", "mean loss", "dropout",
    "batch norm", "constant", "killed",
)  # fmt: skip


class Spoilt(Workload):
    """Digits by ``inner``, with one fault."""

    def __init__(self, inner: Workload, *, fault: str, evaluation_sleep_s: float) -> None:
        assert fault in FAULTS, fault
        self._inner, self._fault, self._evaluation_sleep_s = inner, fault, evaluation_sleep_s
        self.dataset, self.data_digest, self.target = inner.dataset, inner.data_digest, inner.target
        self.num_examples = dict(inner.num_examples)
        self._drawn = 0
        if fault == "labels dropped":
            self._labels = {split: self._kept(split) for split in self.num_examples}
            self.num_examples = {split: len(labels) for split, labels in self._labels.items()}

    def _kept(self, split: Split) -> Tensor:
        every = np.arange(self._inner.num_examples[split])
        labels = self._inner.batch(split, every, seed=0, epoch=0).targets
        return labels[labels < LABELS_KEPT]

    def build_model(self) -> nn.Module:
        model = self._inner.build_model()
        if self._fault == "dropout":
            return nn.Sequential(nn.Dropout(0.5), model)
        if self._fault == "batch norm":
            return nn.Sequential(nn.BatchNorm2d(1), model)
        return model

    def batch(self, split: Split, indices: NDArray[np.int64], *, seed: int, epoch: int) -> Batch:
        if split != "train":
            time.sleep(self._evaluation_sleep_s)
        if self._fault == "killed" and os.environ.get("RANK") == "1":
            os._exit(9)
        if self._fault == "same batches":  # each rank draws with the same seed, whatever it was asked for
            self._drawn += 1
            indices = np.random.default_rng(self._drawn).integers(0, self.num_examples[split], len(indices))
        if self._fault == "own of each rank":
            indices = (indices + int(os.environ.get("RANK", "0"))) % self.num_examples[split]
        if self._fault == "sorted":
            indices = np.sort(indices)
        found = self._inner.batch(split, indices, seed=seed, epoch=epoch)
        if self._fault == "labels dropped":
            return Batch(found.inputs, self._labels[split][torch.from_numpy(indices)])
        if self._fault == "fewer labels":
            return Batch(found.inputs, found.targets[torch.from_numpy(indices) < self.num_examples[split] - 7])
        if self._fault == "constant":
            return Batch(found.inputs, torch.zeros_like(found.targets))
        return found

    def prepare(self, batch: Batch, device: torch.device) -> Batch:
        return self._inner.prepare(batch, device)

    def loss_sum(self, outputs: Tensor, batch: Batch) -> Tensor:
        loss = self._inner.loss_sum(outputs, batch)
        return loss / len(batch.targets) if self._fault == "mean loss" else loss

    def metric_sums(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return self._inner.metric_sums(outputs, batch)


def build(request: WorkloadRequest) -> Spoilt:
    """The workload ``workloads.spoilt:build``."""
    options = dict(request.options)
    if "opened" in options:
        with Path(str(options["opened"])).open("a") as file:
            file.write(f"rank {os.environ.get('RANK', 'none')}\n")
    inner = {"lenet5": lenet5_mnist, "logreg": logreg_mnist}[str(options.get("model", "logreg"))]
    return Spoilt(
        inner.build(WorkloadRequest(dataset="mnist-small")),
        fault=str(options.get("fault", "none")),
        evaluation_sleep_s=float(options.get("evaluation_sleep_s", 0.0)),
    )
