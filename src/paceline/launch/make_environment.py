"""Make an environment from wheels: ``python make_environment.py FOLDER WHEELS REQUIREMENT...``.

This file is sent to hosts as it stands, hence the standard library alone. Hosts may share ``FOLDER``: one makes it, the
others wait. It is whole once ``FOLDER/.whole`` is there.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path


def make(folder: Path, wheels: Path, requirements: list[str]) -> int:
    """Make it unless it is there; returns the exit code of what failed, whose last words are on standard error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    options = ["--isolated", "--no-index", "--find-links", str(wheels.absolute()), "--disable-pip-version-check"]
    settings = os.environ | {"PIP_CONFIG_FILE": os.devnull}  # what it says of indexes and versions is of other wheels
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / ".whole").exists():
            return 0
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [str(folder / "bin" / "python"), "-m", "pip", "install", *options, "--", *requirements],
        ):
            done = subprocess.run(command, env=settings, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
            if done.returncode:
                return done.returncode
        (folder / ".whole").touch()
    return 0


if __name__ == "__main__":
    sys.exit(make(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
