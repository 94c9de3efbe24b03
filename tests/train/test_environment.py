"""What a rank says of its memory."""

from __future__ import annotations

import platform

import pytest
import torch

from paceline.train.environment import peak_memory_bytes, reset_peak_memory

CPU = torch.device("cpu")
MIB = 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc decides what it keeps")
def test_what_an_earlier_trial_has_freed_is_not_a_later_ones_peak():
    """Blocks that the allocator keeps, because one above them is in use."""
    blocks = [torch.ones(20_000) for _ in range(4000)]  # 80 kB each: from the heap, not mapped
    kept = blocks[-1]
    high = peak_memory_bytes(CPU)
    del blocks
    reset_peak_memory(CPU)
    assert peak_memory_bytes(CPU) < high - 200 * MIB
    assert kept.sum() == 20_000
