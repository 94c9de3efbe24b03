"""What holds this process and an agent on a host together: a tether that ends both, or a watch that outlives neither.

A foreground run ends with its controlling process, however that died: the agent's input closes, or falls silent where
the machine or the network died without a word. A detached run outlives it, and so the connections to it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paceline.inert import inert
from paceline.launch.remote import Remote
from paceline.launch.supervisor import keeps, runs

BEATS = 10  # in the time after which a host takes this process for dead
STOP_TIMEOUT_S = 15.0
AGAIN_AFTER_S = 5.0  # between attempts to reach a host


class Tether:
    """A command on a host that runs for as long as this process holds on to it.

    Its input gets a byte now and then: it is to end where none came for ``silence_s``.
    """

    def __init__(self, remote: Remote, command: Sequence[str], *, silence_s: float, log: Path) -> None:
        self._log = log
        with log.open("wb") as said:
            self._process = remote.start(command, stdout=said.fileno(), stderr=said.fileno())
        self._let_go = threading.Event()
        self._beats = threading.Thread(target=self._beat, args=(silence_s / BEATS,), daemon=True)
        self._beats.start()

    def poll(self) -> int | None:
        """The exit code of the command, None while it runs."""
        return self._process.poll()

    def why(self) -> str:
        """What can be said here of its end."""
        said = self._log.read_text(errors="replace").strip()
        if self.is_lost:
            return f"the connection was lost, or the host was: {said or 'ssh said nothing'}"
        return said

    @property
    def is_lost(self) -> bool:
        """Whether the connection broke."""
        return self.poll() == 255

    def let_go(self) -> None:
        """Close the command's input, and wait for its end."""
        assert self._process.stdin is not None
        self._let_go.set()
        self._beats.join()
        self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _beat(self, every_s: float) -> None:
        assert self._process.stdin is not None
        while not self._let_go.wait(every_s):
            try:
                os.write(self._process.stdin.fileno(), b".")
            except BrokenPipeError:  # it has ended, as poll says
                return


class Watch:
    """Waits for the end of what a detached supervisor keeps on a host, over connections that come and go.

    ``command`` is the supervisor's ``wait``. Only what it says counts: a lost connection ends nothing. What it keeps is
    another's, and this one's is over, where ``mark`` is none of its words.
    """

    def __init__(self, remote: Remote, command: Sequence[str], *, mark: str) -> None:
        self._remote, self._command, self._mark = remote, command, mark
        self.is_lost = False
        self._state: dict[str, Any] | None = None  # how it ended
        self._process: subprocess.Popen[bytes] | None = None
        self._said, self._due_s = b"", 0.0

    def poll(self) -> int | None:
        """The exit code of what is watched, 1 where nobody saw it end; None while it runs, or nobody can tell."""
        if self._state is None and self._process is None and time.monotonic() >= self._due_s:
            self._begin()
        if self._process is not None:
            self._hear(self._process)
        if self._state is None:
            return None
        return 1 if self._state["exit_code"] is None else int(self._state["exit_code"])

    def why(self) -> str:
        """What can be said here of its end."""
        is_told = self._state is None or self._state["exit_code"] is not None
        return "" if is_told else "its supervisor was killed, or the host was started anew"

    def let_go(self) -> None:
        """Watch no more."""
        if self._process is not None:
            self._end(self._process)

    def _begin(self) -> None:
        self._process = self._remote.start(self._command)
        self._said = b""
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)

    def _hear(self, process: subprocess.Popen[bytes]) -> None:
        """Take in what came since: the state at once, and the state at the end."""
        code = process.poll()  # before the text, so that none is missed
        assert process.stdout is not None
        self._said += process.stdout.read() or b""
        states = [json.loads(line) for line in self._said.splitlines(keepends=True) if line.endswith(b"\n")]
        if states and self.is_lost:
            self.is_lost = False
            sys.stderr.write(f"{self._remote.name}: reached again\n")
        if states and not runs(states[-1], self._mark):
            self._state = states[-1] if keeps(states[-1], self._mark) else {"exit_code": None}
            self._end(process)
        elif code is not None:
            self._lose(process, code)

    def _lose(self, process: subprocess.Popen[bytes], code: int) -> None:
        """Say so, once, and try again in a while."""
        assert process.stderr is not None
        said = (process.stderr.read() or b"").decode(errors="replace").strip()
        self._end(process)
        self._due_s = time.monotonic() + AGAIN_AFTER_S
        if not self.is_lost:
            self.is_lost = True
            why = said.splitlines()[-1] if said else f"ssh ended with code {code}"
            sys.stderr.write(f"{self._remote.name}: the connection was lost, the run goes on there ({inert(why)})\n")

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        self._process = None
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
