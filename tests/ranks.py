"""Real ranks for tests: processes joined by gloo, started once, that run named functions.

``RankPool(4).run("train.trials:run", num_ranks=3, trial={...})`` calls
``train.trials.run(ranks, trial={...})`` in each of the first three processes and returns their three results. Arguments
and results travel as JSON; no code is pickled. A call has a deadline. After a deadline, an error or a death, whatever
is left of the processes is killed and the next call starts new ones, so that no test inherits a half-finished
collective. The kernel kills the processes when the test run dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import IO, Any

TESTS = Path(__file__).parent
START_DEADLINE_S = 90.0


class RankError(AssertionError):
    """What went wrong on which ranks."""


class RankPool:
    """``size`` warm processes; the first w of them form a process group, for every w up to ``size``."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._processes: list[subprocess.Popen[bytes]] = []
        self._logs: list[IO[bytes]] = []

    def run(self, function: str, *, num_ranks: int, deadline_s: float = 60.0, **arguments: Any) -> list[Any]:
        """Call ``module:function(ranks, **arguments)`` on the first ``num_ranks`` processes; results by rank.

        Raises: RankError with every rank's traceback, or naming the ranks that died or were too slow.
        """
        if not self._processes:
            self._start()
        request = json.dumps({"function": function, "num_ranks": num_ranks, "arguments": arguments}).encode() + b"\n"
        try:
            for process in self._processes[:num_ranks]:
                assert process.stdin is not None
                process.stdin.write(request)
                process.stdin.flush()
            answers = self._answers(num_ranks, deadline_s)
        except BaseException:
            self.stop()
            raise
        errors = [f"rank {rank}:\n{answer['error']}" for rank, answer in enumerate(answers) if "error" in answer]
        if errors:
            self.stop()
            raise RankError("\n".join(errors))
        return [answer["result"] for answer in answers]

    def stop(self) -> None:
        """Kill every process and wait for it."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):
                    pipe.close()
        for log in self._logs:
            log.close()
        self._processes, self._logs = [], []

    def _start(self) -> None:
        port = str(free_port())
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "WORLD_SIZE": str(self.size),
        }
        for rank in range(self.size):
            log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
            self._logs.append(log)
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, str(TESTS / "ranks.py")],
                    env=environment | {"RANK": str(rank)},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                )
            )
        try:
            self._answers(self.size, START_DEADLINE_S)
        except BaseException:
            self.stop()
            raise

    def _answers(self, num_ranks: int, deadline_s: float) -> list[dict[str, Any]]:
        """One line from each of the first ranks."""
        deadline = time.monotonic() + deadline_s
        answers: dict[int, dict[str, Any]] = {}
        parts = dict.fromkeys(range(num_ranks), b"")
        with selectors.DefaultSelector() as selector:
            for rank in range(num_ranks):
                stdout = self._processes[rank].stdout
                assert stdout is not None
                selector.register(stdout, selectors.EVENT_READ, rank)
            while len(answers) < num_ranks:
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    late = [rank for rank in range(num_ranks) if rank not in answers]
                    raise RankError(f"ranks {late} did not answer within {deadline_s} s\n{self._said(answers)}")
                for key, _ in ready:
                    chunk = os.read(key.fd, 1 << 20)
                    if not chunk:
                        raise RankError(f"rank {key.data} died\n{self._said(answers)}")
                    parts[key.data] += chunk
                    if chunk.endswith(b"\n"):
                        answers[key.data] = json.loads(parts[key.data])
                        if "error" in answers[key.data]:  # its peers may wait for it in a collective
                            deadline = min(deadline, time.monotonic() + 2.0)
                        selector.unregister(key.fileobj)
        return [answers[rank] for rank in range(num_ranks)]

    def _said(self, answers: dict[int, dict[str, Any]]) -> str:
        errors = [f"rank {rank}:\n{answer['error']}" for rank, answer in answers.items() if "error" in answer]
        for rank, log in enumerate(self._logs):
            log.seek(0)
            tail = log.read().decode(errors="replace")[-1500:]
            errors.append(f"standard error of rank {rank}:\n{tail}")
        return "\n".join(errors)


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve() -> None:
    """Be one rank: answer requests from standard input until it closes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: die with the test run
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what is printed must not get between the replies

    import torch

    from paceline.study_tables import Scale
    from paceline.train.group import Groups, initialize

    torch.set_num_threads(1)
    device = torch.device("cpu")
    initialize(device, timeout_s=120.0)
    size = int(os.environ["WORLD_SIZE"])
    scales = {number: Scale(ranks_per_host=number) for number in range(1, size + 1)}
    groups = Groups(scales.values(), device, ranks_per_host=size)
    replies.write(b'{"result": "ready"}\n')
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            module, _, name = request["function"].partition(":")
            function = getattr(importlib.import_module(module), name)
            answer = {"result": function(groups.ranks(scales[request["num_ranks"]]), **request["arguments"])}
            reply = json.dumps(answer)
        except Exception:
            reply = json.dumps({"error": traceback.format_exc()})
        replies.write(reply.encode() + b"\n")
    os._exit(0)


def processes_naming(text: str) -> list[int]:
    """Process ids of those whose command line names ``text``: a folder of a test, hence processes that it started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if text.encode() in (entry / "cmdline").read_bytes() and _state(entry) != "Z":
                    found.append(int(entry.name))
    return found


def _state(entry: Path) -> str:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0]


def wait_until_gone(text: str, *, deadline_s: float = 10.0) -> list[int]:
    """Wait for the processes that name ``text`` to end; returns those that are left, killed now."""
    deadline = time.monotonic() + deadline_s
    while (left := processes_naming(text)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return left


if __name__ == "__main__":
    serve()
