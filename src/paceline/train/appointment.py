"""Ranks of a trial agree on one update without a collective: to leave after it, or to write a checkpoint.

From when a rank wants the appointment on, it says in the job's store that it looks there after each update; when rank 0
finds that all do, it names the update. Nobody has ended that one yet: it is the next that ends with all ranks waiting
for each other, and rank 0 has not come to it.
"""

from __future__ import annotations

import torch
from torch.distributed.distributed_c10d import Store

from paceline.strategies.ranks import Ranks


class Appointment:
    """One update, the same on every rank of a trial.

    Args:
        store: that all of them reach; None for one rank alone.
        name: of which there is no other in the store.
    """

    def __init__(self, store: Store | None, name: str) -> None:
        self._store, self._name = store, name
        self._says_so = False
        self._at: int | None = None

    def is_now(self, num_updates: int, next_meeting: int, ranks: Ranks) -> bool:
        """Whether it is after the last of so many updates; a rank that wants it asks after each.

        Args:
            next_meeting: the first later update that no rank ends before all have come to it.
        """
        if self._at is None:
            self._at = num_updates if ranks.world_size == 1 else self._agreed(next_meeting, ranks)
        assert self._at is None or self._at >= num_updates, "passed the update that ranks had agreed on"
        return self._at == num_updates

    def _agreed(self, next_meeting: int, ranks: Ranks) -> int | None:
        assert self._store is not None, "several ranks need a store to agree"
        if ranks.device.type == "cuda":
            torch.cuda.synchronize(ranks.device)  # else the host may be many updates ahead
        looks = [f"{self._name}-looks-{rank}" for rank in range(ranks.world_size)]
        if not self._says_so:
            self._store.set(looks[ranks.rank], "")
            self._says_so = True
        if ranks.rank == 0 and self._store.check(looks):
            self._store.set(self._name, str(next_meeting))
            for key in looks:  # nobody needs them any more, and there may be many appointments
                self._store.delete_key(key)
        return int(self._store.get(self._name)) if self._store.check([self._name]) else None
