"""Stochastic gradient descent, by torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.nn import Parameter
from torch.optim import SGD, Optimizer


def build(parameters: Iterable[Parameter], hyperparameters: dict[str, Any]) -> Optimizer:
    """torch.optim.SGD by its fused kernel."""
    return SGD(parameters, **hyperparameters, fused=True)
