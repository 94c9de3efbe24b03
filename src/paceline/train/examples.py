"""Does a workload give the examples that it is asked for, each with a target of its own?

Without this, sharding is an illusion: ranks that are given whatever comes next do the same work over and over.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paceline.errors import DataError
from paceline.workloads.base import Batch, Split, Workload

NUM_ASKED = 128  # of each split, evenly spread, its first and its last among them
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def fault(workload: Workload, *, seed: int) -> str:
    """What is wrong with the examples of a workload, in words; empty if nothing is."""
    for split in SPLITS:
        try:
            _examine(workload, split, seed)
        except DataError as error:
            return f"{split}: {error}"
        except Exception as error:  # whatever a workload raises when it is asked for an example that it says it has
            return f"{split}: asked for some examples, the first and the last, {type(error).__name__}: {error}"
    return ""


def digest(workload: Workload, *, seed: int) -> str:
    """A digest of the examples asked for, in every split: the same on every rank."""
    hashed = hashlib.sha256()
    for split in SPLITS:
        for part in workload.batch(split, _asked(workload, split), seed=seed, epoch=1):
            hashed.update(f"{tuple(part.shape)}{part.dtype}".encode())
            hashed.update(part.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def _asked(workload: Workload, split: Split) -> NDArray[np.int64]:
    count = workload.num_examples[split]
    return np.unique(np.linspace(0, count - 1, min(count, NUM_ASKED)).astype(np.int64))


def _examine(workload: Workload, split: Split, seed: int) -> None:
    """Ask for the same examples in order, in reverse and alone.

    Raises: DataError if they are not the same, not as many as asked for, or no finite numbers.
    """
    if workload.num_examples[split] < 1:
        raise DataError("it has no examples")
    indices = _asked(workload, split)
    whole = _ask(workload, split, indices, seed)
    for part in whole:
        bad = ~part.reshape(len(part), -1).isfinite().all(1)
        if bad.any():
            raise DataError(f"example {indices[bad.numpy()][0]} holds NaN or infinite values")
    reverse = _ask(workload, split, indices[::-1].copy(), seed)
    for place in range(len(indices)):
        if not _same_example(whole, place, reverse, len(indices) - 1 - place):
            raise DataError(f"asked for examples in reverse order, it gives another one as example {indices[place]}")
    for place in sorted({0, len(indices) // 2, len(indices) - 1}):
        alone = _ask(workload, split, indices[place : place + 1], seed)
        if not _same_example(whole, place, alone, 0):
            raise DataError(f"asked for example {indices[place]} alone, it gives another one than among others")


def _ask(workload: Workload, split: Split, indices: NDArray[np.int64], seed: int) -> Batch:
    batch = workload.batch(split, indices, seed=seed, epoch=1)
    inputs, targets = len(batch.inputs), len(batch.targets)
    if not inputs == targets == len(indices):
        raise DataError(f"asked for {len(indices)} examples, it gives {inputs} inputs and {targets} targets")
    return batch


def _same_example(one: Batch, place: int, other: Batch, other_place: int) -> bool:
    """Inputs of another shape, padded to the longest of their batch, are not compared."""
    pairs = [(mine[place], theirs[other_place]) for mine, theirs in zip(one, other, strict=True)]
    return all(mine.shape != theirs.shape or _equal(mine, theirs) for mine, theirs in pairs)


def _equal(one: Tensor, other: Tensor) -> bool:
    """Equal up to rounding: a batch may be computed in another order than one example."""
    if one.is_floating_point():
        return torch.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True)
    return torch.equal(one, other)
