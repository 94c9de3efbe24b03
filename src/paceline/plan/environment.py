"""What is recorded of the controlling host, so that a run can be repeated: ``environment.json``."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import distributions
from typing import Any

import psutil

from paceline import __version__

_PACKAGES = {"torch", "numpy", "scipy", "pandas", "pydantic", "altair"}


def environment() -> dict[str, Any]:
    """Versions, processor, memory, and the commit of the working folder if it is a git checkout."""
    return {
        "paceline": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "host": platform.node(),
        "num_cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "packages": {
            name: found.version for found in distributions() if (name := (found.name or "").lower()) in _PACKAGES
        },
        "git_commit": _git_commit(),
    }


def _git_commit() -> str:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
