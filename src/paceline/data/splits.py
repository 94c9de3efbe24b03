"""Three splits from the two that are published: validation is a stratified tenth of the training set.

The published test set (``t10k``, ``val_data``) stays the test set, touched once at the end.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from paceline.data.order import SPLIT_STREAM
from paceline.errors import UsageError


def stratified_split(
    labels: NDArray[np.integer], *, fraction: float = 0.1, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide the published training set into training and validation, class by class.

    Of a class of n images, ``round(n * fraction)`` go to validation (halves up): at least one where there are two or
    more, and never all of them.
    Args:
        labels: shape (N,), the class of each image of the published training set.
        fraction: the share of validation, above 0 and below 1.
        seed: of the one permutation that decides which images; the same for every trial of every study.
    Returns: the indices of training and of validation, both sorted, int64; together they are 0..N-1.
    Raises: UsageError if ``labels`` has not one dim, or ``fraction`` is out of range.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"fraction = {fraction}: the share of validation must be above 0 and below 1")
    if labels.ndim != 1:
        raise UsageError(f"labels have shape {labels.shape}: one label an image is expected, shape (N,)")
    sequence = np.random.SeedSequence(seed, spawn_key=(SPLIT_STREAM,))
    shuffled = np.random.Generator(np.random.PCG64(sequence)).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]  # classes in order, shuffled inside each
    counts = np.unique(labels, return_counts=True)[1].tolist()
    in_validation = np.zeros(len(labels), dtype=bool)
    start = 0
    for count in counts:
        in_validation[by_class[start : start + _validation_count(count, fraction)]] = True
        start += count
    return np.flatnonzero(~in_validation), np.flatnonzero(in_validation)


def _validation_count(count: int, fraction: float) -> int:
    if count < 2:
        return 0
    return min(max(math.floor(count * fraction + 0.5), 1), count - 1)
