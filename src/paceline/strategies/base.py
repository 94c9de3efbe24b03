"""What a strategy is: how ranks share one optimization."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paceline.strategies.agreement import refuse_unlike_models
from paceline.strategies.ranks import Ranks, Traffic
from paceline.workloads.base import Batch, Workload

Divisor = Literal["global", "own", "nothing"]
COMPUTE, COMMUNICATION, OPTIMIZER = 1, 2, 3  # phases of train.clock: what time was spent on


class Strategy(ABC):
    """Evaluates the objective: forward, backward, reduction; and whatever else ranks tell each other.

    ``divides_by`` says what a rank's sum of losses is divided by, and so what ``objective`` gives:

    - ``"global"``: the number of examples of the whole update. Gradients and loss are added up over ranks: afterwards
      they are those of the mean over the global batch, with the same bits on every rank.
    - ``"own"``: that of this rank's part. Gradients and loss are this rank's own; ranks meet in ``after_update``.
    - ``"nothing"``: gradients and loss are this rank's sums; the optimizer adds up over ranks itself.

    ``keeps_replicas``: whether all ranks hold the same parameters, and states of the optimizer, after each update.
    ``same_draws``: whether ranks draw the same random numbers.

    Raises: UsageError, the same on every rank, where their models differ.
    """

    divides_by: Divisor = "global"
    keeps_replicas = True
    same_draws = False

    def __init__(
        self,
        *,
        model: nn.Module,
        workload: Workload,
        ranks: Ranks,
        mark: Callable[[int], None],
        autocast: bool,
        settings: Mapping[str, Any],
    ) -> None:
        refuse_unlike_models(model, ranks)
        self.model, self.workload, self.ranks, self.mark = model, workload, ranks, mark
        self.settings = settings
        self._autocast = torch.autocast(ranks.device.type, dtype=torch.bfloat16) if autocast else nullcontext()
        self.outputs: list[Tensor] = []
        self.with_gradients = list(model.parameters())  # every parameter that `objective` gives a gradient

    @property
    def reduces(self) -> bool:
        """Whether gradients are added up here, and not by the optimizer."""
        return self.divides_by != "nothing"

    @abstractmethod
    def objective(self, micro_batches: Sequence[Batch], *, num_examples: float) -> Tensor:
        """Evaluate loss and gradient on this rank's part of an update.

        Args:
            micro_batches: this rank's part.
            num_examples: what to divide by; infinite on a rank that has no part in this update and evaluates another's
                example for nothing, so that its share of every sum is zero.
        Returns: the loss, a detached scalar. ``self.outputs`` keeps what the model said, one a micro-batch.
        """

    def build_optimizer(self, build: Callable[[Iterable[nn.Parameter]], Optimizer]) -> Optimizer:
        """The optimizer of this rank; a strategy may give it a share of the parameters only."""
        return build(self.model.parameters())

    def attach(self, optimizer: Optimizer) -> None:  # noqa: B027 - most strategies need not know it
        """Learn which optimizer the gradients are for."""

    def after_update(self, num_updates: int) -> None:  # noqa: B027 - most strategies have nothing to do
        """Once parameters are updated, still on the clock; ``num_updates`` of the trial are made."""

    def next_meeting(self, num_updates: int) -> int:
        """The first of the updates after so many that no rank ends before all ranks have come to it."""
        return num_updates + 1

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """The model has the parameters that are evaluated and kept, the same on every rank. Every rank calls this."""
        yield

    def state_dict(self) -> dict[str, Any]:
        """What this rank carries from one update to the next, beside parameters: tensors, numbers and text."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most strategies carry nothing
        """Go on from it."""

    def expected_traffic(self, num_updates: int) -> Traffic | None:
        """What this rank is to have sent after so many updates of one evaluation each, by the formula.

        Returns: None where nothing can be said beforehand.
        """
        del num_updates
        return None

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
