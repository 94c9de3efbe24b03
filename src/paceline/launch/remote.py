"""One host by the system's OpenSSH and rsync: commands, files, and a connection that all of them share.

Everything is a list of arguments; what must pass through the host's shell is quoted. Host keys are never taken on
trust. A connection stays open for a while after its last use, in a process of its own, so that only the first command
pays for the login.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from subprocess import DEVNULL, PIPE

from paceline.cluster import Host
from paceline.errors import PacelineError, UsageError

CONNECT_TIMEOUT_S = 10
TRANSFER_TIMEOUT_S = 600.0
_PERSIST_S = 120  # how long an idle connection stays
_LONGEST_SOCKET = 107 - 17  # what a socket's name may hold, less what ssh appends while it makes one
_OPTIONS = {
    "BatchMode": "yes",  # never ask
    "StrictHostKeyChecking": "yes",
    "ConnectTimeout": str(CONNECT_TIMEOUT_S),
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "ControlMaster": "auto",
    "ControlPersist": str(_PERSIST_S),
    "ClearAllForwardings": "yes",  # those of the user's own sessions
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "LogLevel": "ERROR",
}
# What ssh says, and what to do about it; the first that fits.
_ADVICE = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is not the one that known_hosts holds, so it may be another machine: refused. If it was "
        "installed anew, compare the fingerprint on it, remove the offending line, and connect once by hand "
        "(ssh {name})",
    ),
    (
        "Host key verification failed",
        "its host key is not known yet: connect once by hand (ssh {name}), compare the fingerprint, and accept it",
    ),
    ("Permission denied", "the login is refused: `ssh {name} true` must work without a password (a key, ssh-agent)"),
    (
        "Could not resolve hostname",
        "there is no host of that name: correct it in the cluster file, or add it to ssh_config",
    ),
)
_UNREACHED = "it cannot be reached: is it up, does its sshd run, does a firewall let ssh through? Try `ssh {name} true`"
_CONNECTION_CODES = (10, 12, 30, 35, 255)  # of rsync, when what lies between the two ends broke
_VANISHED = 24  # of rsync: a file went while it was read, as files do while a run goes on


class HostError(PacelineError):
    """Something could not be done on ``host``."""

    def __init__(self, host: str, message: str) -> None:
        super().__init__(f"{host}: {message}")
        self.host = host


class UnreachableError(HostError):
    """No connection, or it was lost; what ran there may go on."""


class Remote:
    """One host. Several of the same host and ``control_dir`` share one connection.

    ``control_dir`` is an existing folder of this user alone, with a short path: it holds a socket for each host.
    Raises: UsageError if its path is too long.
    """

    def __init__(self, host: Host, *, ssh_config: Path | None, control_dir: Path) -> None:
        self.host = host
        self.name = host.name
        socket = control_dir / hashlib.sha256(f"{host.name} {ssh_config}".encode()).hexdigest()[:12]
        if len(os.fsencode(socket)) > _LONGEST_SOCKET:
            raise UsageError(f"{control_dir}: too long a path for the sockets of ssh; choose a shorter TMPDIR")
        config = () if ssh_config is None else ("-F", str(ssh_config))
        settings = (word for key, value in _OPTIONS.items() for word in ("-o", f"{key}={value}"))
        self._ssh = ("ssh", *config, *settings, "-S", str(socket).replace("%", "%%"))

    def run(
        self, arguments: Sequence[str], *, input: bytes = b"", timeout_s: float
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command in the home folder there, and return its exit code and what it wrote.

        Raises: UnreachableError; HostError if it takes longer than ``timeout_s`` (it may go on there).
        """
        done = self._call([*self._ssh, "--", self.name, shlex.join(arguments)], input, timeout_s, shlex.join(arguments))
        if done.returncode == 255 and not self.is_connected():
            raise self._unreachable(done.stderr)
        return done

    def start(self, arguments: Sequence[str], *, stdout: int = PIPE, stderr: int = PIPE) -> subprocess.Popen[bytes]:
        """Start a command there; it sees the end of its input when this process closes the pipe, or dies.

        Ctrl-C does not reach it. What goes to a pipe must be read.
        """
        return subprocess.Popen(
            [*self._ssh, "--", self.name, shlex.join(arguments)],
            stdin=PIPE,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )

    def send(self, sources: Sequence[Path], folder: str, *, timeout_s: float = TRANSFER_TIMEOUT_S) -> None:
        """Copy files and folders, by their names, into ``folder`` there, which is made; what is there already is not
        sent again.

        Args:
            folder: absolute, or below the home folder there.
        Raises: UnreachableError, HostError.
        """
        place = in_home(folder)
        made = self.run(["mkdir", "-p", "--", place], timeout_s=timeout_s)
        if made.returncode:
            raise HostError(self.name, f"{folder} cannot be made: {_said(made.stderr)}")
        self._rsync([str(source.absolute()) for source in sources], f"{self._rsync_name}:{place}/", timeout_s)

    def fetch(
        self,
        folder: str,
        into: Path,
        *,
        patterns: Sequence[str] = (),
        append: bool = False,
        timeout_s: float = TRANSFER_TIMEOUT_S,
    ) -> None:
        """Copy what ``folder`` there holds into ``into``, only what is new; a transfer cut short is taken up again.

        Plain files and folders only, and neither owners nor permissions: no link that a host makes leads anywhere here.
        Args:
            patterns: names, as rsync's ``--include`` takes them, of the files wanted; all if empty.
            append: the files only grow; what is new is added in place, so that a reader may keep them open. Otherwise
                each is written aside and renamed.
        Raises: UnreachableError, HostError.
        """
        into.mkdir(parents=True, exist_ok=True)
        filters = [f"--include={pattern}" for pattern in ("*/", *patterns)] + ["--exclude=*", "--prune-empty-dirs"]
        options = (filters if patterns else []) + ["--append-verify"] * append
        options += ["--no-links", "--no-devices", "--no-specials", "--no-owner", "--no-group", "--no-perms"]
        self._rsync([f"{self._rsync_name}:{in_home(folder)}/"], f"{into.absolute()}/", timeout_s, options)

    def hostname(self) -> str:
        """The name or address that ssh connects to, as ssh_config has it."""
        done = self._call([*self._ssh, "-G", "--", self.name], b"", CONNECT_TIMEOUT_S, "ssh -G")
        settings = (line.partition(" ") for line in done.stdout.decode(errors="replace").splitlines())
        return next((value for key, _, value in settings if key == "hostname"), self.name)

    def is_connected(self) -> bool:
        """Whether the shared connection is up."""
        return self._control("check") == 0

    def close(self) -> None:
        """End the shared connection, if there is one."""
        self._control("exit")

    def _control(self, request: str) -> int:
        return subprocess.run(
            [*self._ssh, "-O", request, "--", self.name], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, check=False
        ).returncode

    def _rsync(self, sources: list[str], target: str, timeout_s: float, options: Sequence[str] = ()) -> None:
        shell = shlex.join(self._ssh)
        fixed = ["rsync", "--archive", "--partial", "--secluded-args", "--rsh", shell]
        done = self._call([*fixed, *options, "--", *sources, target], b"", timeout_s, "rsync")
        if done.returncode in _CONNECTION_CODES and not self.is_connected():
            raise self._unreachable(done.stderr)
        if done.returncode in (12, 127) and b"not found" in done.stderr:
            raise HostError(self.name, "rsync is not installed there; install it")
        if done.returncode not in (0, _VANISHED):
            raise HostError(self.name, f"rsync ended with code {done.returncode}: {_lines(done.stderr)[0]}")

    def _call(
        self, command: list[str], input: bytes, timeout_s: float, what: str
    ) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(command, input=input, capture_output=True, check=False, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise HostError(self.name, f"no answer within {timeout_s:g} s from: {what[:200]}") from error
        except FileNotFoundError as error:
            raise UsageError(f"{command[0]} is not installed on this machine; install it") from error

    def _unreachable(self, stderr: bytes) -> UnreachableError:
        text = stderr.decode(errors="replace")
        advice = next((advice for sign, advice in _ADVICE if sign in text), _UNREACHED).format(name=self.name)
        return UnreachableError(self.name, f"{advice}. ssh said: {_said(stderr)}")

    @property
    def _rsync_name(self) -> str:
        """The name as rsync wants it before a colon: an IPv6 address in brackets."""
        user, at, address = self.name.rpartition("@")
        return f"{user}{at}[{address}]" if ":" in address and not address.startswith("[") else self.name


def in_home(folder: str) -> str:
    """``~/x`` as a path that needs no shell: commands and transfers start in the home folder."""
    path = folder.removeprefix("~").lstrip("/") if folder == "~" or folder.startswith("~/") else folder
    return path if path.startswith("/") else f"./{path}"


def _lines(stderr: bytes) -> list[str]:
    return [line.strip()[:300] for line in stderr.decode(errors="replace").splitlines() if line.strip()] or ["nothing"]


def _said(stderr: bytes) -> str:
    """The last line, and before it where an offending key is."""
    *before, last = _lines(stderr)
    return "; ".join([*(line for line in before if line.startswith("Offending")), last])
