"""When checkpoints are written, apart from those at the end of a trial and of ranks that leave."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from torch.distributed.distributed_c10d import Store

from paceline.strategies.ranks import Ranks
from paceline.study_tables import checkpoint_interval
from paceline.train.appointment import Appointment

MOST_SHARE = 0.01  # of the time of training, for writing, where that is left to us
FIRST_GUESS_S = 0.01  # what a checkpoint takes, until one was written
LONGEST_S = 600.0  # between two checkpoints, where that is left to us and epochs are longer


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """What a study says of checkpoints; ``store``, by which several ranks agree within epochs: None, they do not.

    ``begins_with`` is the folder of another trial, with whose newest checkpoint a trial begins that has none.
    """

    every: str = "auto"
    kept: int = 2
    store: Store | None = None
    begins_with: Path | None = None


class Interval:
    """Tells whether a checkpoint is due, alike on every rank.

    At ends of epochs rank 0 decides, and says so in a collective that is made there anyway. After so many updates all
    know; after so many seconds each rank finds by its own clock that it is time, and they agree on an update.
    """

    def __init__(self, keeping: Keeping, ranks: Ranks, trial_id: str) -> None:
        self._number, self._unit = checkpoint_interval(keeping.every)
        self._store, self._ranks, self._trial_id = keeping.store, ranks, trial_id
        self._cost_s = FIRST_GUESS_S
        self.written(num_updates=0, train_time_s=0.0)

    def written(self, *, num_updates: int, train_time_s: float, cost_s: float | None = None) -> None:
        """There is one after so many updates, or training begins there; ``cost_s`` was the time it took here."""
        self._cost_s = self._cost_s if cost_s is None else cost_s
        self._train_time_s, self._since = train_time_s, time.monotonic()
        self._appointment = Appointment(self._store, f"checkpoint-{self._trial_id}-{num_updates}")

    def wants_epoch(self, train_time_s: float) -> bool:
        """What rank 0 is to say at the end of an epoch."""
        if self._unit == "auto":
            return self._cost_s <= MOST_SHARE * (train_time_s - self._train_time_s)
        return self._unit == "epoch"

    def is_due(self, num_updates: int, next_meeting: int) -> bool:
        """Whether one is due after the last of so many updates; every rank asks after each.

        Args:
            next_meeting: as for ``Appointment.is_now``.
        """
        if self._unit == "updates":
            return num_updates % self._number == 0
        if time.monotonic() - self._since < self._patience_s:
            return False
        return self._appointment.is_now(num_updates, next_meeting, self._ranks)

    @property
    def _patience_s(self) -> float:
        if self._unit == "s":
            return self._number
        if self._unit == "epoch" or (self._store is None and self._ranks.world_size > 1):
            return math.inf
        return max(LONGEST_S, self._cost_s / MOST_SHARE)
