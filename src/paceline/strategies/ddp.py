"""torch's DistributedDataParallel, with the loss riding in the gradient's collective."""

# No postponed annotations here: DDP looks at those of its hook.
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from paceline.strategies.base import COMMUNICATION, COMPUTE, Strategy
from paceline.strategies.ranks import Traffic
from paceline.workloads.base import Batch

_BUCKET_BYTES = [2**20, 25 * 2**20]  # DDP's defaults: the first bucket, and the others


class _LossWithSlot(nn.Module):
    """The share of the loss, plus a parameter of value zero whose gradient is that share.

    DDP reduces the gradient of ``slot`` with the others; what comes back is the mean loss over all ranks.
    """

    def __init__(self, strategy: "Ddp") -> None:
        super().__init__()
        self.model = strategy.model
        dtype = torch.promote_types(next(self.model.parameters()).dtype, torch.float32)
        self.slot = nn.Parameter(torch.zeros((), device=strategy.ranks.device, dtype=dtype))
        self._share = strategy.loss

    def forward(self, batch: Batch, num_examples: float) -> Tensor:
        loss = self._share(batch, num_examples=num_examples)
        return loss + self.slot * loss.detach()


class Ddp(Strategy):
    """Stock DDP; every rank contributes sums over its part, divided by the number of examples of the whole update.

    Departs: a hook of our own sums the buckets without dividing by the number of ranks, which would be wrong for
    unequal parts, and counts what is sent.
    """

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(**settings)
        self._with_slot = _LossWithSlot(self)
        self.with_gradients.append(self._with_slot.slot)
        self._wrapped = DistributedDataParallel(self._with_slot, process_group=self.ranks.group)
        self._wrapped.register_comm_hook(None, self._sum_bucket)
        self._buffer_bytes = sum(buffer.nbytes for buffer in self.model.buffers())

    def objective(self, micro_batches: Sequence[Batch], *, num_examples: float) -> Tensor:
        """See the base class."""
        self.outputs = []
        for number, batch in enumerate(micro_batches, start=1):
            last = number == len(micro_batches)
            with nullcontext() if last else self._wrapped.no_sync():
                torch.autograd.backward(self._wrapped(batch, num_examples))
        if self._buffer_bytes:  # before the first micro-batch only: no_sync keeps DDP from sending them again
            self.ranks.traffic.count_broadcast(self._buffer_bytes)
        self.mark(COMMUNICATION)
        loss = self._with_slot.slot.grad
        assert loss is not None
        return loss.detach()

    def expected_traffic(self, num_updates: int) -> Traffic:
        """See the base class. A bucket is an all-reduce; where there are several, DDP may cut them in another place."""
        tensors = [parameter.detach() for parameter in self.with_gradients]
        buckets, _ = dist._compute_bucket_assignment_by_size(  # type: ignore[attr-defined]
            tensors, _BUCKET_BYTES
        )
        expected = Traffic()
        for _ in range(num_updates):
            if self._buffer_bytes:
                expected.count_broadcast(self._buffer_bytes)
            for bucket in buckets:
                payload = sum(tensors[number].nbytes for number in bucket)
                expected.count_all_reduce(payload, self.ranks.world_size)
        return expected

    def close(self) -> None:
        """See the base class; also breaks the cycle of references, so that memory goes back at once."""
        del self._wrapped, self._with_slot
        self.with_gradients.clear()

    def _sum_bucket(self, _: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
        self.mark(COMPUTE)
        buffer = bucket.buffer()
        self.ranks.traffic.count_all_reduce(buffer.nbytes, self.ranks.world_size)
        work = dist.all_reduce(buffer, group=self.ranks.group, async_op=True)
        assert work is not None
        reduced: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
        return reduced
