"""Four hosts and a control host on one machine, for tests of what happens between hosts.

Each is a real sshd in network, process, mount, hostname and shared-memory namespaces of its own, on a bridge in a
namespace too. Nothing has a name or an address on the machine itself, so that beds stand side by side, and nothing is
left when the process that made them dies, however it dies. They share the machine's cores: a bed proves behaviour,
shape and bytes, not speed.

Every host has a home and (but for the control host, where tests keep their files) a temporary folder of its own. The
repository and the interpreter are seen on all of them, read-only where home or temporary folder would hide them.
``shared`` is seen by all at one path, as a network file system is.

By hand, as root, in ``tests``: ``python -m testbed.bed`` opens a shell on the control host, where ``ssh node1`` works;
all of it is taken down when the shell ends.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from testbed.files import write_files

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
CONTROL = "ctl"
SUBNET = "10.77.0"
SECOND_SUBNET = "10.78.0"
COMMANDS = {
    "ip": "iproute2",
    "tc": "iproute2",
    "nft": "nftables",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "rsync": "rsync",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}
DAEMONS = {"sshd", "munged", "slurmctld", "slurmd", "slurmstepd"}
# The dynamic linker puts in the architecture.
FAKETIME = "/usr/$LIB/faketime/libfaketimeMT.so.1"
DEADLINE_S = 10.0


def missing(commands: Mapping[str, str] = COMMANDS) -> str:
    """Why a bed cannot stand here, given the Debian package of every command needed; empty if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    if lacking := {command: package for command, package in commands.items() if not shutil.which(command, path=path)}:
        return f"needs {', '.join(lacking)}: apt-get install {' '.join(sorted(set(lacking.values())))}"
    probe = ["unshare", "--mount", "--net", "--pid", "--fork", "mount", "-t", "sysfs", "sysfs", "/sys"]
    probed = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"may not make namespaces here: {probed.stderr.strip()}" if probed.returncode else ""


class Bed:
    """The hosts, as a context manager: ``nodes`` are ``node1`` to ``node4``; ``ctl`` is the control host.

    ``ssh_config`` and ``known_hosts`` are for the control host, which has them as its user's own as well.
    """

    def __init__(self, num_nodes: int = 4) -> None:
        self.nodes = tuple(f"node{index}" for index in range(1, num_nodes + 1))
        self.hosts = (CONTROL, *self.nodes)
        self.folder = Path(tempfile.mkdtemp(prefix="testbed-"))
        self.folder.chmod(0o755)
        self.ssh_config = self.folder / "ssh_config"
        self.known_hosts = self.folder / "known_hosts"
        self.shared = self.folder / "shared"
        self.user_home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
        self.spoilt: set[str] = set()  # what ``restore`` starts anew
        self._outer: dict[
            str, subprocess.Popen[bytes]
        ] = {}  # of every host that is on, the parent of its first process
        self._switches: list[subprocess.Popen[bytes]] = []  # the first is there always

    def __enter__(self) -> Bed:
        try:
            self.shared.mkdir()
            write_files(self.folder, {host: self.address(host) for host in self.hosts}, control=CONTROL)
            switch = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]
            self._switches.append(subprocess.Popen(switch, start_new_session=True))
            wait_until(lambda: _namespace(self._switches[0].pid, "net") != _namespace(os.getpid(), "net"), "the switch")
            for bridge in ("br0", "br1"):
                self._on_switch("ip", "link", "add", bridge, "type", "bridge")
                self._on_switch("ip", "link", "set", bridge, "up")
            self._boot(self.hosts)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in self._outer:
            self._end(host)
        self._end_switches(kept=0)
        shutil.rmtree(self.folder)

    # What tests ask of it

    def address(self, host: str, *, second: bool = False) -> str:
        """Where the other hosts reach it; on its second card, if ``second``."""
        return f"{SECOND_SUBNET if second else SUBNET}.{10 + self.hosts.index(host)}"

    def home(self, host: str) -> Path:
        """Its user's home, as seen from the machine; on the host it is ``user_home``."""
        return self.folder / host / "home"

    def first(self, host: str) -> int:
        """The first process of a host, as the machine numbers it."""
        outer = psutil.Process(self._outer[host].pid)
        wait_until(outer.children, f"the first process of {host}: see {self.folder / host}/sshd.log")
        return outer.children()[0].pid

    def start(self, host: str, arguments: Sequence[str | Path], *, cwd: Path | None = None, **options: Any):
        """Start a command on a host, as if typed there; ``options`` are those of Popen.

        The process is the one that waits for the command: send signals with ``signal``.
        """
        inside = ["nsenter", "-m", "-u", "-i", "-n", "-p", "-t", str(self.first(host)), "--"]
        environment = {**(options.pop("env", None) or os.environ), "HOME": str(self.user_home)}
        return subprocess.Popen(
            [*inside, "env", f"--chdir={cwd or self.user_home}", *map(str, arguments)], env=environment, **options
        )

    def run(
        self,
        host: str,
        arguments: Sequence[str | Path],
        *,
        timeout_s: float = 60.0,
        input: str | None = None,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host and wait for its end; it is killed after ``timeout_s``."""
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        pipes: dict[str, Any] = {"stdin": stdin, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = self.start(host, arguments, **pipes, **options)
        try:
            out, err = process.communicate(input, timeout=timeout_s)
        except BaseException:
            self.signal(process, signal.SIGKILL)
            process.communicate()
            raise
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def run_on_ctl(self, arguments: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command on the control host."""
        return self.run(CONTROL, arguments, **options)

    def ssh(self, host: str, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command on a host by ssh from the control host."""
        return self.run_on_ctl(["ssh", "-F", self.ssh_config, host, *arguments], **options)

    @staticmethod
    def signal(process: subprocess.Popen[Any], number: int) -> None:
        """Send a signal to a command begun with ``start``; nothing happens if it is over."""
        with contextlib.suppress(psutil.NoSuchProcess):
            waiting = psutil.Process(process.pid)
            wait_until(lambda: process.poll() is not None or waiting.children(), "the command to begin")
            for command in waiting.children():
                command.send_signal(number)

    def processes(self, host: str, naming: str = "") -> list[psutil.Process]:
        """What runs on a host besides the bed's own daemons and has ``naming`` in its command line."""
        if host not in self._outer:
            return []
        own = _namespace(self.first(host), "pid")
        found = []
        for process in psutil.process_iter():
            # Ended meanwhile, or one of the machine's that is none of our business.
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, PermissionError):
                ours = _namespace(process.pid, "pid") == own and process.name() not in DAEMONS
                if ours and process.status() != psutil.STATUS_ZOMBIE and naming in " ".join(process.cmdline()):
                    found.append(process)
        return found

    # Faults: undone by ``restore``

    def power_off(self, host: str) -> None:
        """Switch a host off: no process of it gets a last word, and nothing it was connected to hears of it."""
        self._on_switch("ip", "link", "delete", "group", self._group(host))
        self._end(host)
        del self._outer[host]

    def power_on(self, host: str) -> None:
        """Switch a host on again, with the files that it had."""
        self._boot([host])

    def link(self, host: str, *, up: bool) -> None:
        """Let the switch drop all that comes from a host and goes there, without a word to either side."""
        self.spoilt.add(host)
        self._on_switch("ip", "link", "set", self._port(host), *(("master", "br0") if up else ("nomaster",)))

    def firewall(self, host: str, *, open_ports: Iterable[int] = (22,), source: str | None = None) -> None:
        """Drop new connections to a host but those to ``open_ports``, silently; of ``source`` only, if given."""
        self.spoilt.add(host)
        who = f"ip saddr {self.address(source)} " if source else ""
        ports = ", ".join(map(str, open_ports))
        rules = f"""
            table inet testbed {{
                chain incoming {{
                    type filter hook input priority 0;
                    iifname "lo" accept
                    {who}tcp flags & (syn | ack) == syn tcp dport != {{ {ports} }} drop
                }}
            }}"""
        self._on_network(host, "nft", "-f", "-", input=rules)

    def loss(self, host: str, percent: int) -> None:
        """Drop that share of what comes to a host, at random; 0 ends that."""
        self.spoilt.add(host)
        rule = f"numgen random mod 100 < {percent} drop" if percent else ""
        self._filter(host, "lossy", f'iifname "eth0" {rule}' if rule else "")

    def partition(self, one: str, other: str, *, apart: bool = True) -> None:
        """Drop, silently, all that goes from one host to the other or back; others reach both. Or end that."""
        for host, peer in ((one, other), (other, one)):
            self.spoilt.add(host)
            self._filter(host, "apart", f"ip saddr {self.address(peer)} drop" if apart else "")

    def _filter(self, host: str, table: str, rule: str) -> None:
        """Replace a table of what a host lets in."""
        rules = f"""
            table inet {table}
            delete table inet {table}
            table inet {table} {{
                chain incoming {{
                    type filter hook input priority 0;
                    {rule}
                }}
            }}"""
        self._on_network(host, "nft", "-f", "-", input=rules)

    def bandwidth(self, host: str, mbit: int) -> None:
        """Limit a host's first card to ``mbit`` Mbit/s, each way."""
        self.spoilt.add(host)
        limit = ["root", "tbf", "rate", f"{mbit}mbit", "burst", "128kb", "latency", "50ms"]
        self._on_network(host, "tc", "qdisc", "replace", "dev", "eth0", *limit)
        self._on_switch("tc", "qdisc", "replace", "dev", self._port(host), *limit)

    def skew(self, host: str, seconds: float) -> None:
        """Set the clock of a host ahead, as all sees it that is started there by ssh from now on."""
        self.spoilt.add(host)
        settings = [f"LD_PRELOAD={FAKETIME}", f"FAKETIME={seconds:+}", "FAKETIME_DONT_FAKE_MONOTONIC=1"]
        self._session_environment(host).write_text("\n".join(settings) + "\n", encoding="utf-8")

    def small_disk(self, host: str, folder: Path, megabytes: int) -> None:
        """Put a file system of so many MB on a folder of a host, made if need be."""
        self.spoilt.add(host)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder]
        for command in (["mkdir", "-p", folder], mount):
            done = self.run(host, command)
            assert done.returncode == 0, done.stderr

    def second_cards(self, one_way_ms: Mapping[str, float] | None = None) -> None:
        """Give every host a second card, ``eth1``, on a network apart; what leaves the hosts named takes so long."""
        self.spoilt.update(self.hosts)
        if one_way_ms is None:
            for host in self.hosts:
                self._plug(host, card="eth1", bridge="br1", address=self.address(host, second=True))
            return
        ports = [f"{self.first(host)}={one_way_ms.get(host, 0.0)}" for host in self.hosts]
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, HERE / "delay.py", "eth1", *ports]
        switch = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        self._switches.append(switch)
        assert switch.stdout is not None
        assert switch.stdout.readline() == b"ready\n", "the delaying switch did not start"
        for host in self.hosts:
            self._set_up(host, card="eth1", address=self.address(host, second=True))

    def restore(self) -> None:
        """Undo every fault: end what still runs, start the ``spoilt`` hosts anew. Files stay as they are."""
        self._end_switches(kept=1)
        for host in self.spoilt & set(self._outer):
            self.power_off(host)
        for host in self.spoilt:
            self._session_environment(host).unlink(missing_ok=True)
        self.spoilt.clear()
        self._boot(host for host in self.hosts if host not in self._outer)
        for host in self.hosts:
            for process in self.processes(host):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    # How it is made

    def _boot(self, hosts: Iterable[str]) -> None:
        hosts = list(hosts)
        for host in hosts:
            own = self.folder / host
            arguments = [host, self.folder / "hosts", own / "sshd_config", *self._view(host)]
            apart = ["--mount", "--uts", "--ipc", "--net", "--pid", "--mount-proc", "--fork", "--kill-child=KILL"]
            with (own / "sshd.log").open("ab") as log:
                self._outer[host] = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", "unshare", *apart, "sh", HERE / "host.sh", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for the tests
                )
        for host in hosts:
            self._plug(host, card="eth0", bridge="br0", address=self.address(host))
        for host in hosts:
            wait_until(lambda host=host: self._listens(host), f"the sshd of {host}: see {self.folder / host}/sshd.log")

    def _end_switches(self, *, kept: int) -> None:
        while len(self._switches) > kept:
            switch = self._switches.pop()
            switch.kill()
            switch.communicate()

    def _end(self, host: str) -> None:
        """Kill the first process of a host, and with it all others; returns when they are gone."""
        outer = self._outer[host]
        with contextlib.suppress(psutil.NoSuchProcess):
            for first in psutil.Process(outer.pid).children():
                first.kill()
        outer.wait(DEADLINE_S)

    def _view(self, host: str) -> list[str | Path]:
        """What a host sees of the machine's files, as host.sh wants it."""
        own, temporary = self.folder / host, Path(tempfile.gettempdir()).resolve()
        private = {self.user_home: own / "home"}
        seen = {REPOSITORY: "ro", Path(sys.prefix): "ro", Path(sys.base_prefix): "ro", own: "rw", self.shared: "rw"}
        if host == CONTROL:
            seen[temporary] = "rw"
        else:
            private[Path("/tmp")] = own / "tmp"
            if not any(temporary.is_relative_to(hidden) for hidden in private):
                private[temporary] = own / "tmp"
        view: list[str | Path] = []
        for path, mode in seen.items():
            for hidden, instead in private.items():
                if path.is_relative_to(hidden):
                    view += [mode, path, instead / path.relative_to(hidden)]
        # The one that hides this very folder comes last.
        for hidden, instead in sorted(private.items(), key=lambda pair: own.is_relative_to(pair[0])):
            view += ["rw", instead, hidden]
        return view

    def _plug(self, host: str, *, card: str, bridge: str, address: str) -> None:
        port = self._port(host, card)
        pair = ["type", "veth", "peer", "name", card, "netns", str(self.first(host))]
        self._on_switch("ip", "link", "add", port, *pair)
        self._on_switch("ip", "link", "set", port, "master", bridge, "group", self._group(host), "up")
        self._set_up(host, card=card, address=address)

    def _set_up(self, host: str, *, card: str, address: str) -> None:
        # The same after a restart, as a real card's is: the others remember it.
        hardware = f"02:00:00:00:{card[-1]:0>2}:{self.hosts.index(host):02x}"
        self._on_network(host, "ip", "link", "set", card, "address", hardware, "up")
        self._on_network(host, "ip", "addr", "add", f"{address}/24", "dev", card)

    def _port(self, host: str, card: str = "eth0") -> str:
        return f"{host}-{card}"

    def _group(self, host: str) -> str:
        """What the ports of a host are marked with on the switch, all of its cards."""
        return str(1 + self.hosts.index(host))

    def _listens(self, host: str) -> bool:
        sockets = Path(f"/proc/{self.first(host)}/net/tcp").read_text(encoding="ascii")
        return any(line.split()[1].endswith(":0016") for line in sockets.splitlines()[1:])

    def _session_environment(self, host: str) -> Path:
        return self.home(host) / ".ssh" / "environment"

    def _on_switch(self, *arguments: str) -> None:
        _do("nsenter", "-n", "-t", str(self._switches[0].pid), *arguments)

    def _on_network(self, host: str, *arguments: str, **options: Any) -> None:
        """Run a command of the machine in the network of a host, whatever state the rest of the host is in."""
        _do("nsenter", "-n", "-t", str(self.first(host)), *arguments, **options)


def _do(*arguments: str, **options: Any) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=DEADLINE_S, **options)
    assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr.strip()}"


def _namespace(pid: int, kind: str) -> str:
    return str(Path(f"/proc/{pid}/ns/{kind}").readlink())


def wait_until(condition: Callable[[], object], what: str, *, deadline_s: float = DEADLINE_S) -> None:
    """Wait for a condition to hold; AssertionError says for what, after ``deadline_s``."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {deadline_s} s for {what}"
        time.sleep(0.01)


if __name__ == "__main__":
    if reason := missing():
        raise SystemExit(f"the test bed {reason}")
    with Bed() as bed:
        bed.start(CONTROL, [os.environ.get("SHELL", "bash"), "-i"]).wait()
