"""Conversations with hosts: ``probe_host.py``, sent over and kept running on each, by ssh or on this machine."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import PIPE
from typing import Any, TypeVar

from paceline.cluster import Cluster, Host
from paceline.launch import probe_host
from paceline.launch.remote import HostError, Remote
from paceline.launch.wheelhouse import interpreter

T = TypeVar("T")

START_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 20.0
_NO_SUCH_PROGRAM = (126, 127)


class Probe:
    """A host that answers. ``remote`` is None on this machine."""

    def __init__(self, host: Host, remote: Remote | None, python: str) -> None:
        self.host, self.name, self.remote, self.python = host, host.name, remote, python
        if remote is not None:
            _require_python(remote, python)
        self._process = self.start(["-c", Path(probe_host.__file__).read_text()])

    def start(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        """Start the interpreter there with these arguments; it ends when its input is closed."""
        command = [self.python, "-P", *arguments]  # what lies in the home folder is not imported
        if self.remote is not None:
            return self.remote.start(command)
        return subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True)

    def ask(self, what: str, *, timeout_s: float = ANSWER_TIMEOUT_S, **arguments: Any) -> Any:  # noqa: ANN401
        """Have ``probe_host`` answer.

        Raises: HostError with what it says went wrong, or if it says nothing in time.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"ask": what, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
            reply = json.loads(self._line(timeout_s))
        except (BrokenPipeError, EOFError) as error:
            raise HostError(
                self.name, f"the connection was lost, or {self.python} died: {self._last_words()}"
            ) from error
        if "error" in reply:
            raise HostError(self.name, reply["error"])
        return reply["answer"]

    def clock_skew(self) -> tuple[float, float]:
        """Seconds by which the clock there is ahead of the one here, and the half round trip that they may be off."""
        skews = []
        for _ in range(5):
            began = time.time()
            there = float(self.ask("clock"))
            half = (time.time() - began) / 2
            skews.append((half, there - began - half))
        half, skew = min(skews)
        return skew, half

    def close(self) -> None:
        """End the conversation, and the connection."""
        end(self._process)
        if self.remote is not None:
            self.remote.close()

    def _line(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        deadline, said = time.monotonic() + timeout_s, b""
        while not said.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise HostError(self.name, f"it does not answer within {timeout_s:g} s")
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            if not part:
                raise EOFError
            said += part
        return said

    def _last_words(self) -> str:
        assert self._process.stderr is not None
        return self._process.stderr.read().decode(errors="replace").strip()[-300:] or "it said nothing"


def _require_python(remote: Remote, python: str) -> None:
    done = remote.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], timeout_s=START_TIMEOUT_S)
    if done.returncode in _NO_SUCH_PROGRAM:
        raise HostError(remote.name, f"there is no interpreter {python}; name one by python = in the cluster file")
    if done.returncode:
        raise HostError(remote.name, f"{python} is older than Python 3.11, or fails; name another in the cluster file")


def end(process: subprocess.Popen[bytes]) -> None:
    """Close the input of a started program, and wait for its end, or end it."""
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(BrokenPipeError):  # what could not be said to a program that is dead
                pipe.close()
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def conversations(cluster: Cluster, *, control_dir: Path) -> Iterator[tuple[dict[str, Probe], dict[str, str]]]:
    """The hosts that answer, by name and in order, and what is wrong with the others."""
    config = None if cluster.ssh_config is None else Path(cluster.ssh_config)
    hosts = {host.name: host for host in cluster.hosts or (Host(name="localhost"),)}

    def begin(host: Host) -> Probe:
        if cluster.kind == "local":
            return Probe(host, None, sys.executable if cluster.python == "auto" else cluster.python)
        remote = Remote(host, ssh_config=config, control_dir=control_dir)
        return Probe(host, remote, interpreter(remote, cluster, make=False))

    probes, troubles = on_all(hosts, begin)
    try:
        yield probes, troubles
    finally:
        on_all(probes, Probe.close)


def on_all(items: Mapping[str, Any], act: Callable[[Any], T]) -> tuple[dict[str, T], dict[str, str]]:
    """Do something for all hosts at once: results of those that it worked for, and what was wrong with the others."""

    def attempt(item: Any) -> T | HostError:  # noqa: ANN401
        try:
            return act(item)
        except HostError as error:
            return error

    with ThreadPoolExecutor(max(1, len(items))) as pool:
        found = dict(zip(items, pool.map(attempt, items.values()), strict=True))
    results = {name: result for name, result in found.items() if not isinstance(result, HostError)}
    return results, {name: str(result) for name, result in found.items() if isinstance(result, HostError)}
