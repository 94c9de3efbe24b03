"""An optimizer of tests whose rank fails so many times, and then no more."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.nn import Parameter

from paceline.errors import UsageError


class Passing(torch.optim.SGD):
    """SGD that fails at its 25th update on rank 1, ``times`` times; ``counted`` is a file with a byte for each time."""

    def __init__(self, parameters: Iterable[Parameter], hyperparameters: dict[str, Any]) -> None:
        super().__init__(parameters, lr=hyperparameters["lr"])
        self._wish, self._num_steps = hyperparameters, 0

    def step(self, closure: Any = None) -> Any:
        self._num_steps += 1
        if self._num_steps == 25 and os.environ["RANK"] == "1" and self._is_due():
            if self._wish["fault"] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise UsageError("momentum must be below 1")
        return super().step(closure)

    def _is_due(self) -> bool:
        with Path(self._wish["counted"]).open("ab") as counted:
            counted.write(b".")
            return counted.tell() <= self._wish["times"]


def build(parameters: Iterable[Parameter], hyperparameters: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer ``faults.passing:build``."""
    return Passing(parameters, hyperparameters)
