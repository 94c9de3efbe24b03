"""An optimizer of tests, as a third party would write one, that fails as it is told to."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.nn import Parameter


class Faulty(torch.optim.SGD):
    """SGD that at update ``fail_at`` on rank ``fail_rank`` is killed, or raises, until the file ``cured`` exists."""

    def __init__(self, parameters: Iterable[Parameter], hyperparameters: dict[str, Any]) -> None:
        super().__init__(parameters, lr=hyperparameters["lr"])
        self._wish, self._num_steps = hyperparameters, 0

    def step(self, closure: Any = None) -> Any:
        self._num_steps += 1
        wish = self._wish
        if (
            self._num_steps == wish["fail_at"]
            and int(os.environ.get("RANK", "0")) == wish["fail_rank"]
            and not Path(wish["cured"]).exists()
        ):
            if wish["fault"] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("the hand-made fault")
        return super().step(closure)


def build(parameters: Iterable[Parameter], hyperparameters: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer ``optimizers.faulty:build``."""
    return Faulty(parameters, hyperparameters)
