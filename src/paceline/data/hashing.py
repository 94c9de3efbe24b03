"""A hash of counters: a random-looking number for each example that depends on nothing but its keys.

Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", figure 17 (SplitMix64's finalizer,
with the constants of Stafford's Mix13 as published by Vigna).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MASK_64 = 2**64 - 1
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble each of ``values`` by a bijection of the 64-bit integers; shape and dtype are kept."""
    mixed = values + np.uint64(_GOLDEN_GAMMA)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def keyed_hash(indices: NDArray[np.integer], *keys: int) -> NDArray[np.uint64]:
    """Hash each index under ``keys``, in their order.

    Args:
        indices: any shape, non-negative integers.
        keys: integers, each taken modulo 2**64.
    Returns: uint64 of the shape of ``indices``.
    """
    state = np.zeros(1, dtype=np.uint64)
    for key in keys:
        state = splitmix64(state ^ np.uint64(key & MASK_64))
    return splitmix64(splitmix64(state ^ np.asarray(indices).astype(np.uint64)))
