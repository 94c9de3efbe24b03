"""A network switch that holds every frame back for a while, where the kernel has no ``netem``.

    python delay.py CARD PID=MILLISECONDS ...

Gives each network namespace, named by a process in it, a card whose frames leave the switch that much after they came
in; says ``ready`` and runs until it is killed. The caller gives the cards their addresses.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import itertools
import os
import selectors
import struct
import sys
import time

# From linux/if_tun.h. Frames come with a header that lets large ones pass whole and unsummed.
TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
TAP, NO_PACKET_INFORMATION, HEADER = 0x2, 0x1000, 0x4000
CHECKSUMS, SEGMENTS_IPV4, SEGMENTS_IPV6 = 0x1, 0x2, 0x4
CLONE_NEWNET = 0x40000000
HEADER_BYTES, ADDRESS_BYTES, FRAME_BYTES = 10, 6, 70_000


def enter(namespace: int) -> None:
    """Go to the network namespace behind this file descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def open_card(pid: int, name: str) -> int:
    """Make a card in the namespace of a process; returns the descriptor that frames are read from and written to."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    theirs = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    enter(theirs)
    card = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(card, TUNSETIFF, struct.pack("16sH22x", name.encode(), TAP | NO_PACKET_INFORMATION | HEADER))
    fcntl.ioctl(card, TUNSETVNETHDRSZ, struct.pack("i", HEADER_BYTES))
    fcntl.ioctl(card, TUNSETOFFLOAD, CHECKSUMS | SEGMENTS_IPV4 | SEGMENTS_IPV6)
    enter(own)
    os.close(own)
    os.close(theirs)
    return card


def frames_at(card: int) -> list[bytes]:
    """Those that wait, at most 32 so that no card starves the others."""
    frames = []
    with contextlib.suppress(BlockingIOError):
        for _ in range(32):
            frames.append(os.read(card, FRAME_BYTES))
    return frames


def switch(delays_s: dict[int, float]) -> None:
    """Pass frames from card to card forever."""
    where: dict[bytes, int] = {}
    queue: list[tuple[float, int, list[int], bytes]] = []
    order = itertools.count()
    selector = selectors.DefaultSelector()
    for card in delays_s:
        selector.register(card, selectors.EVENT_READ)
    while True:
        while queue and queue[0][0] <= time.monotonic():
            *_, targets, frame = heapq.heappop(queue)
            for target in targets:
                with contextlib.suppress(OSError):  # a card that is down or full loses it, as a real one does
                    os.write(target, frame)
        wait_s = max(0.0, queue[0][0] - time.monotonic()) if queue else None
        for key, _ in selector.select(wait_s):
            for frame in frames_at(key.fd):
                addresses = frame[HEADER_BYTES:]
                where[addresses[ADDRESS_BYTES : 2 * ADDRESS_BYTES]] = key.fd
                known = where.get(addresses[:ADDRESS_BYTES])
                targets = [card for card in delays_s if card != key.fd] if known is None else [known]
                heapq.heappush(queue, (time.monotonic() + delays_s[key.fd], next(order), targets, frame))


if __name__ == "__main__":
    name, *ports = sys.argv[1:]
    delays_s = {open_card(int(pid), name): float(ms) / 1e3 for pid, _, ms in (port.partition("=") for port in ports)}
    print("ready", flush=True)  # noqa: T201
    switch(delays_s)
