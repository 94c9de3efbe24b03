"""ZeRO, stage 1: each rank keeps the optimizer's state of its share of the parameters, and updates these alone."""

# No postponed annotations here: DDP looks at those of its hook.
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from paceline.errors import UsageError
from paceline.strategies.base import COMMUNICATION
from paceline.strategies.ddp import Ddp
from paceline.strategies.ranks import Ranks, Traffic
from paceline.strategies.vector import joined, put_back


class Zero1(Ddp):
    """Gradients are reduced as DDP does; each rank updates the parameters of its share and broadcasts them.

    Shares are whole parameters, so that an optimizer finds all that it takes to update one; a rank may have none.

    Source: Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion
    Parameter Models", section 5.1.
    Departs: gradients are all-reduced, not reduce-scattered, so that a rank can take the norm of them all.
    """

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401
        super().__init__(**arguments)
        self._shares = dealt_out(list(self.model.parameters()), self.ranks.world_size)
        self._has_modes = False
        self._share_bytes = [joined(share).nbytes if share else 0 for share in self._shares]

    def build_optimizer(self, build: Callable[[Iterable[nn.Parameter]], Optimizer]) -> Optimizer:
        """The optimizer of this rank's share; of a parameter without elements, where it has no share."""
        own = self._shares[self.ranks.rank] or [nn.Parameter(torch.empty(0, device=self.ranks.device))]
        optimizer = build(own)
        self._has_modes = hasattr(optimizer, "eval")
        return Sharded(optimizer, self.ranks)

    def after_update(self, num_updates: int) -> None:
        """Tell the others what became of this rank's share."""
        super().after_update(num_updates)
        self._broadcast()
        if self.ranks.world_size > 1:
            for num_bytes in filter(None, self._share_bytes):
                self.ranks.traffic.count_broadcast(num_bytes)
        self.mark(COMMUNICATION)

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """An optimizer that evaluates other parameters than it trains has put them into this rank's share only."""
        if self._has_modes:
            self._broadcast()
        yield

    def expected_traffic(self, num_updates: int) -> Traffic:
        """What DDP sends, and each share once an update."""
        gradients = super().expected_traffic(num_updates)
        if self.ranks.world_size == 1:
            return gradients
        num_shares = sum(bool(share) for share in self._shares)
        return Traffic(
            bytes_sent=gradients.bytes_sent + num_updates * sum(self._share_bytes),
            num_collectives=gradients.num_collectives + num_updates * num_shares,
        )

    def _broadcast(self) -> None:
        """Every rank takes over what is in the others' shares. Off the books."""
        if self.ranks.world_size == 1:
            return
        sent = [(rank, share, joined(share)) for rank, share in enumerate(self._shares) if share]
        works = [
            dist.broadcast(vector, group=self.ranks.group, group_src=rank, async_op=True) for rank, _, vector in sent
        ]
        for work in works:
            assert work is not None
            work.wait()
        for _, share, vector in sent:
            put_back(vector, share)


class Sharded(Optimizer):
    """The optimizer of one rank's share, whose checkpoints hold those of all ranks; else as the one it is given."""

    def __init__(self, own: Optimizer, ranks: Ranks) -> None:
        # without that of the base class: parameters, groups and state are those of `own`
        self._own, self._ranks = own, ranks

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._own, name)

    def step(self, closure: Any = None) -> Any:  # noqa: ANN401 - torch's has overloads
        """Update this rank's share."""
        return self._own.step(closure)

    def state_dict(self) -> dict[str, Any]:
        """That of this rank's share."""
        return self._own.state_dict()

    def gather_state_dict(self) -> dict[str, Any]:
        """Those of all ranks, on rank 0; every rank calls this."""
        return {"shares": self._ranks.gather(self._own.state_dict()) or []}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take this rank's share of what ``gather_state_dict`` gave.

        Raises: UsageError if it is of another number of ranks.
        """
        shares = state_dict["shares"]
        if len(shares) != self._ranks.world_size:
            raise UsageError(
                f"the optimizer's state is of {len(shares)} ranks, and this trial has {self._ranks.world_size}; "
                f"zero1 goes on at the number of ranks it was saved at"
            )
        self._own.load_state_dict(shares[self._ranks.rank])


def dealt_out(parameters: Sequence[nn.Parameter], num_shares: int) -> list[list[nn.Parameter]]:
    """Shares of whole parameters: the largest first, each to the share with the fewest elements; in their order."""
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    sizes = [0] * num_shares
    for number in sorted(range(len(parameters)), key=lambda number: -parameters[number].numel()):
        smallest = sizes.index(min(sizes))
        shares[smallest].append(number)
        sizes[smallest] += parameters[number].numel()
    return [[parameters[number] for number in sorted(share)] for share in shares]
