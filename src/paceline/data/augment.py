"""Random crops and flips that depend on (seed, epoch, index) alone, hence not on how many ranks share the work."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from paceline.data.hashing import keyed_hash
from paceline.errors import UsageError

PAD = 4  # pixels of zeros on each side: He et al. 2016, section 4.2
_STREAM = 3  # apart from the streams of paceline.data.order


def crop_and_flip(
    images: NDArray[np.uint8], indices: NDArray[np.integer], *, seed: int, epoch: int, flip: bool = True
) -> NDArray[np.uint8]:
    """Shift each image by up to four pixels each way, and mirror every second one.

    Args:
        images: shape (n, C, H, W), uint8.
        indices: shape (n,), the index of each image in its data set.
        flip: mirror left to right with probability 1/2; off for digits, whose mirror images are no digits.
    Returns: a new array of the shape and dtype of ``images``.
    Raises: UsageError if there is not one index for each image.
    Source: He et al. 2016, "Deep residual learning for image recognition", section 4.2.
    """
    if images.ndim != 4 or indices.shape != images.shape[:1]:
        raise UsageError(
            f"images of shape {images.shape} with indices of shape {indices.shape}: (n, C, H, W) and (n,) are expected"
        )
    height, width = images.shape[2:]
    draws = keyed_hash(indices, _STREAM, seed, epoch)
    shifts = np.uint64(2 * PAD + 1)
    # Different bits of one draw serve the three choices; 32 bits modulo 9 favour no shift by more than 1e-9.
    rows = ((draws >> np.uint64(32)) % shifts).astype(np.intp)
    columns = (((draws & np.uint64(0xFFFFFFFF)) >> np.uint64(1)) % shifts).astype(np.intp)
    padded = np.pad(images, ((0, 0), (0, 0), (PAD, PAD), (PAD, PAD)))
    windows = sliding_window_view(padded, (height, width), axis=(2, 3))
    cropped: NDArray[np.uint8] = windows[np.arange(len(images)), :, rows, columns]
    if flip:
        mirrored = (draws & np.uint64(1)).astype(bool)
        cropped[mirrored] = cropped[mirrored, :, :, ::-1]
    return cropped
