"""Other programs, started as a user would, with one thread."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from paceline.launch.local import ALLOCATOR

ROOT = Path(__file__).parent.parent
# of every program here, ours and others: one thread, and the allocator's settings with which paceline starts its ranks
ENVIRONMENT = ALLOCATOR | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
PACELINE = [str(Path(sys.executable).with_name("paceline"))]


def run(command: list[str], *, check: bool = True) -> str:
    """Run a program to its end; returns what it wrote to standard output.

    Raises: RuntimeError with the end of what it wrote, if it failed.
    """
    done = subprocess.run(command, cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def module(name: str, *arguments: object) -> list[str]:
    """The command of a module of this Python."""
    return [sys.executable, "-m", name, *map(str, arguments)]


def torchrun(num_ranks: int, name: str, *arguments: object) -> list[str]:
    """The command of a module on several ranks of this host."""
    options = ["--standalone", "--nproc-per-node", num_ranks, "-m", name]
    return module("torch.distributed.run", *options, *arguments)


def peak_memory_bytes() -> int:
    """The most memory that this process held (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
