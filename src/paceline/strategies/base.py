"""What a strategy is: how ranks share one optimization."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paceline.strategies.ranks import Ranks
from paceline.workloads.base import Batch, Workload

COMPUTE, COMMUNICATION, OPTIMIZER = 1, 2, 3  # phases of train.clock: what time was spent on


class Strategy(ABC):
    """Evaluates the objective: forward, backward, reduction.

    After ``objective`` the model's gradients are those of the mean loss over the whole global batch, on every rank, and
    the value returned is that loss, with the same bits on every rank.
    """

    reduces = True  # False where the optimizer adds up over ranks itself
    same_draws = False  # True where ranks draw the same random numbers

    def __init__(
        self, *, model: nn.Module, workload: Workload, ranks: Ranks, mark: Callable[[int], None], autocast: bool
    ) -> None:
        self.model, self.workload, self.ranks, self.mark = model, workload, ranks, mark
        self._autocast = torch.autocast(ranks.device.type, dtype=torch.bfloat16) if autocast else nullcontext()
        self.outputs: list[Tensor] = []
        self.with_gradients = list(model.parameters())  # every parameter that `objective` gives a gradient

    @abstractmethod
    def objective(self, micro_batches: Sequence[Batch], *, num_examples: float) -> Tensor:
        """Evaluate loss and gradient on this rank's part of an update.

        Args:
            micro_batches: this rank's part.
            num_examples: of the update, over all ranks; infinite on a rank that has no part in this update and
                evaluates another's example for nothing, so that its share of every sum is zero.
        Returns: the mean loss, a detached scalar. ``self.outputs`` keeps what the model said, one a micro-batch.
        """

    def attach(self, optimizer: Optimizer) -> None:  # noqa: B027 - most strategies need not know it
        """Learn which optimizer the gradients are for."""

    def zero_grad(self) -> None:
        """Forget gradients; ``Module.zero_grad`` would walk the tree of modules each time."""
        for parameter in self.with_gradients:
            parameter.grad = None

    def close(self) -> None:  # noqa: B027 - most strategies hold nothing
        """Let go of what holds the process group."""

    def loss(self, batch: Batch, *, num_examples: float) -> Tensor:
        """This batch's share of the mean loss: its sum over ``num_examples``. Part of the graph."""
        with self._autocast:
            outputs = self.model(batch.inputs)
            loss = self.workload.loss_sum(outputs, batch)
        self.outputs.append(outputs.detach())
        return loss / num_examples
