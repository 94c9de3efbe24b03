"""The downsampled ImageNet files as published (ImageNet32, ImageNet64), read without running what a pickle asks for.

Ten files ``train_data_batch_1`` ... ``_10`` and ``val_data``, each a pickled dict: ``data`` uint8 (N, 3*S*S), rows
channel-planar; ``labels`` N integers in 1..1000; and, in the training files only, ``mean`` (3*S*S), scale 0..255.
Source: Chrabaszcz, Loshchilov and Hutter 2017, "A downsampled variant of ImageNet as an alternative to the CIFAR
datasets".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paceline.data.pickled import read_pickle
from paceline.errors import DataError

NUM_CLASSES = 1000
TRAIN_FILES = tuple(f"train_data_batch_{number}" for number in range(1, 11))
TEST_FILE = "val_data"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One file: ``images`` uint8 (N, 3, S, S), ``labels`` int64 (N,) in 1..1000, ``mean`` float64 (3, S, S) or None."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    mean: NDArray[np.float64] | None


def require_layout(source: Path) -> None:
    """Check that ``source`` holds the eleven published files, and no batch beyond the tenth.

    Raises: DataError naming the files that are missing or too many.
    """
    if not source.is_dir():
        raise DataError(f"{source}: no such folder. Give the folder that holds {TRAIN_FILES[0]} ... and {TEST_FILE}")
    missing = [name for name in (*TRAIN_FILES, TEST_FILE) if not (source / name).is_file()]
    if missing:
        raise DataError(
            f"{source}: missing {', '.join(missing)}. The published layout is {TRAIN_FILES[0]} ... "
            f"{TRAIN_FILES[-1]} and {TEST_FILE}, unpacked into one folder"
        )
    extra = sorted(path.name for path in source.glob("train_data_batch_*") if path.name not in TRAIN_FILES)
    if extra:
        raise DataError(f"{source}: unexpected {', '.join(extra)}: the published training set has ten files")


def read_batch(path: Path, *, image_size: int, has_mean: bool) -> Batch:
    """Read and check one file.

    The pixels are held once: the array that is returned uses the memory that the pickle was read into.
    Args:
        image_size: S, 32 or 64.
        has_mean: whether the file must hold a mean: training files do, ``val_data`` does not.
    Raises: DataError naming the file and what is wrong with it.
    """
    content = read_pickle(path)
    missing = [key for key in ("data", "labels", *(("mean",) if has_mean else ())) if key not in content]
    if missing:
        raise DataError(
            f"{path}: has no {' and no '.join(map(repr, missing))}; "
            f"its keys: {[key[:50] for key in list(content)[:10]]}"
        )
    images = _checked_images(content["data"], path, image_size)
    labels = _checked_labels(content["labels"], path, len(images))
    mean = _checked_mean(content["mean"], path, image_size) if has_mean else None
    return Batch(images=images, labels=labels, mean=mean)


def _checked_images(data: object, path: Path, image_size: int) -> NDArray[np.uint8]:
    row_length = 3 * image_size**2
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8:
        given = f"dtype {data.dtype}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{path}: 'data' has {given}: an array of uint8 is expected")
    if data.ndim != 2 or data.shape[1] != row_length or not len(data):
        raise DataError(
            f"{path}: 'data' has shape {data.shape}: (N, {row_length}) is expected for images of "
            f"{image_size} x {image_size} pixels, N at least 1"
        )
    return np.ascontiguousarray(data).reshape(-1, 3, image_size, image_size)


def _checked_labels(given: object, path: Path, num_images: int) -> NDArray[np.int64]:
    if not isinstance(given, list | np.ndarray) or not len(given):
        raise DataError(f"{path}: 'labels' is {type(given).__name__}: a list of integers is expected, at least one")
    if len(given) != num_images:
        raise DataError(f"{path}: {num_images} images but {len(given)} labels: the counts must agree")
    if isinstance(given, list):  # none of them beyond 64 bits
        are_labels = all(type(label) is int and abs(label) < 2**63 for label in given)
        labels = np.array(given, dtype=np.int64) if are_labels else np.empty(0, dtype=np.float64)
    else:
        labels = given
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{path}: 'labels' holds other things than integers")
    outside = labels[(labels < 1) | (labels > NUM_CLASSES)]
    if len(outside):
        raise DataError(
            f"{path}: label {outside[0]} ({len(outside)} such): published labels are 1..{NUM_CLASSES}. "
            "Labels counted from 0 are of another layout"
        )
    return labels.astype(np.int64)


def _checked_mean(mean: object, path: Path, image_size: int) -> NDArray[np.float64]:
    shape = (3 * image_size**2,)
    if not isinstance(mean, np.ndarray) or mean.dtype.kind != "f" or mean.shape != shape:
        given = f"{mean.dtype} {mean.shape}" if isinstance(mean, np.ndarray) else type(mean).__name__
        raise DataError(f"{path}: 'mean' is {given}: floating point of shape {shape} is expected")
    if not (np.isfinite(mean).all() and mean.min() >= 0 and mean.max() <= 255):
        raise DataError(f"{path}: 'mean' ranges over {mean.min():g}..{mean.max():g}: the scale 0..255 is expected")
    return mean.astype(np.float64).reshape(3, image_size, image_size)
