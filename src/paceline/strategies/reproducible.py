"""Bits that do not depend on the number of ranks: fixed microbatches, added up by a fixed tree.

An update is cut into V microbatches (V a power of two); each of W ranks computes V / W consecutive ones and adds theirs
up as a subtree, and all ranks finish the tree alike from what all subtrees gave. One rank does the same alone. It costs
V small passes instead of a large one, and an all-gather in place of an all-reduce.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from paceline.errors import UsageError
from paceline.strategies.base import COMMUNICATION, COMPUTE, Strategy
from paceline.strategies.ranks import Traffic
from paceline.workloads.base import Batch


class Reproducible(Strategy):
    """Sums in an order that the number of microbatches fixes.

    Batch statistics are those of a microbatch; running ones move by the mean over microbatches, once an evaluation.
    Random numbers of a microbatch depend on its place in the update, not on the rank that computes it.
    """

    same_draws = True

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(**settings)
        self._running = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
        self._sizes = [part.numel() for part in (*self.with_gradients, *self._running)]
        self._length = sum(self._sizes) + 1  # the loss is the last element
        self._has_canary = False

    def objective(self, micro_batches: Sequence[Batch], *, num_examples: float) -> Tensor:
        """See the base class; ``micro_batches`` are the V / W of this rank in their order; some may be empty."""
        if not self._has_canary:
            self._refuse_unlike_ranks(micro_batches[0])
            self._has_canary = True
        first = self.ranks.rank * len(micro_batches)
        before = [buffer.clone() for buffer in self.model.buffers()]
        seed = int(torch.randint(1 << 62, (), dtype=torch.int64))  # the same on every rank
        generator = torch.get_rng_state()
        self.outputs, sums = [], []
        for number, batch in enumerate(micro_batches, start=first):
            sums.append(self._leaf(batch, num_examples, before, seed + number))
        torch.set_rng_state(generator)
        own = _add_up(sums)
        self.mark(COMPUTE)
        if self.ranks.world_size > 1:
            whole = own.new_empty(self.ranks.world_size * self._length)
            dist.all_gather_into_tensor(whole, own, group=self.ranks.group)
            self.ranks.traffic.count_all_gather(own.nbytes, self.ranks.world_size)
            own = _add_up(list(whole.view(self.ranks.world_size, -1)))
        self.mark(COMMUNICATION)
        *parts, loss = torch.split(own, [*self._sizes, 1])
        for parameter, part in zip(self.with_gradients, parts, strict=False):
            parameter.grad = part.view_as(parameter)
        num_leaves = self.ranks.world_size * len(micro_batches)
        for buffer, part in zip(self._running, parts[len(self.with_gradients) :], strict=True):
            buffer.copy_(part.view_as(buffer) / num_leaves)
        return loss.view(())

    def expected_traffic(self, num_updates: int) -> Traffic:
        """See the base class: an all-gather of this rank's subtree."""
        expected = Traffic()
        if self.ranks.world_size > 1:
            for _ in range(num_updates):
                expected.count_all_gather(4 * self._length, self.ranks.world_size)
        return expected

    def _leaf(self, batch: Batch, num_examples: float, before: Sequence[Tensor], seed: int) -> Tensor:
        """Gradients, running statistics and loss of one microbatch, in one vector."""
        for buffer, value in zip(self.model.buffers(), before, strict=True):
            buffer.copy_(value)
        torch.default_generator.manual_seed(seed)
        if not len(batch.targets):
            gradients: Sequence[Tensor] = [torch.zeros_like(parameter) for parameter in self.with_gradients]
            loss = gradients[0].new_zeros(())
        else:
            loss = self.loss(batch, num_examples=num_examples)
            gradients = torch.autograd.grad(loss, self.with_gradients)
        with torch.no_grad():
            return torch.cat([*(part.reshape(-1) for part in (*gradients, *self._running)), loss.reshape(1)])

    def _refuse_unlike_ranks(self, batch: Batch) -> None:
        """Compare over ranks what one pass over the model gives for the same input, and the number of threads.

        Raises: UsageError on every rank, where they differ: processors, libraries or threads are not alike.
        """
        before = [buffer.clone() for buffer in self.model.buffers()]
        generator = torch.get_rng_state()
        shared = self.ranks.from_first(lambda: (batch.inputs.cpu(), batch.targets.cpu()))
        device = self.ranks.device
        canary = Batch(inputs=shared[0].to(device), targets=shared[1].to(device))
        digest = hashlib.sha256(self._leaf(canary, 1.0, before, 0).cpu().numpy().tobytes()).digest()
        for buffer, value in zip(self.model.buffers(), before, strict=True):
            buffer.copy_(value)
        torch.set_rng_state(generator)
        self.outputs = []
        told = torch.tensor([torch.get_num_threads(), int.from_bytes(digest[:7], "big")])
        low, high = self.ranks.maximum(-told), self.ranks.maximum(told.clone())
        if not torch.equal(-low, high):
            what = "numbers of threads" if -low[0] != high[0] else "bits from the same microbatch"
            raise UsageError(
                f"ranks have different {what}, so reproducible = true cannot be kept: use hosts with the same "
                "processors, versions of torch and threads per rank"
            )


def _add_up(parts: list[Tensor]) -> Tensor:
    """The sum by a balanced tree: neighbours first."""
    while len(parts) > 1:
        parts = [left + right for left, right in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]
