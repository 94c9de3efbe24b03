"""The data sets this program knows, where they are looked for, and how to open them.

A data set is a folder of its name: of idx files as published, or a store that ``paceline data prepare`` wrote. A folder
that is found but damaged is an error, never passed over for the next place.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from paceline.data import imagenet
from paceline.data.dataset import ImageArray, ImageDataset, PaddedImages, content_digest, dense_labels
from paceline.data.idx import read_idx
from paceline.data.moments import Moments
from paceline.data.store import META_FILE, open_store, read_meta, store_digest
from paceline.errors import DataError, UsageError, nearest

__all__ = [
    "DATASETS", "ImageArray", "ImageDataset", "KnownDataset", "dataset_digest", "default_data_dir", "find_first",
    "locate", "open_dataset", "require_known", "search_path",
]  # fmt: skip

IDX_STEMS = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("test", "images"): "t10k-images-idx3-ubyte",
    ("test", "labels"): "t10k-labels-idx1-ubyte",
}
PADDED_SIZE = 32  # one-channel images of 28 x 28 are zero-padded to this: LeCun et al. 1998, section II.B

_DIGITS = tuple("0123456789")
_FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_IDX_HOW = (
    "Put the four published idx files ({stems}; .gz or not) into D/{name}, and name D by --data-dir or PACELINE_DATA"
)
_IMAGENET_HOW = (
    "Download it from https://image-net.org/download-images.php (an account is needed), unpack it into one folder DIR, "
    "then run `paceline data prepare {name} --source DIR --data-dir D`"
)


@dataclass(frozen=True, kw_only=True)
class KnownDataset:
    """One line of the catalog: ``image_size`` as published; ``class_names`` where the publisher gives them in prose."""

    kind: Literal["idx", "imagenet"]
    image_size: int
    class_names: tuple[str, ...] | None = None
    embedded: bool = False
    how_to_get: str


def _idx(name: str, class_names: tuple[str, ...], *, embedded: bool = False) -> KnownDataset:
    how = _IDX_HOW.format(name=name, stems=", ".join(IDX_STEMS.values()))
    return KnownDataset(kind="idx", image_size=28, class_names=class_names, embedded=embedded, how_to_get=how)


DATASETS: dict[str, KnownDataset] = {
    "mnist": _idx("mnist", _DIGITS),
    "mnist-small": _idx("mnist-small", _DIGITS, embedded=True),
    "fashion-mnist": _idx("fashion-mnist", _FASHION),
    "fashion-mnist-small": _idx("fashion-mnist-small", _FASHION),
    "imagenet32": KnownDataset(kind="imagenet", image_size=32, how_to_get=_IMAGENET_HOW.format(name="imagenet32")),
    "imagenet64": KnownDataset(kind="imagenet", image_size=64, how_to_get=_IMAGENET_HOW.format(name="imagenet64")),
}


def require_known(name: str) -> KnownDataset:
    """Look ``name`` up. Raises: UsageError with the nearest match and the list."""
    if name not in DATASETS:
        raise UsageError(f"unknown data set '{name}': {nearest(name, DATASETS)}")
    return DATASETS[name]


def search_path(data_dir: Path | None) -> list[Path]:
    """List the folders in which data sets are looked for: ``data_dir``, then PACELINE_DATA, then the user's cache."""
    import platformdirs

    chosen = [Path(place) for place in (data_dir, os.environ.get("PACELINE_DATA")) if place]
    return [*chosen, platformdirs.user_cache_path("paceline") / "data"]


def default_data_dir() -> Path:
    """Return the folder that ``prepare`` writes to when none is named."""
    return search_path(None)[0]


def locate(name: str, data_dir: Path | None = None) -> Path | None:
    """Find the folder of data set ``name``; None if there is none.

    Raises: UsageError for an unknown name; DataError if a folder that was named (``data_dir``, PACELINE_DATA) does not
        exist.
    """
    known = require_known(name)
    *chosen, cache = search_path(data_dir)
    for place in chosen:
        if not place.is_dir():
            origin = "--data-dir" if place == data_dir else "PACELINE_DATA"
            raise DataError(f"{place}: no such folder, though {origin} names it. Create it, or name another")
    embedded = [_embedded_dir()] if known.embedded else []
    return next((place / name for place in (*chosen, cache, *embedded) if (place / name).is_dir()), None)


def find_first(names: Sequence[str], data_dir: Path | None = None) -> str:
    """Return the first of ``names``, in order of preference, that is found.

    Raises: DataError if none is, with where it was looked for and how to get the first one.
    """
    for name in names:
        if locate(name, data_dir) is not None:
            return name
    raise _not_found(names, data_dir)


def open_dataset(name: str, data_dir: Path | None = None) -> ImageDataset:
    """Open data set ``name``; idx sets are read into memory as uint8, stores are read when gathered.

    Raises: UsageError for an unknown name; DataError if it is not found (with where it was looked for and how to get
        it), or is found and damaged.
    """
    known, path = require_known(name), _located(name, data_dir)
    if known.kind == "imagenet":
        _require_store(path, name)
        return open_store(path, name=name)
    return _open_idx(name, path, known)


def dataset_digest(name: str, data_dir: Path | None = None) -> str:
    """Return ``open_dataset(name, data_dir).digest`` for less.

    The images of a store are not read, and no statistics are made.
    Raises: as ``open_dataset``.
    """
    known, path = require_known(name), _located(name, data_dir)
    if known.kind == "imagenet":
        _require_store(path, name)
        return store_digest(read_meta(path))
    return _idx_digest(_read_idx_files(path, known))


def _located(name: str, data_dir: Path | None) -> Path:
    path = locate(name, data_dir)
    if path is None:
        raise _not_found([name], data_dir)
    return path


def _not_found(names: Sequence[str], data_dir: Path | None) -> DataError:
    places = search_path(data_dir)
    lines = [f"data set {' or '.join(map(repr, names))} not found. Looked in:"]
    lines += [f"  {place}{'' if place.is_dir() else ' (no such folder)'}" for place in places]
    raw = next((folder for place in places for folder in (place, *_subfolders(place)) if _is_raw(folder)), None)
    name = next((name for name in names if DATASETS[name].kind == "imagenet"), None)
    if raw and name:
        lines.append(f"Published files lie in {raw}: `paceline data prepare {name} --source {raw} --data-dir D`")
    else:
        lines.append(DATASETS[names[0]].how_to_get)
    return DataError("\n".join(lines))


def _subfolders(place: Path) -> list[Path]:
    return sorted(child for child in place.iterdir() if child.is_dir()) if place.is_dir() else []


def _is_raw(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (imagenet.TRAIN_FILES[0], imagenet.TEST_FILE))


def _require_store(path: Path, name: str) -> None:
    if (path / META_FILE).is_file():
        return
    if _is_raw(path):
        raise DataError(
            f"{path}: the published files, not yet prepared. Run `paceline data prepare {name} --source {path} "
            f"--data-dir D`, with D another folder than {path.parent}"
        )
    raise DataError(f"{path}: no store: it has no {META_FILE}. {DATASETS[name].how_to_get}")


def _embedded_dir() -> Path:
    return Path(__file__).parent / "embedded"


def _open_idx(name: str, path: Path, known: KnownDataset) -> ImageDataset:
    arrays = _read_idx_files(path, known)
    present, train_labels, test_labels = dense_labels(arrays["train-labels"], arrays["test-labels"], where=path)
    train = PaddedImages(arrays["train-images"], train_labels, PADDED_SIZE)
    moments = Moments((1, PADDED_SIZE, PADDED_SIZE))
    for start in range(0, len(train), 4096):
        moments.add(train.gather(np.arange(start, min(start + 4096, len(train)))))
    mean = moments.mean_image()
    assert known.class_names is not None
    return ImageDataset(
        name=name,
        path=path,
        digest=_idx_digest(arrays),
        class_names=tuple(known.class_names[label] for label in present),
        train=train,
        test=PaddedImages(arrays["test-images"], test_labels, PADDED_SIZE),
        mean_image=mean.astype(np.float32),
        channel_std=moments.channel_std(mean),
        image_shape=(1, PADDED_SIZE, PADDED_SIZE),
    )


def _idx_digest(arrays: dict[str, NDArray[np.uint8]]) -> str:
    parts = {f"{name} {array.shape}": hashlib.sha256(array.data).hexdigest() for name, array in arrays.items()}
    return content_digest(parts)


def _read_idx_files(path: Path, known: KnownDataset) -> dict[str, NDArray[np.uint8]]:
    arrays: dict[str, NDArray[np.uint8]] = {}
    for (split, what), stem in IDX_STEMS.items():
        file = _idx_file(path, stem)
        array = read_idx(file, num_dims=3 if what == "images" else 1)
        if what == "images":
            _check_images(array, file, known)
        else:
            _check_labels(array, file, known, num_images=len(arrays[f"{split}-images"]))
        arrays[f"{split}-{what}"] = array
    return arrays


def _idx_file(path: Path, stem: str) -> Path:
    for file in (path / stem, path / f"{stem}.gz"):
        if file.is_file():
            return file
    raise DataError(f"{path}: has neither {stem} nor {stem}.gz: the four published idx files are needed")


def _check_images(images: NDArray[np.uint8], file: Path, known: KnownDataset) -> None:
    size = known.image_size
    if images.shape[1:] != (size, size) or not len(images):
        raise DataError(f"{file}: images of shape {images.shape}: (N, {size}, {size}) is expected, N at least 1")


def _check_labels(labels: NDArray[np.uint8], file: Path, known: KnownDataset, *, num_images: int) -> None:
    if len(labels) != num_images:
        raise DataError(f"{file}: {len(labels)} labels for {num_images} images: the counts must agree")
    assert known.class_names is not None
    if int(labels.max()) >= len(known.class_names):
        raise DataError(f"{file}: label {labels.max()}: labels are 0..{len(known.class_names) - 1}")
