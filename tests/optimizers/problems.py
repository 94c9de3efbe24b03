"""What the tests and the benchmark of L-BFGS minimize: digits by a network, and functions with a known minimum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paceline import registry
from paceline.workloads.base import WorkloadRequest

Closure = Callable[[], Tensor]


class Digits:
    """A network on the first of the digits that come with paceline; the same numbers in every process."""

    def __init__(self, workload: str = "logreg-mnist", *, num_examples: int, seed: int = 0, first: int = 0) -> None:
        self.workload = registry.resolve("workloads", workload)(WorkloadRequest(dataset="mnist-small"))
        torch.manual_seed(seed)
        self.model: nn.Module = self.workload.build_model()
        indices = np.arange(first, first + num_examples)
        raw = self.workload.batch("train", indices, seed=0, epoch=0)
        self.batch = self.workload.prepare(raw, torch.device("cpu"))

    def loss_sum(self, part: slice | Sequence[int] = slice(None)) -> Tensor:
        """Sum of cross-entropies over a part of the examples."""
        batch = type(self.batch)(*(one[part] for one in self.batch))
        return self.workload.loss_sum(self.model(batch.inputs), batch)

    def mean(self, part: slice = slice(None), scale: float = 1.0) -> Closure:
        """A closure of loss and gradient: ``scale`` times the mean over a part."""
        return with_gradient(
            self.model.parameters(), lambda: self.loss_sum(part) * (scale / len(self.batch.targets[part]))
        )


def with_gradient(parameters: Any, loss: Callable[[], Tensor]) -> Closure:
    """A closure as optimizers want it."""
    parameters = list(parameters)

    def closure() -> Tensor:
        for parameter in parameters:
            parameter.grad = None
        value = loss()
        value.backward()
        return value.detach()

    return closure


def rosenbrock(x: Tensor) -> Tensor:
    """The sum over neighbours of 100 (x[i+1] - x[i]^2)^2 + (1 - x[i])^2; its minimum is 0, at ones."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def quadratic(size: int, *, condition: float) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A function of a vector, its curvatures log-spaced over ``condition`` in random directions, and its minimum."""
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
    matrix = basis @ torch.diag(torch.logspace(0, -np.log10(condition), size, dtype=torch.float64)) @ basis.T
    minimum = torch.randn(size, dtype=torch.float64, generator=generator)
    return lambda x: 0.5 * (x - minimum) @ matrix @ (x - minimum), minimum
