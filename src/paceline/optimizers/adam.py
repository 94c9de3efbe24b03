"""Adam and AdamW, by torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.nn import Parameter
from torch.optim import Adam, AdamW, Optimizer


def build_adam(parameters: Iterable[Parameter], hyperparameters: dict[str, Any]) -> Optimizer:
    """torch.optim.Adam by its fused kernel."""
    return Adam(parameters, **_arguments(hyperparameters))


def build_adamw(parameters: Iterable[Parameter], hyperparameters: dict[str, Any]) -> Optimizer:
    """torch.optim.AdamW by its fused kernel."""
    return AdamW(parameters, **_arguments(hyperparameters))


def _arguments(hyperparameters: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in hyperparameters.items() if key not in ("beta1", "beta2")}
    return rest | {"betas": (hyperparameters["beta1"], hyperparameters["beta2"]), "fused": True}
