"""Random images in the published ImageNet32 layout, and the store that paceline makes of them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from benchmarks.programs import PACELINE, run

NUM_FILES = 10
ROW = 3 * 32 * 32


def write_source(folder: Path, *, num_train: int, num_test: int = 1000, num_classes: int = 1000) -> Path:
    """Write ten training files and ``val_data``; every class is there at least once."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    mean = np.full(ROW, 127.5)
    labels = rng.permutation(np.arange(num_train) % num_classes) + 1
    for number, own in enumerate(np.array_split(labels, NUM_FILES), start=1):
        images = rng.integers(0, 256, (len(own), ROW), dtype=np.uint8)
        content = {"data": images, "labels": own.tolist(), "mean": mean}
        (folder / f"train_data_batch_{number}").write_bytes(pickle.dumps(content, protocol=3))
    images = rng.integers(0, 256, (num_test, ROW), dtype=np.uint8)
    content = {"data": images, "labels": (np.arange(num_test) % num_classes + 1).tolist()}
    (folder / "val_data").write_bytes(pickle.dumps(content, protocol=3))
    return folder


def prepare(source: Path, data_dir: Path) -> Path:
    """Convert a source by ``paceline data prepare``; returns the folder to name by ``--data-dir``."""
    data_dir.mkdir(parents=True, exist_ok=True)
    run([*PACELINE, "data", "prepare", "imagenet32", "--source", str(source), "--data-dir", str(data_dir)])
    return data_dir
