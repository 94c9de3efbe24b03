"""Leaving in good order: ranks that are asked to go agree on one update, and go after a checkpoint of it.

They are asked by a file, which not every host may see, or by SIGUSR2, which an agent that is to end sends to its ranks.
Whoever hears of it tells the others through the job's store. From then on the ranks of a trial agree on the update
after which they leave (``appointment``).

SIGTERM without SIGUSR2 ends a rank at once: elastic starts all anew after a death, and whoever waits for the dead one
in a collective runs no signal handler of Python's. So signals are read by a thread.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import psutil
from torch.distributed.distributed_c10d import Store

from paceline.strategies.ranks import Ranks
from paceline.train.appointment import Appointment

STOP_TIMEOUT_S = 4  # from asking ranks to end until killing them; less than the supervisor of their agent waits
LOOK_EVERY_S = 1.0  # at the file
AGENT_DELAY_S = 0.5  # from its SIGTERM to its SIGUSR2, at most
LAST_WORD_S = 30.0  # from one rank's end to another's
TRIAL_TIMEOUT = timedelta(days=365)  # how long idle ranks sleep; the death of a busy one ends them much sooner
_ASKS, _ENDS = signal.SIGUSR2, {signal.SIGTERM, signal.SIGINT}


class Leaving:
    """What a rank knows of leaving. ``asked`` is all that an update looks at; nobody can ask before ``listen``."""

    def __init__(self) -> None:
        self.asked = False
        self._is_heeded = False
        self._trial = -1

    def listen(
        self,
        path: Path,
        store: Store,
        *,
        rank: int,
        world_size: int,
        holds_store: bool,
        say_farewell: Callable[[], None],
    ) -> None:
        """Begin to heed the file and signals.

        Args:
            store: the job's; used by the thread that calls this.
            rank: of the job, of ``world_size``.
            holds_store: whether the store is in this process, which then leaves last.
            say_farewell: called before only this rank ends.
        """
        self._path, self._store, self._rank = path, store, rank
        self._world_size, self._holds_store, self._say_farewell = world_size, holds_store, say_farewell
        self._tells = store.clone()  # type: ignore[attr-defined] # the stub lacks it
        signals = _wake_on(_ASKS, *_ENDS)
        hears = store.clone()  # type: ignore[attr-defined] # one that waits for a key is locked
        threading.Thread(target=self._hear, args=(hears,), daemon=True).start()
        threading.Thread(target=self._listen, args=(signals,), daemon=True).start()

    def goes_on(self, number: int, num_trials: int) -> bool:
        """Whether the job's trial of this number is to be run now, as its rank 0 says; idle ranks sleep here."""
        self._trial, self._appointment = number, Appointment(self._store, f"leave-{number}")
        key = f"trial-{number}"
        if self._rank == 0:
            ends = number == num_trials or self.asked or self._path.exists()
            self._store.set(key, "leave" if ends else "run")
        with self.heeded():
            self._store.wait([key], TRIAL_TIMEOUT)
        return self._store.get(key) == b"run"

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """The calling thread leaves of itself when it is asked; else SIGTERM ends the rank wherever it is."""
        self._is_heeded = True
        try:
            yield
        finally:
            self._is_heeded = False

    def is_due(self, num_updates: int, next_meeting: int, ranks: Ranks) -> bool:
        """Whether to leave after the last of so many updates; every rank of a trial asks after each, once asked to go.

        Args:
            next_meeting: as for ``Appointment.is_now``.
        """
        return self._appointment.is_now(num_updates, next_meeting, ranks)

    def leave(self) -> NoReturn:
        """End this process; the one that holds the store is the last."""
        with suppress(RuntimeError):  # one that was killed cannot say so, and may have taken the store along
            self._tells.set(f"left-{self._rank}", "")
            if self._holds_store:
                others = [f"left-{peer}" for peer in range(self._world_size)]
                self._tells.wait(others, timedelta(seconds=LAST_WORD_S))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # destroying process groups at exit aborts now and then

    def _hear(self, store: Store) -> None:
        with suppress(RuntimeError):  # a store that is gone took the rank that held it along, and collectives tell that
            store.wait(["leave"], TRIAL_TIMEOUT)
            self.asked = True

    def _listen(self, signals: int) -> None:
        while True:
            numbers = _read(signals, LOOK_EVERY_S)
            if not self.asked and (_ASKS in numbers or self._path.exists()):
                self._ask()
            if _ENDS & numbers:
                self._end(signals)

    def _ask(self) -> None:
        self.asked = True
        with suppress(RuntimeError):  # as in _hear
            self._tells.set("leave", "")

    def _end(self, signals: int) -> NoReturn:
        """End this process: at once if only it is to end, or nothing is lost; else when its main thread does."""
        deadline = time.monotonic() + AGENT_DELAY_S
        while not self.asked:
            if time.monotonic() > deadline:
                with suppress(OSError):  # a full disk must not keep it
                    self._say_farewell()
                os._exit(128 + signal.SIGTERM)
            if _ASKS in _read(signals, AGENT_DELAY_S / 10):
                self._ask()
        if self._is_heeded:
            time.sleep(STOP_TIMEOUT_S)
            os._exit(128 + signal.SIGTERM)
        if self._rank == 0:
            self._tells.set(f"trial-{self._trial + 1}", "leave")  # idle ranks wait for that
        self.leave()


def pass_on() -> None:
    """In an agent: when it is asked to end, send its ranks SIGUSR2, by which they know that all are to leave.

    Elastic has the handler, and sends them SIGTERM.
    """
    signals = _wake_on()

    def listen() -> None:
        while True:
            if _ENDS & _read(signals, None):
                for rank in psutil.Process().children():
                    with suppress(psutil.NoSuchProcess):
                        rank.send_signal(_ASKS)

    threading.Thread(target=listen, daemon=True).start()


def _wake_on(*numbers: signal.Signals) -> int:
    """A descriptor from which the numbers of signals that came can be read, these and those that have a handler."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)  # as set_wakeup_fd demands
    signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, lambda *_: None)

    def forget() -> None:
        signal.set_wakeup_fd(-1)
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)

    os.register_at_fork(after_in_child=forget)
    return reads


def _read(signals: int, timeout_s: float | None) -> set[int]:
    """The numbers of signals that came, after a while at the latest; None waits for one."""
    ready, _, _ = select.select([signals], [], [], timeout_s)
    return set(os.read(signals, 512)) if ready else set()
