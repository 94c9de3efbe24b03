"""The installed ``paceline``, run in a folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from ranks import TESTS, wait_until_gone

PACELINE = str(Path(sys.executable).with_name("paceline"))


class CommandLine:
    """The installed ``paceline`` in one folder; nothing that it starts outlives a call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            key: value for key, value in os.environ.items() if key not in ("PACELINE_DATA", "OMP_NUM_THREADS")
        } | {"PYTHONPATH": str(TESTS), "XDG_CACHE_HOME": str(folder / "cache"), "NO_COLOR": "1"}

    def start(self, *arguments: str | Path, program: tuple[str, ...] = (PACELINE,), **environment: str):
        """Start it, and do not wait."""
        return subprocess.Popen(
            [*program, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str], *, deadline_s: float = 90.0) -> subprocess.CompletedProcess[str]:
        """Wait for its end; kill it and its ranks if that takes too long."""
        try:
            out, err = process.communicate(timeout=deadline_s)
        except BaseException:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            self.end_all()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def __call__(
        self,
        *arguments: str | Path,
        program: tuple[str, ...] = (PACELINE,),
        deadline_s: float = 90.0,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        return self.finish(self.start(*arguments, program=program, **environment), deadline_s=deadline_s)

    def end_all(self) -> list[int]:
        """Kill the agents and ranks of runs in this folder that outlive their command; returns those there were."""
        return wait_until_gone(str(self.folder), deadline_s=10.0)
