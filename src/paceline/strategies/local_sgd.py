"""Local SGD: each rank trains on its own part; now and then ranks meet at the mean of their parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor

from paceline.strategies.base import COMMUNICATION, OPTIMIZER
from paceline.strategies.ranks import Traffic
from paceline.strategies.single import Single
from paceline.strategies.vector import joined, put_back


class LocalSgd(Single):
    """Every ``period`` updates, parameters and running statistics become their means over ranks, in one all-reduce.

    Gradients, their clipping and the optimizer's state are a rank's own. One that has no part in an update steps with a
    gradient of zero, as its optimizer does then: momentum and moments go on, nothing new comes in; in the mean it
    counts as the others do. What is not finite on one rank is not finite on any after they meet, or are evaluated.

    Source: Stich 2019, "Local SGD Converges Fast and Communicates Little", algorithm 1.
    """

    divides_by: Literal["global", "own", "nothing"] = "own"
    keeps_replicas = False

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401
        super().__init__(**arguments)
        self._parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        statistics = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
        self._averaged: list[Tensor] = [*self._parameters, *statistics]
        self._payload_bytes = joined(self._averaged).nbytes

    def after_update(self, num_updates: int) -> None:
        """Meet, if it is time."""
        if self.num_meetings(num_updates) > self.num_meetings(num_updates - 1):
            self._meet()

    def next_meeting(self, num_updates: int) -> int:
        """See the base class: until they meet, ranks may be any number of updates apart."""
        period = int(self.settings["period"])
        return (num_updates // period + 1) * period

    def num_meetings(self, num_updates: int) -> int:
        """How often ranks have met after so many updates."""
        return int(num_updates // self.settings["period"])

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """The model has the means over ranks, and after it what it had, bit for bit; off the books."""
        own = joined(self._averaged)
        put_back(self._mean(own.clone()), self._averaged)
        try:
            yield
        finally:
            put_back(own, self._averaged)

    def expected_traffic(self, num_updates: int) -> Traffic:
        """An all-reduce of parameters and running statistics for each meeting."""
        others, number = self.ranks.world_size - 1, self.num_meetings(num_updates)
        bytes_of_one = 2 * others * self._payload_bytes // self.ranks.world_size
        return Traffic(bytes_sent=number * bytes_of_one, num_collectives=number if others else 0)

    def _meet(self) -> None:
        """Replace what this rank has by what all ranks have after a meeting."""
        vector = joined(self._averaged)
        self.mark(OPTIMIZER)
        self._mean(vector)
        if self.ranks.world_size > 1:
            self.ranks.traffic.count_all_reduce(vector.nbytes, self.ranks.world_size)
        self.mark(COMMUNICATION)
        put_back(self._met_at(vector), self._averaged)
        self.mark(OPTIMIZER)

    def _met_at(self, mean: Tensor) -> Tensor:
        """Where ranks go on from."""
        return mean

    def _mean(self, vector: Tensor) -> Tensor:
        """The mean over ranks, in place."""
        return self.ranks.sum(vector).div_(self.ranks.world_size)
