"""Checkpoints: written aside, flushed, renamed, with a digest beside; the one before is kept.

Files: ``TRIAL/checkpoints/update-000000123.pt`` and ``.pt.sha256``. The newest whose digest agrees is the one to use.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from paceline.errors import DataError, PacelineError
from paceline.records import write_atomically

SCHEMA_VERSION = 2  # 1 had no state of each rank, and was written after whole epochs only
KEPT = 2


def save(trial_dir: Path, state: dict[str, Any], *, num_updates: int) -> Path:
    """Write the state after ``num_updates`` updates and drop all but the newest two checkpoints.

    Raises: PacelineError if the disk is full or cannot be written.
    """
    folder = trial_dir / "checkpoints"
    folder.mkdir(exist_ok=True)
    path = folder / f"update-{num_updates:09d}.pt"
    aside = folder / f".{path.name}.{os.getpid()}"
    try:
        with aside.open("wb") as file:  # given a path, torch would keep the space of a file that did not fit
            torch.save({"schema_version": SCHEMA_VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        write_atomically(_digest_path(path), _sha256(aside).encode())
        aside.replace(path)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else error.__context__  # torch raises its own on top of it
        if isinstance(cause, OSError):
            raise PacelineError(
                f"checkpoint {path} cannot be written: {cause.strerror}; make room, and run the same command to go on"
            ) from error
        raise
    for old in sorted(folder.glob("update-*.pt"))[:-KEPT]:
        old.unlink()
        _digest_path(old).unlink(missing_ok=True)
    return path


def load_newest(trial_dir: Path) -> dict[str, Any] | None:
    """The newest whole checkpoint of a trial, None where there is none.

    Raises: DataError if there are checkpoints and all are damaged, or the newest comes from a newer paceline.
    """
    paths = sorted((trial_dir / "checkpoints").glob("update-*.pt"), reverse=True)
    for path in paths:
        digest = _digest_path(path)
        if digest.exists() and digest.read_text() == _sha256(path):
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            if state["schema_version"] > SCHEMA_VERSION:
                raise DataError(
                    f"{path} has schema version {state['schema_version']}, this paceline reads up to {SCHEMA_VERSION}"
                )
            return state
    if paths:
        raise DataError(f"every checkpoint in {paths[0].parent} is damaged; remove that folder to begin the trial anew")
    return None


def _digest_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
