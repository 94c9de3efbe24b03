"""Mean image and deviations of a training set, chunk by chunk, in integers: exact in any order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CHUNK_BYTES = 1 << 20  # stays in cache; temporaries are twice as large
_MAX_CHUNK_ROWS = 1 << 16  # 255 * 65536 < 2**32: sums of a chunk fit uint32


class Moments:
    """Running sums over images of one shape; final."""

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        """Start with no images of ``image_shape`` (C, H, W)."""
        self._shape = image_shape
        self._count = 0
        self._pixel_sums = np.zeros(int(np.prod(image_shape)), dtype=np.uint64)
        self._square_sums = np.zeros(image_shape[0], dtype=np.uint64)

    def add(self, images: NDArray[np.uint8]) -> None:
        """Take in ``images``, uint8 of shape (n, C, H, W) or (n, C*H*W)."""
        flat = images.reshape(len(images), -1)
        rows = min(max(1, _CHUNK_BYTES // flat.shape[1]), _MAX_CHUNK_ROWS)
        for start in range(0, len(flat), rows):
            chunk = flat[start : start + rows]
            self._pixel_sums += chunk.sum(axis=0, dtype=np.uint32)
            squares = np.square(chunk, dtype=np.uint16).reshape(len(chunk), self._shape[0], -1)
            self._square_sums += squares.sum(axis=(0, 2), dtype=np.uint64)
        self._count += len(flat)

    def mean_image(self) -> NDArray[np.float64]:
        """Return the mean of each pixel, shape (C, H, W), on the scale 0..255."""
        assert self._count > 0
        return (self._pixel_sums / self._count).reshape(self._shape)

    def channel_std(self, mean_image: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the deviation of (image - ``mean_image``) in each channel, shape (C,), on the scale 0..255.

        A channel that never deviates gets 1, so that dividing by it changes nothing.
        """
        published = mean_image.astype(np.float64).reshape(self._shape[0], -1)
        own = self.mean_image().reshape(self._shape[0], -1)
        mean_square = self._square_sums / (self._count * own.shape[1])
        second = mean_square + np.mean(published * (published - 2 * own), axis=1)
        variance = second - np.mean(own - published, axis=1) ** 2
        return np.where(variance > 1e-9, np.sqrt(np.maximum(variance, 0)), 1.0).astype(np.float32)
