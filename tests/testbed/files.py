"""What hosts have on their disks when they are first switched on: homes, keys, and the settings of ssh."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path


def write_files(folder: Path, addresses: Mapping[str, str], *, control: str) -> None:
    """Write ``ssh_config``, ``known_hosts``, ``hosts`` and a folder for every host; the user of ``control`` may log in.

    A host's folder has its ``home``, its ``tmp``, its ``host_key`` and its ``sshd_config``.
    """
    key = folder / "key"
    _make_key(key)
    names = [f"{address} {host}\n" for host, address in addresses.items()]
    (folder / "hosts").write_text("".join(["127.0.0.1 localhost\n", *names]), encoding="utf-8")
    known = [f"{address},{host} {_write_host(folder / host, key)}" for host, address in addresses.items()]
    (folder / "known_hosts").write_text("".join(known), encoding="utf-8")
    settings = {
        "Host": "*",
        "IdentityFile": key,
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "UserKnownHostsFile": folder / "known_hosts",
        "StrictHostKeyChecking": "yes",
    }
    _write_settings(folder / "ssh_config", settings)
    shutil.copy(folder / "ssh_config", folder / control / "home" / ".ssh" / "config")


def _write_host(own: Path, key: Path) -> str:
    """Write the folder of one host; returns its public key."""
    (own / "home" / ".ssh").mkdir(parents=True)
    (own / "tmp").mkdir()
    for path, mode in ((own / "home", 0o700), (own / "home" / ".ssh", 0o700), (own / "tmp", 0o1777)):
        path.chmod(mode)
    _make_key(own / "host_key")
    shutil.copy(key.with_suffix(".pub"), own / "home" / ".ssh" / "authorized_keys")
    settings = {
        "HostKey": own / "host_key",
        "PidFile": "none",
        "UsePAM": "no",
        "PermitRootLogin": "prohibit-password",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PermitUserEnvironment": "yes",  # so that a test can set the clock of a host wrong
        "Subsystem": "sftp internal-sftp",
    }
    _write_settings(own / "sshd_config", settings)
    return (own / "host_key.pub").read_text(encoding="utf-8")


def _make_key(path: Path) -> None:
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "testbed", "-f", str(path)]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)


def _write_settings(path: Path, settings: Mapping[str, object]) -> None:
    path.write_text("".join(f"{key} {value}\n" for key, value in settings.items()), encoding="utf-8")
