"""The order in which examples are seen: from (seed, epoch) alone, hence the same at every scale.

Update k takes the k-th run of ``global_batch_size`` indices of the permutation, and rank r of W the r-th of W
near-equal parts of that run. Nothing is padded, repeated or dropped; ``indices_digest`` lets an audit prove it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from paceline.data.hashing import MASK_64, keyed_hash
from paceline.errors import UsageError

# Streams of random numbers that share a seed; two uses of one seed must not see the same numbers.
EPOCH_STREAM = 1
SPLIT_STREAM = 2

_LANE_KEYS = (0x70616365, 0x6C696E65)  # two independent 64-bit sums make a digest of 128 bits


def epoch_permutation(num_examples: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of the training examples in one epoch: int64, shape (num_examples,).

    Raises: UsageError if ``num_examples``, ``seed`` or ``epoch`` is negative.
    """
    _require(num_examples=(num_examples, 0), seed=(seed, 0), epoch=(epoch, 0))
    sequence = np.random.SeedSequence(seed, spawn_key=(EPOCH_STREAM, epoch))
    return np.random.Generator(np.random.PCG64(sequence)).permutation(num_examples).astype(np.int64, copy=False)


def update_slices(num_examples: int, global_batch_size: int) -> list[slice]:
    """Cut an epoch into the runs that its updates take; the last is short, nothing is dropped.

    Raises: UsageError if ``num_examples`` is negative or ``global_batch_size`` below 1.
    """
    _require(num_examples=(num_examples, 0), global_batch_size=(global_batch_size, 1))
    starts = range(0, num_examples, global_batch_size)
    return [slice(start, min(start + global_batch_size, num_examples)) for start in starts]


def rank_part(num_items: int, *, rank: int, world_size: int) -> slice:
    """Return the part of ``num_items`` that one rank takes.

    The parts of all ranks, joined in order, are the whole; their sizes differ by at most one; a part may be empty.
    Raises: UsageError unless ``0 <= rank < world_size`` and ``num_items >= 0``.
    """
    _require(num_items=(num_items, 0), rank=(rank, 0), world_size=(world_size, 1))
    if rank >= world_size:
        raise UsageError(f"rank {rank} of {world_size}: ranks are numbered from 0 to {world_size - 1}")
    return slice(num_items * rank // world_size, num_items * (rank + 1) // world_size)


def indices_digest(indices: NDArray[np.integer]) -> str:
    """Summarize which indices were seen, in whatever order: ``COUNT-HEX``, 128 bits.

    Each index is hashed to two keyed 64-bit numbers that are summed modulo 2**64, so that the digests of parts add up
    (``combine_digests``) to the digest of the whole, and an index left out or seen twice shows.
    Args:
        indices: shape (n,), non-negative integers.
    """
    lanes = [int(np.sum(keyed_hash(indices, key), dtype=np.uint64)) for key in _LANE_KEYS]
    return _format_digest(len(indices), lanes)


def combine_digests(digests: Iterable[str]) -> str:
    """Add digests of parts up to the digest of their union, repeats counted.

    Raises: UsageError if one is not what ``indices_digest`` returns.
    """
    count, lanes = 0, [0, 0]
    for digest in digests:
        try:
            part_count, _, part = digest.partition("-")
            count += int(part_count)
            lanes = [lanes[0] + int(part[:16], 16), lanes[1] + int(part[16:], 16)]
        except ValueError:
            raise UsageError(f"'{digest}' is no digest of indices: expected COUNT-HEX from indices_digest") from None
    return _format_digest(count, lanes)


def _format_digest(count: int, lanes: list[int]) -> str:
    return f"{count}-" + "".join(f"{lane & MASK_64:016x}" for lane in lanes)


def _require(**bounds: tuple[int, int]) -> None:
    for name, (given, least) in bounds.items():
        if given < least:
            raise UsageError(f"{name} = {given}: it must be at least {least}")
