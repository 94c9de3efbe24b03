"""One flat buffer: gradients are copied into it after backward, the loss is one more element; one all-reduce."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from paceline.strategies.agreement import common_dtype
from paceline.strategies.base import COMMUNICATION, COMPUTE
from paceline.strategies.ranks import Traffic
from paceline.strategies.single import Single
from paceline.strategies.vector import joined, put_back
from paceline.workloads.base import Batch


class Flat(Single):
    """Every rank contributes sums over its part, divided by the number of examples of the whole update.

    The buffer holds the gradients of all parameters, ``size`` elements, and beside them ``num_beside`` others: the loss
    and the running statistics of the model, of which all ranks get the mean, weighted by their examples. It is of
    ``dtype``: float32, or float64 where parameters are. A parameter without part in the loss has a gradient of zeros.

    The base of strategies that compress: these override ``add_up`` and ``bytes_of_collectives``, and add up what lies
    beside the gradients as it is.

    Raises: UsageError on every rank, where the parameters are of several dtypes.
    """

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401
        super().__init__(**arguments)
        self.with_gradients = [parameter for parameter in self.with_gradients if parameter.requires_grad]
        self.dtype = torch.promote_types(common_dtype(self.with_gradients), torch.float32)
        self._running = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
        self._sizes = [parameter.numel() for parameter in self.with_gradients]
        self.size, self.num_beside = sum(self._sizes), 1 + sum(buffer.numel() for buffer in self._running)

    def objective(self, micro_batches: Sequence[Batch], *, num_examples: float) -> Tensor:
        """See the base class."""
        loss = super().objective(micro_batches, num_examples=num_examples)
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in self.with_gradients
        ]
        share = sum(len(batch.targets) for batch in micro_batches) / num_examples
        running = [(buffer * share).to(self.dtype) for buffer in self._running]
        whole = joined([*gradients, loss.to(self.dtype), *running])
        self.add_up(whole)
        *parts, beside = torch.split(whole, [*self._sizes, self.num_beside])
        for parameter, part in zip(self.with_gradients, parts, strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)
        put_back(beside[1:], self._running)
        return beside[0]

    def add_up(self, whole: Tensor) -> None:
        """Add up over ranks, in place: ``size`` elements of gradients, then those beside them."""
        self.all_reduce(whole)

    def bytes_of_collectives(self) -> list[int]:
        """What each collective of one evaluation is to send from a rank that has peers, by the formula."""
        return [self.bytes_of_all_reduce(self.size + self.num_beside)]

    def expected_traffic(self, num_updates: int) -> Traffic:
        """See the base class."""
        sent = self.bytes_of_collectives() if self.ranks.world_size > 1 else []
        return Traffic(bytes_sent=num_updates * sum(sent), num_collectives=num_updates * len(sent))

    def bytes_of_all_reduce(self, num: int, *, element_bytes: int | None = None) -> int:
        """By a ring, of so many elements; of ``dtype``, if nothing is said of their bytes."""
        payload = num * (element_bytes or self.dtype.itemsize)
        return 2 * (self.ranks.world_size - 1) * payload // self.ranks.world_size

    def all_reduce(self, *tensors: Tensor) -> None:
        """Add up tensors over ranks, in place, all under way at the same time; on the clock and on the books."""
        self.mark(COMPUTE)
        if self.ranks.world_size > 1:
            works = [dist.all_reduce(tensor, group=self.ranks.group, async_op=True) for tensor in tensors]
            for work, tensor in zip(works, tensors, strict=True):
                assert work is not None
                work.wait()
                self.ranks.traffic.count_all_reduce(tensor.nbytes, self.ranks.world_size)
        self.mark(COMMUNICATION)

    def all_gather(self, own: Tensor) -> Tensor:
        """What each rank has, a row each: from (n,) to (world_size, n); on the clock and on the books."""
        self.mark(COMPUTE)
        rows = own.new_empty(self.ranks.world_size, len(own))
        if self.ranks.world_size > 1:
            dist.all_gather_into_tensor(rows, own.unsqueeze(0), group=self.ranks.group)
            self.ranks.traffic.count_all_gather(own.nbytes, self.ranks.world_size)
        else:
            rows.copy_(own)
        self.mark(COMMUNICATION)
        return rows

    def all_to_all(self, rows: Tensor) -> Tensor:
        """Give each rank its row, and get its row for this one: (world_size, n); on the clock and on the books."""
        self.mark(COMPUTE)
        taken = torch.empty_like(rows) if self.ranks.world_size > 1 else rows
        if self.ranks.world_size > 1:
            dist.all_to_all_single(taken, rows, group=self.ranks.group)
            self.ranks.traffic.count((self.ranks.world_size - 1) * rows.nbytes // self.ranks.world_size)
        self.mark(COMMUNICATION)
        return taken
