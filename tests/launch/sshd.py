"""Real hosts for tests: an sshd of this user's own on a loopback address, with keys of its own; no root needed."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def require_programs() -> None:
    """Skip the test where OpenSSH or rsync are missing, and say so; in CI that is a failure."""
    missing = [name for name in ("sshd", "ssh", "ssh-keygen", "rsync") if shutil.which(name, path=_PATH) is None]
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"not installed: {', '.join(missing)}")


class Sshd:
    """One host; ``name`` stands in ``ssh_config``, which all hosts of a folder share."""

    def __init__(self, folder: Path, name: str, *, address: str = "127.0.0.1") -> None:
        self.name, self.address, self.folder = name, address, folder / name
        self.ssh_config, self.known_hosts = folder / "ssh_config", folder / "known_hosts"
        self.folder.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind((address, 0))
            self.port = int(probe.getsockname()[1])
        key = folder / "key"
        if not key.exists():
            make_key(key)
        make_key(self.folder / "host_key")
        self.trust(self.folder / "host_key.pub")
        self._configure(key)
        self.start()

    def trust(self, public_key: Path) -> None:
        """Let ``known_hosts`` say that this host has that key, and no other."""
        place = f"[{self.address}]:{self.port} "
        known = self.known_hosts.read_text().splitlines() if self.known_hosts.exists() else []
        kept = [line for line in known if not line.startswith(place)]
        self.known_hosts.write_text("\n".join([*kept, place + public_key.read_text().strip(), ""]))

    @property
    def pid(self) -> int:
        """The server that listens."""
        return self._server.pid

    def stop(self) -> None:
        """Power it off: the server and its connections."""
        self._server.terminate()
        self._server.wait()

    def _configure(self, key: Path) -> None:
        (self.folder / "sshd_config").write_text(f"""
ListenAddress {self.address}:{self.port}
HostKey "{self.folder / "host_key"}"
PidFile none
AuthorizedKeysFile "{key}.pub"
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
""")
        with self.ssh_config.open("a") as config:
            config.write(f"""
Host {self.name}
  HostName {self.address}
  Port {self.port}
  User {getpass.getuser()}
  IdentityFile "{key}"
  IdentitiesOnly yes
  UserKnownHostsFile "{self.known_hosts}"
  GlobalKnownHostsFile /dev/null
""")

    def start(self) -> None:
        """Power it on; done already for a new one."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where a server of root's drops its privileges
        program = shutil.which("sshd", path=_PATH)
        assert program is not None
        command = [program, "-D", "-f", str(self.folder / "sshd_config"), "-E", str(self.folder / "log")]
        self._server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline and self._server.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex((self.address, self.port)) == 0:
                    return
            time.sleep(0.02)
        self.stop()
        raise AssertionError(f"sshd did not start: {(self.folder / 'log').read_text()}")


def make_key(path: Path) -> None:
    """Write a new pair of keys."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


@contextmanager
def hosts(folder: Path, *, addresses: dict[str, str]) -> Iterator[list[Sshd]]:
    """Hosts by name, each on its address, up for as long as the context lasts."""
    require_programs()
    up: list[Sshd] = []
    try:
        for name, address in addresses.items():
            up.append(Sshd(folder, name, address=address))
        yield up
    finally:
        for host in up:
            host.stop()
