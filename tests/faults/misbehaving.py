"""An optimizer of tests that does to its rank what real ones have done: it dies, hangs, leaves or fills the memory."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.nn import Parameter

CGROUP = Path("/sys/fs/cgroup/memory")
HEADROOM_BYTES = 200_000_000


def hang_in_python() -> None:
    while True:
        time.sleep(0.1)


def hang_with_the_lock_of_the_interpreter() -> None:
    """A pattern that takes for ever, during which no other thread of the process runs."""
    re.match(r"(a+)+$", "a" * 60 + "b")


def hang_in_a_receive() -> None:
    torch.distributed.recv(torch.zeros(1), src=0)


def fill_up_to_a_limit() -> None:
    """Of the address space, as ``ulimit -v`` sets it."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM_BYTES, used + HEADROOM_BYTES))
    fill()


def fill_up_to_a_cgroup() -> None:
    """Of the memory of a group that the test has made, as schedulers and containers do."""
    (CGROUP / os.environ["PACELINE_TEST_CGROUP"] / "cgroup.procs").write_text(str(os.getpid()))
    fill()


def fill() -> None:
    held = []
    while True:
        held.append(torch.ones(4_000_000))


FAULTS: dict[str, Callable[[], Any]] = {
    "raise": lambda: 1 / 0,
    "exit": lambda: sys.exit(0),
    "vanish": lambda: os._exit(0),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "hang": hang_in_python,
    "lock": hang_with_the_lock_of_the_interpreter,
    "receive": hang_in_a_receive,
    "limit": fill_up_to_a_limit,
    "cgroup": fill_up_to_a_cgroup,
}


class Misbehaving(torch.optim.SGD):
    """SGD with momentum that misbehaves at one update on one rank, until the file ``cured`` exists."""

    def __init__(self, parameters: Iterable[Parameter], hyperparameters: dict[str, Any]) -> None:
        super().__init__(parameters, lr=0.05, momentum=0.9)
        self._wish, self._num_steps = hyperparameters, 0

    def step(self, closure: Any = None) -> Any:
        self._num_steps += 1
        wish = self._wish
        is_here = int(os.environ.get("RANK", "0")) == wish["rank"]
        if is_here and self._num_steps == wish["at"] and not Path(wish["cured"]).exists():
            FAULTS[wish["fault"]]()
        return super().step(closure)


def build(parameters: Iterable[Parameter], hyperparameters: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer ``faults.misbehaving:build``."""
    return Misbehaving(parameters, hyperparameters)
