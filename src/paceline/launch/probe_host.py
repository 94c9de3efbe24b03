"""What a host says of itself and of its way to the others.

This file is sent to hosts as it stands, hence the standard library alone. One JSON object a line in: ``ask`` names a
function of ``ANSWERS``, the rest are its arguments. One JSON object a line out. It ends with its input.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

PACKAGES = ("paceline", "torch", "numpy")
TOKEN = os.urandom(8).hex().encode()  # tells this host from another that answers in its place
PINGS = 20


def facts(folder: str) -> dict[str, Any]:
    """Versions, cores, load, memory and disk; ``folder`` is where runs will lie, which need not exist yet."""
    return {
        "host": platform.node(),
        "executable": sys.executable,
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "num_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "num_physical_cores": _num_physical_cores(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS", ""),
        "load": os.getloadavg()[0],
        "memory_available_bytes": _memory_available_bytes(),
        "disk_free_bytes": shutil.disk_usage(_existing(Path(folder).expanduser().absolute())).free,
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _num_physical_cores() -> int | None:
    """Those behind the processors of the system, of which two may share one; None where it does not say."""
    siblings = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list")
    return len({path.read_text() for path in siblings}) or None


def _memory_available_bytes() -> int | None:
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())


def clock() -> float:
    """Seconds since 1970."""
    return time.time()


def data(datasets: list[str], data_dir: str | None) -> dict[str, str]:
    """The first of ``datasets`` that is found, and its digest; asks the paceline that is installed here."""
    from paceline.data.catalog import dataset_digest, find_first

    place = None if data_dir is None else Path(data_dir).expanduser()
    dataset = find_first(datasets, place)
    return {"dataset": dataset, "digest": dataset_digest(dataset, place)}


def route(peer: str | None, interface: str, address: str) -> dict[str, str]:
    """The address of this host, and its network card, on the way to ``peer``; 'auto' where the system is to say."""
    cards = _addresses_of_cards()
    if interface != "auto":
        if interface not in cards:
            raise OSError(f"there is no network card {interface} with an address; there are {', '.join(cards)}")
        own = address if address != "auto" else cards[interface][0]
    else:
        own = _resolved(address) if address != "auto" else _by_route(peer)
    card = next((name for name, addresses in cards.items() if own in addresses), "")
    if own.startswith("127."):
        card = card or next((name for name, addresses in cards.items() if "127.0.0.1" in addresses), "")
    if cards and not card:
        raise OSError(f"the address {own} is none of this host's: {_listed(cards)}")
    if interface not in ("auto", card):
        raise OSError(f"the address {own} is not that of {interface}: {_listed(cards)}")
    return {"address": own, "interface": card}


def _by_route(peer: str | None) -> str:
    if peer is None:
        return "127.0.0.1"
    family, kind, protocol, _, place = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(place)  # sends nothing
        return str(probe.getsockname()[0])


def _resolved(address: str) -> str:
    return str(socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][4][0])


def _listed(cards: dict[str, list[str]]) -> str:
    return ", ".join(f"{name} {address}" for name, addresses in cards.items() for address in addresses)


def _addresses_of_cards() -> dict[str, list[str]]:
    """Addresses by network card (Linux); empty elsewhere."""
    found: dict[str, list[str]] = {}
    if sys.platform != "linux":
        return found
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # a card without an IPv4 address
                request = struct.pack("256s", name.encode()[:15])
                answer = fcntl.ioctl(any_socket.fileno(), 0x8915, request)  # SIOCGIFADDR
                found.setdefault(name, []).append(socket.inet_ntoa(answer[20:24]))
    with suppress(OSError):  # no IPv6 here
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            number, *_, name = line.split()
            found.setdefault(name, []).append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(number)))
    return found


def listen(address: str, num_ports: int) -> dict[str, Any]:
    """Open ports that the system chooses, and echo on them."""
    servers = [_server(address) for _ in range(num_ports)]
    for server in servers:
        threading.Thread(target=_accept, args=(server,), daemon=True).start()
    return {"ports": [server.getsockname()[1] for server in servers], "token": TOKEN.decode()}


def _server(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family)


def _accept(server: socket.socket) -> None:
    while True:
        connection, _ = server.accept()
        threading.Thread(target=_echo, args=(connection,), daemon=True).start()


def _echo(connection: socket.socket) -> None:
    with connection, suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(TOKEN)
        while said := connection.recv(1):
            connection.sendall(said)


def free_port(address: str) -> int:
    """A port that nobody listens on right now."""
    with _server(address) as server:
        return int(server.getsockname()[1])


def reach(targets: list[dict[str, Any]], own: str, within_s: float) -> list[dict[str, Any]]:
    """Connect to every port of every target from address ``own``: its round trip in seconds, or what went wrong."""
    with ThreadPoolExecutor(max(1, len(targets))) as pool:
        return list(pool.map(lambda target: _reach(target, own, within_s), targets))


def _reach(target: dict[str, Any], own: str, within_s: float) -> dict[str, Any]:
    times: list[float] = []
    for port in target["ports"]:
        place = (target["address"], port)
        try:
            with socket.create_connection(place, timeout=within_s, source_address=(own, 0)) as connection:
                times += _ping(connection, target["token"].encode())
        except OSError as error:
            return {"target": target["name"], "port": port, "error": error.strerror or str(error)}
    return {"target": target["name"], "round_trip_s": min(times)}


def _ping(connection: socket.socket, token: bytes) -> list[float]:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if connection.recv(len(token), socket.MSG_WAITALL) != token:
        raise OSError("another host answers in its place")
    times = []
    for _ in range(PINGS):
        began = time.perf_counter()
        connection.sendall(b".")
        if not connection.recv(1):
            raise OSError("the connection was closed")
        times.append(time.perf_counter() - began)
    return times


ANSWERS: dict[str, Callable[..., Any]] = {
    "facts": facts, "clock": clock, "data": data, "route": route, "listen": listen, "free_port": free_port,
    "reach": reach,
}  # fmt: skip


def main() -> None:
    """Answer until the input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"answer": ANSWERS[request.pop("ask")](**request)}
        except Exception as error:  # whatever it is, who asked must be told
            answer = {"error": str(error) or type(error).__name__}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
