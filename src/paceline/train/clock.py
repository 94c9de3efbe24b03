"""The clock: what counts as training time, and what it was spent on.

``start`` begins an update; ``mark(phase)`` says what the time since the last mark was spent on. Stamps are kept as they
are taken, numbers on a CPU and events on a GPU, and turned into seconds at evaluations, off the clock.
"""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from paceline.strategies.base import COMMUNICATION, COMPUTE, OPTIMIZER
from paceline.strategies.ranks import Ranks

START, DATA = -1, 0
PHASES = ("data_s", "compute_s", "communication_s", "optimizer_s")
assert [PHASES[phase] for phase in (COMPUTE, COMMUNICATION, OPTIMIZER)] == list(PHASES[1:])


@dataclass(kw_only=True)
class Totals:
    """Seconds since the trial began. ``train_time_s`` sums the slowest rank's time over updates; parts are of one rank
    (``own_s``) or means over ranks (``mean_s``), in the order of ``PHASES``.
    """

    train_time_s: float = 0.0
    own_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(PHASES)))
    mean_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(PHASES)))

    def own(self) -> dict[str, float]:
        """This rank's parts by name."""
        return dict(zip(PHASES, self.own_s.tolist(), strict=True))

    def mean(self) -> dict[str, float]:
        """The parts by name, averaged over ranks."""
        return dict(zip(PHASES, self.mean_s.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: plain numbers and lists."""
        return {
            "train_time_s": self.train_time_s,
            "own_s": self.own_s.tolist(),
            "mean_s": self.mean_s.tolist(),
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Totals:
        """The reverse of ``state_dict``."""
        own_s, mean_s = np.array(state["own_s"]), np.array(state["mean_s"])
        return cls(train_time_s=state["train_time_s"], own_s=own_s, mean_s=mean_s)


class Clock:
    """Stamps of one rank, for a device."""

    def __init__(self, device: torch.device) -> None:
        self._phases = array("b")
        self._stamps = array("d")
        self._events: list[torch.cuda.Event] = []
        self._cuda = device.type == "cuda"
        self._slowest: list[NDArray[np.float64]] = []  # times of updates whose quantiles are still to be told

    def start(self) -> None:
        """An update begins: the batch is asked for."""
        self.mark(START)

    def mark(self, phase: int) -> None:
        """The time since the last mark was spent on ``phase``."""
        self._phases.append(phase)
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._events.append(event)
        else:
            self._stamps.append(time.perf_counter())

    def discard(self) -> None:
        """Forget the stamps since the last drain."""
        del self._phases[:], self._stamps[:], self._events[:]

    def drain(self, ranks: Ranks, totals: Totals, *, goes_on: bool = False) -> dict[str, float]:
        """Add what was stamped since the last drain to ``totals``; returns quantiles of the time per update.

        Every rank calls this after the same number of updates. Where it ``goes_on``, these count for the next
        quantiles, too.
        """
        phases = np.array(self._phases, dtype=np.int8)
        spans = self._spans()
        self.discard()
        updates = np.cumsum(phases == START) - 1
        inside = phases != START
        own = np.bincount(updates[inside], spans[inside], minlength=int((phases == START).sum()))
        slowest = ranks.maximum(torch.from_numpy(own)).numpy()
        parts = np.bincount(phases[inside], spans[inside], minlength=len(PHASES))
        totals.own_s += parts
        totals.mean_s += ranks.sum(torch.from_numpy(parts.copy())).numpy() / ranks.world_size
        totals.train_time_s += float(slowest.sum())
        self._slowest.append(slowest)
        slowest = np.concatenate(self._slowest)
        if not goes_on:
            self._slowest.clear()
        quantiles = np.quantile(slowest, [0.1, 0.5, 0.9, 1.0]).tolist() if len(slowest) else [0.0] * 4
        return dict(zip(("p10", "p50", "p90", "max"), quantiles, strict=True))

    def _spans(self) -> NDArray[np.float64]:
        """Seconds between each stamp and the one before it."""
        if not self._cuda:
            return np.diff(np.array(self._stamps), prepend=0.0)
        torch.cuda.synchronize()
        pairs = zip(self._events, self._events[1:], strict=False)
        milliseconds = [before.elapsed_time(after) for before, after in pairs]
        return np.array([0.0, *milliseconds]) / 1e3
