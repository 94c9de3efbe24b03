"""Small file systems of one's own: full ones, read-only ones."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PLENTY = 10_000  # pages of 4 kB, or files


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[Path]:
    """Mount a tmpfs on ``folder``, made if need be; skips with the reason where this may not be done."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def leave_room(disk: Path, *, pages: int | None = None, files: int | None = None) -> None:
    """Let a tmpfs take so many pages of 4 kB, or files, beyond what it holds; what is not given is plenty."""
    if not (disk / "ballast").exists():
        (disk / "ballast").write_bytes(b"to a tmpfs, a limit of no page is none")
    taken = os.statvfs(disk)
    page_limit = PLENTY if pages is None else taken.f_blocks - taken.f_bfree + pages
    file_limit = PLENTY if files is None else taken.f_files - taken.f_ffree + files
    limits = f"remount,size={page_limit * 4}k,nr_inodes={file_limit}"
    subprocess.run(["mount", "-o", limits, str(disk)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing below ``folder`` can be made, removed or opened for writing; what is open goes on."""
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        deadline = time.monotonic() + 20
        while subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=False).returncode:
            assert time.monotonic() < deadline, "somebody writes there all the time"
            time.sleep(0.01)  # busy, while a write is under way
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
