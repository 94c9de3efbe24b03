"""What a workload is: data, model, loss, metric and target. Nothing here knows of images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paceline.cards import Target
from paceline.study_tables import WorkloadEntry

Split = Literal["train", "validation", "test"]


class Batch(NamedTuple):
    """Some examples: what the model is called with, and what it should have answered; first dimension = examples."""

    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True, kw_only=True)
class WorkloadRequest:
    """What a study says of a workload; the one argument of every ``build``. ``options`` are (name, value) pairs."""

    dataset: str = "auto"
    data_dir: Path | None = None
    augmentation: Literal["none", "crop", "crop-flip"] = "none"
    options: tuple[tuple[str, bool | int | float | str], ...] = ()

    @classmethod
    def of(cls, settings: WorkloadEntry, data_dir: str | Path | None) -> WorkloadRequest:
        """What a trial, or an entry of a study, asks for."""
        return cls(
            dataset=settings.dataset,
            data_dir=None if data_dir is None else Path(data_dir),
            augmentation=settings.augmentation,
            options=tuple(sorted(settings.options.items())),
        )


class Workload(ABC):
    """Data, model, loss and metrics.

    ``dataset`` names the data used, ``data_digest`` is a digest of its content, ``num_examples`` counts the examples
    of each split. All sums run over the examples of a batch, so that parts of any size can be added up.
    """

    dataset: str
    data_digest: str
    target: Target
    num_examples: dict[str, int]

    @abstractmethod
    def build_model(self) -> nn.Module:
        """A model with fresh parameters, drawn from torch's global generator, which the caller has seeded."""

    @abstractmethod
    def batch(self, split: Split, indices: NDArray[np.int64], *, seed: int, epoch: int) -> Batch:
        """Gather examples on the host; runs in a thread beside the training.

        Args:
            indices: shape (n,), positions in the split.
            seed: with ``epoch``, decides random augmentation of each example, the same at every scale.
        """

    def prepare(self, batch: Batch, device: torch.device) -> Batch:
        """Move a batch to the device, and finish there what is better done there (normalization)."""
        return Batch(batch.inputs.to(device, non_blocking=True), batch.targets.to(device, non_blocking=True))

    @abstractmethod
    def loss_sum(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The sum of the losses of a batch: a differentiable scalar."""

    @abstractmethod
    def metric_sums(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The sum over examples of each metric, by name: scalars. The target names one of them."""
