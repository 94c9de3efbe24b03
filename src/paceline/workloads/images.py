"""Image classification on the published data sets: the part that the built-in workloads share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from paceline.cards import WORKLOADS, Target
from paceline.data.augment import crop_and_flip
from paceline.data.catalog import ImageDataset, find_first, open_dataset
from paceline.data.splits import stratified_split
from paceline.errors import UsageError
from paceline.workloads.base import Batch, Split, Workload, WorkloadRequest


class ImageClassification(Workload):
    """Classify images: cross-entropy, accuracy; validation is a stratified tenth of the published training set.

    Inputs are (x - training mean image) / training standard deviation of the channel.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        *,
        target: Target,
        model: Callable[[ImageDataset], nn.Module],
        augmentation: str,
    ) -> None:
        train, validation = stratified_split(dataset.train.labels)
        self._positions: dict[Split, NDArray[np.int64]] = {
            "train": train,
            "validation": validation,
            "test": np.arange(len(dataset.test), dtype=np.int64),
        }
        self._data, self._model, self._augmentation = dataset, model, augmentation
        self.dataset, self.data_digest, self.target = dataset.name, dataset.digest, target
        self.num_examples = {split: len(positions) for split, positions in self._positions.items()}
        self._shift_and_scale: tuple[Tensor, Tensor] | None = None

    def build_model(self) -> nn.Module:
        """The network that this workload names."""
        return self._model(self._data)

    def batch(self, split: Split, indices: NDArray[np.int64], *, seed: int, epoch: int) -> Batch:
        """Images as uint8 of shape (n, channels, side, side), labels as int64 of shape (n,)."""
        source = self._data.test if split == "test" else self._data.train
        positions = self._positions[split][indices]
        images = source.gather(positions)
        if split == "train" and self._augmentation != "none":
            images = crop_and_flip(images, indices, seed=seed, epoch=epoch, flip=self._augmentation == "crop-flip")
        return Batch(torch.from_numpy(images), torch.from_numpy(source.labels[positions]))

    def prepare(self, batch: Batch, device: torch.device) -> Batch:
        """Normalize on the device: float32 of the same shape."""
        mean, scale = self._normalization(device)
        images, labels = super().prepare(batch, device)
        return Batch(images.float().sub_(mean).mul_(scale), labels)

    def loss_sum(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Sum of cross-entropies in nats."""
        return functional.cross_entropy(outputs, batch.targets, reduction="sum")

    def metric_sums(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Number of images whose class was given the largest logit."""
        return {"accuracy": (outputs.argmax(1) == batch.targets).sum()}

    def _normalization(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if self._shift_and_scale is None or self._shift_and_scale[0].device != device:
            mean = torch.from_numpy(self._data.mean_image).to(device)
            deviation = torch.from_numpy(self._data.channel_std).to(device)
            self._shift_and_scale = mean, deviation.reciprocal().view(-1, 1, 1)
        return self._shift_and_scale


def build_images(name: str, request: WorkloadRequest, model: Callable[[ImageDataset], nn.Module]) -> Workload:
    """A built-in workload by its card; ``dataset = "auto"`` takes the first of the card's data sets that is found."""
    card = WORKLOADS[name]
    candidates = card.candidates(name, request.dataset)
    if request.options:
        raise UsageError(f"workload {name} takes no options, given: {', '.join(name for name, _ in request.options)}")
    chosen = find_first(candidates, request.data_dir)
    dataset = open_dataset(chosen, request.data_dir)
    return ImageClassification(dataset, target=card.target_on(chosen), model=model, augmentation=request.augmentation)
