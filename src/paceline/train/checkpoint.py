"""Checkpoints: written aside, flushed, renamed, read back; only then does an older one go.

Files: ``TRIAL/checkpoints/update-000000123.pt`` and ``.pt.sha256``, the digest of what was to be written, taken on the
way to the disk. The newest file that agrees with its digest is the one to use.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from paceline.errors import DataError, PacelineError
from paceline.records import sweep, write_atomically
from paceline.train.archive import refuse_bomb

SCHEMA_VERSION = 3  # 1 had no state of each rank, only whole epochs; 2 had no generators but torch's


@dataclass(frozen=True, kw_only=True)
class Newest:
    """The newest checkpoint that can be used, and what is wrong with newer ones, in words."""

    path: Path
    state: dict[str, Any]
    passed_over: tuple[str, ...]


def save(trial_dir: Path, state: Mapping[str, Any], *, num_updates: int, kept: int = 2) -> Path:
    """Write the state after ``num_updates`` updates, and drop all but the newest ``kept`` checkpoints.

    Raises: PacelineError if the disk is full, cannot be written, or gives back something else.
    """
    folder = trial_dir / "checkpoints"
    path = folder / f"update-{num_updates:09d}.pt"
    aside = folder / f".{path.name}.{os.getpid()}"
    try:
        folder.mkdir(exist_ok=True)
        sweep(folder)
        write_atomically(_digest_path(path), _write(aside, {"schema_version": SCHEMA_VERSION, **state}).encode())
        aside.replace(path)
        _flush(folder)
        if fault := _fault(path):
            path.unlink(missing_ok=True)
            raise PacelineError(f"checkpoint {path} {fault} when it is read back: do not trust the disk that holds it")
        _drop_old(path, kept)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else error.__context__  # torch raises its own on top of it
        if isinstance(cause, OSError):
            raise PacelineError(
                f"checkpoint {path} cannot be written: {cause.strerror}; make room, and run the same command to go on"
            ) from error
        raise
    return path


def newest(trial_dir: Path, *, most_epochs: float = math.inf) -> Newest | None:
    """The newest checkpoint of a trial that can be used, None where there is none at all.

    Args:
        most_epochs: as many as every rank has records of.
    Raises: DataError if there are checkpoints and all are damaged, or the newest whole one is of a newer paceline, or
        holds more than tensors, numbers and text.
    """
    faults: list[str] = []
    for path in sorted((trial_dir / "checkpoints").glob("update-*.pt"), reverse=True):
        if not (fault := _fault(path)):
            state = _load(path)
            num_epochs = state.get("progress", {}).get("epoch", 0)
            if num_epochs <= most_epochs:
                return Newest(path=path, state=state, passed_over=tuple(faults))
            fault = f"is of {num_epochs} epochs, and records of {most_epochs:g} are left"
        faults.append(f"{path.name} {fault}")
    if faults:
        raise DataError(
            f"every checkpoint in {trial_dir / 'checkpoints'} is damaged; remove that folder to begin "
            f"the trial anew ({', '.join(faults)})"
        )
    return None


def load_newest(trial_dir: Path) -> dict[str, Any] | None:
    """What the newest checkpoint that can be used holds, None where there is none at all.

    Raises: as ``newest``.
    """
    found = newest(trial_dir)
    return None if found is None else found.state


class _Hashing:
    """A file of torch's that takes the digest of what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, part: bytes) -> int:
        self.digest.update(part)
        return self._file.write(part)

    def flush(self) -> None:
        self._file.flush()


def _write(path: Path, state: dict[str, Any]) -> str:
    """Write and flush to disk; returns the digest of what was written."""
    with path.open("wb") as file:  # given a path, torch would keep the space of a file that did not fit
        hashing = _Hashing(file)
        torch.save(state, hashing)  # type: ignore[arg-type] # it needs no more of a file than this
        file.flush()
        os.fsync(file.fileno())
    return hashing.digest.hexdigest()


def _flush(folder: Path) -> None:
    """Have the names in a folder on disk, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that knows no such thing
            raise
    finally:
        os.close(descriptor)


def _fault(path: Path) -> str:
    """What is wrong with a checkpoint's file, in words; empty if it is what was written."""
    try:
        told = _digest_path(path).read_bytes()
        return "" if told == _sha256(path).encode() else "is not what was written"
    except FileNotFoundError:
        return "has no digest"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _load(path: Path) -> dict[str, Any]:
    try:
        refuse_bomb(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
        version = int(state["schema_version"])
    except Exception as error:  # whatever a file raises that has a digest and is none of ours
        why = str(error).partition("\n")[0].partition(". ")[0]
        raise DataError(f"{path} is no checkpoint of paceline: {type(error).__name__}: {why}") from error
    if version > SCHEMA_VERSION:
        raise DataError(
            f"{path} has schema version {version}, this paceline reads up to {SCHEMA_VERSION}: upgrade paceline"
        )
    return dict(state)


def _drop_old(newest: Path, kept: int) -> None:
    """Keep the newest few; those of later updates, which the trial has passed over, and digests of nothing go."""
    folder = newest.parent
    paths = sorted(folder.glob("update-*.pt"))
    keep = [path for path in paths if path.name <= newest.name][-kept:]
    for path in paths:
        if path not in keep:
            path.unlink()
    for digest in folder.glob("update-*.pt.sha256"):
        if not digest.with_suffix("").exists():
            digest.unlink()


def _digest_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sha256(path: Path) -> str:
    """Of what the disk has, not of what memory still holds, where the system can tell the two apart."""
    with path.open("rb") as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(file, "sha256").hexdigest()
