"""Optimizers of tests that do not compute the same on one rank and on several."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import Parameter


def build(parameters: Iterable[Parameter], hyperparameters: dict[str, Any]) -> torch.optim.Optimizer:
    """SGD that takes longer steps on later ranks."""
    return torch.optim.SGD(parameters, lr=hyperparameters["lr"] * (1 + int(os.environ.get("RANK", "0"))))


class Chaotic(torch.optim.SGD):
    """SGD that at each step also maps its parameters by a logistic map, which amplifies the last bit without end."""

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    for _ in range(60):
                        parameter.copy_(1.0 - 2.0 * parameter.clamp(-1, 1).square())
        return loss


def build_chaotic(parameters: Iterable[Parameter], hyperparameters: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer ``optimizers.unequal:build_chaotic``."""
    return Chaotic(parameters, lr=hyperparameters["lr"])


class OnlyFloat32(torch.optim.SGD):
    """SGD that refuses other numbers than float32."""

    def step(self, closure: Any = None) -> Any:
        if any(parameter.dtype != torch.float32 for group in self.param_groups for parameter in group["params"]):
            raise TypeError("float32 only")
        return super().step(closure)


def build_only_float32(parameters: Iterable[Parameter], hyperparameters: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer ``optimizers.unequal:build_only_float32``."""
    return OnlyFloat32(parameters, lr=hyperparameters["lr"])
