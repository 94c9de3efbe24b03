"""Which interpreter a host runs ranks with: its own, or that of an environment made there from wheels sent along."""

from __future__ import annotations

import hashlib
import sys
from importlib.metadata import requires
from pathlib import Path

from paceline.cluster import Cluster
from paceline.errors import UsageError
from paceline.launch import make_environment
from paceline.launch.remote import HostError, Remote, in_home

ANSWER_TIMEOUT_S = 60.0
MAKE_TIMEOUT_S = 1200.0
_HAS_TORCH = "import importlib.metadata as packages; packages.version('torch')"
_IS_RECENT = "import sys; sys.exit(sys.version_info < (3, 11))"


def interpreter(remote: Remote, cluster: Cluster, *, make: bool = True) -> str:
    """The one that the cluster file names, or that here; where it has no torch, one made of the wheelhouse, if any.

    Args:
        make: whether to make an environment that is not there yet, which may take minutes; if not, the interpreter
            that it would be made with.
    Raises: UsageError if the wheelhouse holds no wheels; HostError if it does not hold what is needed.
    """
    own = sys.executable if cluster.python == "auto" else cluster.python
    if cluster.wheelhouse is None or _succeeds(remote, own, "-c", _HAS_TORCH):
        return own
    wheelhouse = Path(cluster.wheelhouse)
    digest = digest_of(wheelhouse)
    place = f"{in_home(cluster.folder)}/environments/{digest}"
    if not _succeeds(remote, "test", "-e", f"{place}/.whole"):
        base = _base(remote, own, cluster)
        if not make:
            return base
        _make(remote, base, wheelhouse, f"{in_home(cluster.folder)}/wheels/{digest}", place)
    return f"{place}/bin/python"


def digest_of(wheelhouse: Path) -> str:
    """Of the names and sizes of its wheels.

    Raises: UsageError if there are none.
    """
    wheels = sorted((path.name, path.stat().st_size) for path in wheelhouse.glob("*.whl"))
    if not wheels:
        raise UsageError(f"the wheelhouse {wheelhouse} holds no wheels; fill it by `pip wheel`, or leave it out")
    return hashlib.sha256(repr(wheels).encode()).hexdigest()[:16]


def requirements() -> list[str]:
    """What this program's code needs, as pip takes it."""
    return [needed for needed in requires("paceline") or () if "extra ==" not in needed]


def _base(remote: Remote, own: str, cluster: Cluster) -> str:
    """What makes an environment: the interpreter that is named; else that here, or whatever Python there is."""
    here = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (own, here, "python3") if cluster.python == "auto" else (own,):
        if _succeeds(remote, python, "-c", _IS_RECENT):
            return python
    raise HostError(remote.name, "there is no Python 3.11 or later to make an environment with; install one")


def _make(remote: Remote, base: str, wheelhouse: Path, wheels: str, place: str) -> None:
    remote.send(sorted(wheelhouse.glob("*.whl")), wheels, timeout_s=MAKE_TIMEOUT_S)
    program = Path(make_environment.__file__).read_text(encoding="utf-8")
    made = remote.run([base, "-c", program, place, wheels, *requirements()], timeout_s=MAKE_TIMEOUT_S)
    if made.returncode:
        lines = made.stderr.decode(errors="replace").strip().splitlines()
        said = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
        raise HostError(
            remote.name,
            f"no environment can be made of the wheels in {wheelhouse}: {' '.join(said)[:500]}. "
            "`pip wheel --wheel-dir WHEELHOUSE paceline`, on a host of the same kind, brings together what is needed",
        )
    remote.run(["rm", "-rf", "--", wheels], timeout_s=ANSWER_TIMEOUT_S)


def _succeeds(remote: Remote, *command: str) -> bool:
    return remote.run(command, timeout_s=ANSWER_TIMEOUT_S).returncode == 0
