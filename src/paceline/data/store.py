"""The image store: large data sets converted once to raw bytes, read by index in constant memory.

``<data_dir>/<name>/`` holds ``train-images.u8`` and ``test-images.u8`` (uint8, (N, 3, S, S), nothing else in the file),
``train-labels.npy`` and ``test-labels.npy`` (published labels), ``mean-image.npy``, and ``meta.json``, which is written
last.

Images are read with ``preadv``, not through a memory map: as fast as a map that is told to forget its pages (measured
on batches of 64), but a map counts the page cache's large folios as resident, so that peak memory would grow with the
data set; and a file cut short under its reader is an error here, not a SIGBUS.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import weakref
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paceline.data.dataset import ImageArray, ImageDataset, content_digest, dense_labels
from paceline.errors import DataError
from paceline.textfiles import json_file, read_bounded

SCHEMA_VERSION = 1
META_FILE = "meta.json"
SPLITS: tuple[Literal["train", "test"], ...] = ("train", "test")
MEAN_FILE = "mean-image.npy"
# What numpy writes before an array of numbers. Its own reader takes for Python what stands there.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(?P<dtype>[<|](?:f[248]|[iu][1248]))', 'fortran_order': False, "
    rb"'shape': \((?P<shape>[0-9]{1,12},(?: [0-9]{1,12},?){0,3})\), \} *\n",
    re.DOTALL,
)
_MOST_ARRAY_BYTES = 1 << 30  # of labels and of the mean image, which are read into memory

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class FileEntry(BaseModel):
    """What one file must be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class StoreMeta(BaseModel):
    """``meta.json``: what the store holds, what it was made from, and the facts that are not arrays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    name: str
    image_size: Annotated[int, Field(gt=0)]
    num_images: dict[Literal["train", "test"], Annotated[int, Field(gt=0)]]
    class_labels: list[int]  # published labels, in the order of the dense ones
    class_names: list[str]
    channel_std: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    files: dict[str, FileEntry]
    sources: dict[str, FileEntry]


def images_file(split: str) -> str:
    """Name the file of raw images of ``train`` or ``test``."""
    return f"{split}-images.u8"


def labels_file(split: str) -> str:
    """Name the file of published labels of ``train`` or ``test``."""
    return f"{split}-labels.npy"


@final
class StoredImages(ImageArray):
    """Images in a raw file, read when gathered; the file stays open for as long as this object lives."""

    def __init__(self, path: Path, labels: NDArray[np.int64], image_shape: tuple[int, int, int]) -> None:
        """Open ``path``, raw uint8 of shape (len(labels), *image_shape)."""
        self.labels, self._path, self._shape = labels, path, image_shape
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"{path}: cannot be opened: {error.strerror}") from error
        weakref.finalize(self, os.close, self._descriptor)

    def _gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        images = np.empty((len(indices), *self._shape), dtype=np.uint8)
        view = images.reshape(-1).data
        size = int(np.prod(self._shape))
        starts = np.flatnonzero(np.diff(indices, prepend=-2) != 1)  # neighbours in the file are read together
        bounds = pairwise([*starts.tolist(), len(indices)])
        try:
            for (start, end), index in zip(bounds, indices[starts].tolist(), strict=True):
                target = view[start * size : end * size]
                if os.preadv(self._descriptor, (target,), index * size) != len(target):
                    self._read_piecewise(target, index * size)
        except OSError as error:
            raise DataError(f"{self._path}: cannot be read: {error.strerror}") from error
        return images

    def _read_piecewise(self, target: memoryview, offset: int) -> None:
        """Fill ``target`` where the file system returns less than was asked for (as beyond 2 GB a call)."""
        while target:
            count = os.preadv(self._descriptor, (target,), offset)
            if not count:
                raise DataError(f"{self._path}: cut short while it was in use. Prepare the data set again")
            target, offset = target[count:], offset + count


def read_meta(path: Path) -> StoreMeta:
    """Read ``meta.json`` of the store in folder ``path``.

    Raises: DataError if it is missing, of another schema version, or damaged.
    """
    meta_path = path / META_FILE
    try:
        content = json_file(meta_path)
        version = content["schema_version"]
    except OSError as error:
        raise DataError(f"{meta_path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{meta_path}: damaged ({error!r}). {_again(path)}") from error
    if version != SCHEMA_VERSION:
        raise DataError(f"{meta_path}: schema version {version}, this program reads {SCHEMA_VERSION}. {_again(path)}")
    try:
        return StoreMeta.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{meta_path}: damaged: {where}: {first['msg']}. {_again(path)}") from error


def store_digest(meta: StoreMeta) -> str:
    """Digest the content of a store from its ``meta.json``, without reading the images."""
    return content_digest({name: entry.sha256 for name, entry in meta.files.items()})


def open_store(path: Path, *, name: str) -> ImageDataset:
    """Open the store in folder ``path``.

    The size of every file is checked, and the digest of the small ones; the images are not read.
    Raises: DataError if the store is not ``name``, or is incomplete or damaged.
    """
    meta = read_meta(path)
    if meta.name != name:
        raise DataError(f"{path}: holds {meta.name}, not {name}. Rename the folder to {meta.name}")
    size = meta.image_size
    _check_files(path, meta)
    published = {split: _load_array(path, labels_file(split), meta, kinds="iu", num_dims=1) for split in SPLITS}
    present, train_labels, test_labels = dense_labels(published["train"], published["test"], where=path)
    mean_image = _load_array(path, MEAN_FILE, meta, kinds="f", num_dims=3).astype(np.float32)
    if (
        present.tolist() != meta.class_labels
        or len(meta.class_names) != len(present)
        or len(meta.channel_std) != 3
        or mean_image.shape != (3, size, size)
        or not np.isfinite(mean_image).all()
        or any(len(published[split]) != meta.num_images.get(split) for split in SPLITS)
    ):
        raise DataError(f"{path / META_FILE}: disagrees with the arrays beside it. {_again(path)}")
    shape = (3, size, size)
    return ImageDataset(
        name=name,
        path=path,
        digest=store_digest(meta),
        class_names=tuple(meta.class_names),
        train=StoredImages(path / images_file("train"), train_labels, shape),
        test=StoredImages(path / images_file("test"), test_labels, shape),
        mean_image=mean_image,
        channel_std=np.array(meta.channel_std, dtype=np.float32),
        image_shape=shape,
    )


def _check_files(path: Path, meta: StoreMeta) -> None:
    expected = {MEAN_FILE, *map(images_file, SPLITS), *map(labels_file, SPLITS)}
    if set(meta.files) != expected:
        raise DataError(f"{path / META_FILE}: lists {sorted(meta.files)}, not {sorted(expected)}. {_again(path)}")
    for name, entry in meta.files.items():
        try:
            given = (path / name).stat().st_size
        except OSError as error:
            raise DataError(f"{path / name}: {error.strerror}: part of the store. {_again(path)}") from error
        if given != entry.bytes:
            raise DataError(
                f"{path / name}: has {given} bytes, not the {entry.bytes} that were written. {_again(path)}"
            )
    for split in SPLITS:
        if meta.files[images_file(split)].bytes != meta.num_images.get(split, 0) * 3 * meta.image_size**2:
            raise DataError(f"{path / META_FILE}: the size of the {split} images is no multiple of N. {_again(path)}")


def _load_array(path: Path, name: str, meta: StoreMeta, *, kinds: str, num_dims: int) -> NDArray[Any]:
    """An array of numbers, of one of ``kinds`` as numpy calls them; no more of it than the file holds."""
    try:
        content = read_bounded(path / name, _MOST_ARRAY_BYTES)
    except OSError as error:
        raise DataError(f"{path / name}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path / name}: {error}. {_again(path)}") from error
    if hashlib.sha256(content).hexdigest() != meta.files[name].sha256:
        raise DataError(f"{path / name}: its content has changed since it was written. {_again(path)}")
    header = _HEADER.match(content)
    if header is None:
        raise DataError(f"{path / name}: no array of numpy's. {_again(path)}")
    shape, dtype = tuple(map(int, re.findall(rb"[0-9]+", header["shape"]))), np.dtype(header["dtype"].decode())
    values = content[header.end() :]
    if dtype.kind not in kinds or len(shape) != num_dims or math.prod(shape) * dtype.itemsize != len(values):
        raise DataError(f"{path / name}: its header tells of {shape} {dtype}, which it does not hold. {_again(path)}")
    return np.frombuffer(values, dtype).reshape(shape)


def _again(path: Path) -> str:
    return f"Delete the folder {path} and run `paceline data prepare` again"
