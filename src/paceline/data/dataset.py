"""What every reader of this package ends in: images that are gathered by index, and the facts that go with them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from paceline.errors import DataError


class ImageArray(ABC):
    """The images and labels of one published split; abstract.

    Attributes:
        labels: int64, shape (N,), dense: 0..K-1 over the classes present.
    """

    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of images N."""
        return len(self.labels)

    def gather(self, indices: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Copy the images at ``indices`` out.

        Args:
            indices: shape (n,), integers in 0..N-1, in any order, repeats allowed.
        Returns: uint8, shape (n, C, S, S), C-contiguous, owned by the caller.
        Raises: IndexError if an index is out of range; DataError if the file under it has gone bad.
        """
        wanted = indices.astype(np.int64, copy=False)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(f"indices {wanted.min()}..{wanted.max()} of {len(self)} images: 0..{len(self) - 1} exist")
        return self._gather(wanted)

    @abstractmethod
    def _gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]: ...


@final
class PaddedImages(ImageArray):
    """One-channel images held in memory as published, zero-padded to ``size`` when gathered."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64], size: int) -> None:
        """Hold ``images``, uint8 of shape (N, H, W) with H, W at most ``size``."""
        assert len(images) == len(labels)
        self._images, self.labels, self._size = images, labels, size
        top, left = ((size - side) // 2 for side in images.shape[1:])
        self._window = np.s_[:, 0, top : top + images.shape[1], left : left + images.shape[2]]

    def _gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        padded = np.zeros((len(indices), 1, self._size, self._size), dtype=np.uint8)
        padded[self._window] = self._images[indices]
        return padded


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageDataset:
    """A data set, opened.

    Attributes:
        name: as in the catalog.
        path: the folder it was read from.
        digest: SHA-256 of its content (``content_digest``), whatever its compression.
        class_names: one for each dense label.
        train: the published training images (validation is cut from these by ``splits.stratified_split``).
        test: the published test images (``t10k``, ``val_data``).
        mean_image: float32, shape (C, S, S), the mean of the published training images, scale 0..255.
        channel_std: float32, shape (C,), the deviation from that mean over the same images, scale 0..255.
        image_shape: (C, S, S).
    """

    name: str
    path: Path
    digest: str
    class_names: tuple[str, ...]
    train: ImageArray
    test: ImageArray
    mean_image: NDArray[np.float32]
    channel_std: NDArray[np.float32]
    image_shape: tuple[int, int, int]


def content_digest(parts: Mapping[str, str]) -> str:
    """Combine the digests of named parts into one: SHA-256, hex, independent of the order of ``parts``."""
    lines = "".join(f"{name} {parts[name]}\n" for name in sorted(parts))
    return hashlib.sha256(lines.encode()).hexdigest()


def dense_labels(
    train: NDArray[np.integer], test: NDArray[np.integer], *, where: Path
) -> tuple[NDArray[np.integer], NDArray[np.int64], NDArray[np.int64]]:
    """Number the classes present in ``train`` from 0, in the order of their published labels.

    Args:
        train, test: published labels, shapes (N,) and (M,).
        where: the folder that an error names.
    Returns: the published labels present, sorted, shape (K,); the dense labels of ``train`` and of ``test``.
    Raises: DataError if ``test`` holds a class that no training image has.
    """
    present = np.unique(train)
    strangers = np.setdiff1d(test, present)
    if len(strangers):
        raise DataError(
            f"{where}: the test images hold label {strangers[0]}, which no training image has "
            f"({len(strangers)} such labels). Train and test files must be of one data set"
        )
    # searchsorted returns intp, which is int64 wherever torch runs
    return present, _positions(present, train), _positions(present, test)


def _positions(present: NDArray[np.integer], labels: NDArray[np.integer]) -> NDArray[np.int64]:
    return np.searchsorted(present, labels).astype(np.int64, copy=False)
