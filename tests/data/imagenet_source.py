"""Small synthetic folders in the published ImageNet32/64 layout."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

LABELS = (449, 7, 1000, 1)
MAP = "n02119789 1 kit_fox\nn01440764 449 tench\nn01443537 7 goldfish\nn03255030 1000 dumbbell\n"
# 0 = n01440764 tench, 1 = n01443537 goldfish, 2 = n02119789 kit fox, 3 = n03255030 dumbbell: sorted WordNet ids
NAMES = "{0: 'tench, Tinca tinca',\n 1: 'goldfish',\n 2: \"kit fox, Vulpes macrotis\",\n 3: 'dumbbell'}"


def write_source(folder: Path, *, per_file: int = 8, image_size: int = 32, names: bool = True) -> Path:
    """Write ten training files of ``per_file`` images and ``val_data``."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    row_length = 3 * image_size**2
    data = rng.integers(0, 256, (10, per_file, row_length), dtype=np.uint8)
    mean = data.reshape(-1, row_length).mean(axis=0)
    labels = [LABELS[index % 4] for index in range(per_file)]
    for number in range(1, 11):
        dump(folder / f"train_data_batch_{number}", {"data": data[number - 1], "labels": labels, "mean": mean})
    validation = rng.integers(0, 256, (per_file, row_length), dtype=np.uint8)
    dump(folder / "val_data", {"data": validation, "labels": labels})
    if names:
        (folder / "map_clsloc.txt").write_text(MAP)
        (folder / "imagenet1000_clsidx_to_labels.txt").write_text(NAMES)
    return folder


def load(path: Path) -> dict[str, Any]:
    return pickle.loads(path.read_bytes())


def dump(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps(content, protocol=3))


def change(path: Path, **changes: Any) -> None:
    """Replace entries of a pickled dict; None removes one."""
    content = {**load(path), **changes}
    dump(path, {key: value for key, value in content.items() if value is not None})
