"""Numbers that are none, in data, gradients and parameters, as a workload and an optimizer of a third party."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import Parameter

from paceline.workloads.base import WorkloadRequest
from workloads.toy import Toy


def workload(request: WorkloadRequest) -> Toy:
    """``faults.nonfinite:workload``: the toy's points, with one coordinate of one replaced.

    Options: ``split``, ``example``, ``value`` (a text that Python's float takes).
    """
    options = dict(request.options)
    split, example, value = (options.pop(name, "") for name in ("split", "example", "value"))
    toy = Toy(options)
    if split:
        toy._points[str(split)][int(str(example)), 0] = float(str(value))
    return toy


class Spoiling(torch.optim.SGD):
    """SGD that at one update on one rank makes a gradient, or a parameter, ``value``."""

    def __init__(self, parameters: Iterable[Parameter], hyperparameters: dict[str, Any]) -> None:
        super().__init__(parameters, lr=0.05)
        self._wish, self._num_steps = hyperparameters, 0

    def _spoil_gradient(self, parameter: Parameter) -> None:
        assert parameter.grad is not None
        parameter.grad.view(-1)[0] = float(self._wish["value"])

    def step(self, closure: Any = None) -> Any:
        self._num_steps += 1
        wish, first = self._wish, self.param_groups[0]["params"][0]
        is_due = self._num_steps == wish["at"] and int(os.environ.get("RANK", "0")) == wish["rank"]
        if is_due and wish["what"] == "gradient":
            handle = first.register_post_accumulate_grad_hook(self._spoil_gradient)
            loss = super().step(closure)
            handle.remove()
            return loss
        loss = super().step(closure)
        if is_due:
            with torch.no_grad():
                first.view(-1)[0] = float(wish["value"])
        return loss


def optimizer(parameters: Iterable[Parameter], hyperparameters: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer ``faults.nonfinite:optimizer``."""
    return Spoiling(parameters, hyperparameters)
