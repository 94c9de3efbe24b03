"""Crops and flips depend on (seed, epoch, index) alone."""

import numpy as np
import pytest

from paceline.data.augment import PAD, crop_and_flip
from paceline.data.hashing import splitmix64
from paceline.errors import UsageError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(1, 256, (500, 3, 32, 32), dtype=np.uint8)
INDICES = RNG.permutation(500)


def test_splitmix64_gives_the_published_numbers():
    """The first outputs of the generator seeded with 1234567, as in its reference implementations."""
    gamma = np.uint64(0x9E3779B97F4A7C15)
    states = np.uint64(1234567) + np.arange(3, dtype=np.uint64) * gamma
    assert splitmix64(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_each_image_is_a_shifted_and_perhaps_mirrored_copy_of_itself():
    result = crop_and_flip(IMAGES, INDICES, seed=1, epoch=2)
    padded = np.pad(IMAGES, ((0, 0), (0, 0), (PAD, PAD), (PAD, PAD)))
    seen = set()
    for image, outcome in zip(padded[:60], result[:60], strict=True):
        matches = [
            (row, column, flipped)
            for row in range(2 * PAD + 1)
            for column in range(2 * PAD + 1)
            for flipped, candidate in enumerate((outcome, outcome[:, :, ::-1]))
            if np.array_equal(image[:, row : row + 32, column : column + 32], candidate)
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 40


def test_the_parts_of_a_batch_get_what_the_whole_gets():
    whole = crop_and_flip(IMAGES, INDICES, seed=1, epoch=2)
    parts = [crop_and_flip(IMAGES[cut], INDICES[cut], seed=1, epoch=2) for cut in (slice(0, 170), slice(170, 500))]
    assert np.array_equal(np.concatenate(parts), whole)
    order = RNG.permutation(500)
    assert np.array_equal(crop_and_flip(IMAGES[order], INDICES[order], seed=1, epoch=2), whole[order])


def test_seeds_and_epochs_differ_and_half_are_mirrored():
    base = crop_and_flip(IMAGES, INDICES, seed=1, epoch=2)
    for seed, epoch in ((1, 3), (2, 2), (2, 1)):
        assert not np.array_equal(crop_and_flip(IMAGES, INDICES, seed=seed, epoch=epoch), base)
    unflipped = crop_and_flip(IMAGES, INDICES, seed=1, epoch=2, flip=False)
    mirrored = sum(not np.array_equal(a, b) for a, b in zip(base, unflipped, strict=True))
    assert 200 < mirrored < 300


def test_every_shift_is_equally_likely():
    pixel = np.zeros((20_000, 1, 32, 32), np.uint8)
    pixel[:, 0, 16, 16] = 1
    _, _, rows, columns = np.nonzero(crop_and_flip(pixel, np.arange(20_000), seed=0, epoch=0, flip=False))
    counts = np.bincount((rows - 12) * 9 + columns - 12, minlength=81)
    chi_square = ((counts - 20_000 / 81) ** 2).sum() / (20_000 / 81)
    assert len(counts) == 81
    assert chi_square < 130  # 80 degrees of freedom: p = 3e-4


def test_the_input_is_left_alone_and_shapes_are_checked():
    before = IMAGES.copy()
    crop_and_flip(IMAGES, INDICES, seed=0, epoch=0)
    assert np.array_equal(before, IMAGES)
    with pytest.raises(UsageError, match=r"\(500, 3, 32, 32\)"):
        crop_and_flip(IMAGES, INDICES[:10], seed=0, epoch=0)
