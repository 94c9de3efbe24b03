"""Convert published ImageNet32/64 files to an image store: one file at a time, written aside, then renamed.

A store is visible only when it is complete. What is being written lies in ``<name>.partial-...`` beside it, with a lock
that its writer holds; a partial folder that nobody holds was left by a process that was killed, and the next run
removes it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from paceline.data import class_names, imagenet
from paceline.data.catalog import DATASETS, require_known
from paceline.data.dataset import dense_labels
from paceline.data.moments import Moments
from paceline.data.store import (
    MEAN_FILE,
    META_FILE,
    FileEntry,
    StoreMeta,
    images_file,
    labels_file,
    open_store,
    read_meta,
)
from paceline.errors import DataError, UsageError

Progress = Callable[[str, int, int], None]
"""Called with what is under way, the source bytes done, and the source bytes in all."""

_LOCK_FILE = "lock"


def prepare(name: str, source: Path, data_dir: Path, progress: Progress = lambda *_: None) -> Path:
    """Write the store ``<data_dir>/<name>/`` from the published files in ``source``, and return that folder.

    Memory stays below the largest source file plus some tens of MB. A run that was killed is simply run again. A
    finished store of the same source is returned as it is.
    Raises: UsageError if ``name`` is not one that is prepared; DataError if ``source`` is incomplete or damaged, if
        another store or other files are in the way, or if the folder cannot be written (full, read-only); nothing
        half-written is left.
    """
    known = require_known(name)
    if known.kind != "imagenet":
        prepared = ", ".join(name for name, entry in DATASETS.items() if entry.kind == "imagenet")
        raise UsageError(
            f"'{name}' is used as published, without preparing ({prepared} are prepared). {known.how_to_get}"
        )
    imagenet.require_layout(source)
    target = data_dir / name
    if _is_finished(target, name, source, progress):
        return target
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        _require_space(source, data_dir)
        with _aside(target) as partial:
            meta = _Conversion(partial, source, known.image_size, progress).run(name)
            _write(partial / META_FILE, meta.model_dump_json(indent=2).encode() + b"\n")
    except OSError as error:
        hint = ": free some space there" if error.errno == errno.ENOSPC else ""
        raise DataError(
            f"{data_dir}: cannot write the store: {error.strerror or error}{hint}, or give another folder by "
            "--data-dir. Nothing half-written was left"
        ) from error
    return target


class _Conversion:
    """The state that grows from source file to source file."""

    def __init__(self, folder: Path, source: Path, image_size: int, progress: Progress) -> None:
        self._folder, self._source, self._image_size, self._progress = folder, source, image_size, progress
        self._moments = Moments((3, image_size, image_size))
        self._mean: NDArray[np.float64] | None = None
        self._sources: dict[str, FileEntry] = {}
        self._files: dict[str, FileEntry] = {}
        self._read_by_content: dict[str, str] = {}
        self._total_bytes = _source_bytes(source)

    def run(self, name: str) -> StoreMeta:
        names = class_names.published_names(self._source)  # first: its errors should not cost a conversion
        train = self._convert("train", imagenet.TRAIN_FILES)
        test = self._convert("test", (imagenet.TEST_FILE,))
        present = dense_labels(train, test, where=self._source)[0].tolist()
        assert self._mean is not None
        self._save(MEAN_FILE, self._mean)
        return StoreMeta(
            name=name,
            image_size=self._image_size,
            num_images={"train": len(train), "test": len(test)},
            class_labels=present,
            class_names=class_names.names_of(present, names),
            channel_std=self._moments.channel_std(self._mean).tolist(),
            files=self._files,
            sources=self._sources,
        )

    def _convert(self, split: Literal["train", "test"], names: tuple[str, ...]) -> NDArray[np.int64]:
        digest = hashlib.sha256()
        with (self._folder / images_file(split)).open("xb") as stream:
            labels = np.concatenate([self._convert_file(name, split, stream, digest) for name in names])
            _flush(stream)
            self._files[images_file(split)] = FileEntry(bytes=stream.tell(), sha256=digest.hexdigest())
        self._save(labels_file(split), labels)
        return labels

    def _convert_file(
        self, name: str, split: Literal["train", "test"], stream: BinaryIO, digest: hashlib._Hash
    ) -> NDArray[np.int64]:
        path = self._source / name
        self._progress(name, self._bytes_done(), self._total_bytes)
        self._sources[name] = _fingerprint(path)
        batch = imagenet.read_batch(path, image_size=self._image_size, has_mean=split == "train")
        self._refuse_repeat(path, batch)
        if split == "train":
            self._agree_on_mean(path, batch)
            self._moments.add(batch.images)
        pixels = batch.images.reshape(-1).data
        digest.update(pixels)
        stream.write(pixels)
        self._progress(name, self._bytes_done(), self._total_bytes)
        return batch.labels

    def _refuse_repeat(self, path: Path, batch: imagenet.Batch) -> None:
        content = hashlib.sha256(batch.images.data)
        content.update(batch.labels.data)
        earlier = self._read_by_content.setdefault(content.hexdigest(), path.name)
        if earlier != path.name:
            raise DataError(f"{path}: repeats {earlier}: the same images and labels. Fetch {path.name} again")

    def _agree_on_mean(self, path: Path, batch: imagenet.Batch) -> None:
        assert batch.mean is not None
        if self._mean is None:
            self._mean = batch.mean
        elif not np.allclose(batch.mean, self._mean, rtol=0, atol=1e-6):
            raise DataError(
                f"{path}: its 'mean' is not that of {imagenet.TRAIN_FILES[0]}: all training files carry the mean of "
                "the whole training set. Are these files of one data set?"
            )

    def _bytes_done(self) -> int:
        return sum(entry.bytes for entry in self._sources.values())

    def _save(self, name: str, array: NDArray[np.generic]) -> None:
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, array, allow_pickle=False)
        content = buffer.getvalue()
        _write(self._folder / name, content)
        self._files[name] = FileEntry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _is_finished(target: Path, name: str, source: Path, progress: Progress) -> bool:
    """Say whether ``target`` is a store of ``source`` already; refuse if something else is in its place."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    if not (target / META_FILE).is_file():
        raise DataError(
            f"{target}: the store would be written here, but other files are here already"
            f"{' (the published ones)' if target.resolve() == source.resolve() else ''}. "
            "Give another folder by --data-dir"
        )
    open_store(target, name=name)
    recorded = read_meta(target).sources
    total_bytes = _source_bytes(source)
    done_bytes = 0
    for file_name, entry in recorded.items():
        progress(f"comparing {file_name}", done_bytes, total_bytes)
        path = source / file_name
        if path.stat().st_size != entry.bytes or _fingerprint(path) != entry:
            raise DataError(
                f"{target}: a finished store made from another {file_name} than {path}. Delete that folder, "
                "or give another by --data-dir"
            )
        done_bytes += entry.bytes
    progress("already prepared", total_bytes, total_bytes)
    return True


@contextlib.contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """Offer a new folder beside ``target`` that takes its place on success and is removed on failure."""
    for stale in target.parent.glob(f"{target.name}.partial-*"):
        with _locked(stale):
            shutil.rmtree(stale)
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    partial.mkdir()
    try:
        with _locked(partial):
            yield partial
            (partial / _LOCK_FILE).unlink()
            partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _sync_folder(target.parent)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        with FileLock(folder / _LOCK_FILE, timeout=0):
            yield
    except Timeout:
        raise DataError(f"{folder}: another `paceline data prepare` is writing here. Wait for it to finish") from None


def _require_space(source: Path, data_dir: Path) -> None:
    needed, free = _source_bytes(source), shutil.disk_usage(data_dir).free
    if free < needed:
        raise DataError(
            f"{data_dir}: no space: the store takes about {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free. "
            "Free some, or give another folder by --data-dir"
        )


def _source_bytes(source: Path) -> int:
    return sum((source / name).stat().st_size for name in (*imagenet.TRAIN_FILES, imagenet.TEST_FILE))


def _fingerprint(path: Path) -> FileEntry:
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return FileEntry(bytes=stream.tell(), sha256=digest)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(content)
        _flush(stream)


def _flush(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
