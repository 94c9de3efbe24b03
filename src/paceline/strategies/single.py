"""One process and no wrapper: what a plain training loop does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paceline.strategies.base import COMPUTE, Strategy
from paceline.strategies.ranks import Traffic
from paceline.workloads.base import Batch


class Single(Strategy):
    """Forward and backward, nothing to reduce."""

    def objective(self, micro_batches: Sequence[Batch], *, num_examples: float) -> Tensor:
        """See the base class."""
        self.outputs, losses = [], []
        for batch in micro_batches:
            loss = self.loss(batch, num_examples=num_examples)
            torch.autograd.backward(loss)
            losses.append(loss.detach())
        self.mark(COMPUTE)
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def expected_traffic(self, num_updates: int) -> Traffic | None:
        """See the base class: nothing is sent."""
        del num_updates
        return Traffic()
