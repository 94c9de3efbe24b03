"""Nothing is reduced here: the optimizer adds up over ranks itself, as ``DistributedLBFGS`` does."""

from __future__ import annotations

from itertools import cycle
from typing import Any

from paceline.strategies.base import COMMUNICATION, OPTIMIZER
from paceline.strategies.ranks import Traffic
from paceline.strategies.single import Single


class ByOptimizer(Single):
    """Loss and gradient of this rank's own part, as sums: ``num_examples`` is 1, or infinite where there is no part."""

    divides_by = "nothing"

    def expected_traffic(self, num_updates: int) -> Traffic | None:
        """See the base class: the optimizer knows."""
        del num_updates
        return None

    def attach(self, optimizer: Any) -> None:  # noqa: ANN401 - any that has an exchange
        """Have what the optimizer sends counted, and the time that it takes."""
        phases = cycle((OPTIMIZER, COMMUNICATION))  # before a collective, after it
        optimizer.exchange.mark = lambda: self.mark(next(phases))
        optimizer.exchange.count = self.ranks.traffic.count
