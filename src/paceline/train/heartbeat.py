"""Heartbeats: a rank that falls silent is named by those that wait for it, which then end.

A stopped process, a host without power and a link that swallows packets close no connection: collectives would wait
for their own, long, timeout and then blame whoever they waited for. Each rank counts in the job's store, over a
connection of its own, which costs a message every few seconds. Rank 0 watches everybody, the others watch rank 0.
"""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

from torch.distributed.distributed_c10d import Store

from paceline.train import failure

SHORTEST_JOIN_S = 20.0  # that ranks are given to join: they start one after another on a busy host
BEATS = 10  # in the time after which a rank is silent
NOT_JOINED = "no connection to all other ranks within {s:g} s; are the ephemeral ports open between hosts?"
SILENT = "silent for {s:g} s: stopped, without power, or cut off from the network"


class Heartbeat:
    """The threads of one rank that beat and watch; they end with the process.

    ``folder`` is where a word is left: that of the trial that runs.
    """

    def __init__(self, *, rank: int, world_size: int, timeout_s: float, folder: Path) -> None:
        """Begin to watch; from now on the ranks have ``join_timeout_s`` to join."""
        self.join_timeout_s = max(timeout_s, SHORTEST_JOIN_S)
        self.folder = folder
        self._rank, self._timeout_s = rank, timeout_s
        self._peers = [peer for peer in (range(world_size) if rank == 0 else [0]) if peer != rank]
        self._hosts: dict[int, str] = {}
        self._joined, self._holder = False, rank
        self._began = self._exchanged = time.monotonic()
        self._heard = dict.fromkeys(self._peers, self._began)
        threading.Thread(target=self._watch, daemon=True).start()

    def beat(self, store: Store, *, holds_store: bool) -> None:
        """Begin to beat, over a connection that nobody else uses: one that waits for a key is locked."""
        if holds_store:
            store.set("holder", f"{self._rank} {platform.node()}")
        threading.Thread(target=self._beat, args=(store,), daemon=True).start()

    def joined(self) -> None:
        """All ranks are connected: from now on they are to be heard of."""
        self._exchanged = time.monotonic()
        self._heard = dict.fromkeys(self._peers, self._exchanged)
        self._joined = True

    def _beat(self, store: Store) -> None:
        """Count up, and listen whether the peers do; waits forever where the store does not answer."""
        count, last = 0, dict.fromkeys(self._peers, "")
        with suppress(RuntimeError):  # a store that is gone took the rank that held it along, and collectives tell that
            holder, _, host = store.get("holder").decode().partition(" ")
            self._holder, self._hosts[int(holder)] = int(holder), host
            while True:
                count += 1
                store.set(f"beat-{self._rank}", f"{count} {platform.node()}")
                for peer in self._peers:
                    beat = store.get(f"beat-{peer}").decode() if store.check([f"beat-{peer}"]) else ""
                    if beat != last[peer]:
                        last[peer], self._heard[peer] = beat, time.monotonic()
                        self._hosts[peer] = beat.partition(" ")[2]
                self._exchanged = time.monotonic()
                time.sleep(self._timeout_s / BEATS)

    def _watch(self) -> None:
        while True:
            time.sleep(self._timeout_s / BEATS)
            now = time.monotonic()
            unheard = [peer for peer, heard in self._heard.items() if now - heard > self._timeout_s]
            if not self._joined and now - self._began > self.join_timeout_s:
                self._accuse(self._rank, NOT_JOINED.format(s=self.join_timeout_s))
                os.kill(os.getppid(), signal.SIGTERM)  # the agent: another attempt would fare no better
                os._exit(1)
            if self._joined and now - self._exchanged > self._timeout_s:  # whoever holds the store does not answer
                unheard = [self._holder]
            if self._joined and unheard:
                self._accuse(unheard[0], SILENT.format(s=self._timeout_s))
                os._exit(1)  # the rank may wait in a collective, where nothing else ends it

    def _accuse(self, silent: int, error: str) -> None:
        host = self._hosts.get(silent, platform.node() if silent == self._rank else "a host unheard of")
        with suppress(OSError):  # a full disk must not keep the rank alive
            failure.accuse(self.folder, self._rank, silent, host, error)
