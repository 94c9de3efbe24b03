"""Environments made on hosts of wheels that are sent along: a real sshd, real wheels (tiny ones), real pip."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from launch import sshd
from paceline.cluster import Cluster, Host
from paceline.errors import UsageError
from paceline.launch.doctor import examine
from paceline.launch.remote import HostError, Remote
from paceline.launch.wheelhouse import interpreter, requirements

VERSION = "99.0"  # of every wheel

pytestmark = [pytest.mark.runs, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with sshd.hosts(tmp_path_factory.mktemp("bed"), addresses={"bare": "127.0.0.2"}) as (up,):
        yield up


@pytest.fixture
def remote(host):
    with tempfile.TemporaryDirectory() as sockets:
        remote = Remote(Host(name=host.name), ssh_config=host.ssh_config, control_dir=Path(sockets))
        yield remote
        remote.close()


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory) -> str:
    """An interpreter without packages."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return str(folder / "bin" / "python")


def write_wheel(folder: Path, package: str) -> None:
    """A wheel of one module that says its version."""
    name = package.replace("-", "_")
    with zipfile.ZipFile(folder / f"{name}-{VERSION}-py3-none-any.whl", "w") as wheel:
        info = f"{name}-{VERSION}.dist-info"
        wheel.writestr(f"{name}.py", f"__version__ = {VERSION!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {VERSION}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def cluster(host, bare_python, tmp_path) -> Cluster:
    """A host without torch, and a wheelhouse of all that paceline needs."""
    wheels = tmp_path / "wheels; a 'name'"
    wheels.mkdir()
    for requirement in requirements():
        write_wheel(wheels, re.match(r"[\w-]+", requirement)[0])
    return Cluster(
        hosts=(Host(name=host.name),),
        ssh_config=str(host.ssh_config),
        python=bare_python,
        folder=str(tmp_path / "kept $(there)"),
        wheelhouse=str(wheels),
    )


def torch_of(remote: Remote, python: str) -> str:
    done = remote.run([python, "-c", "import torch; print(torch.__version__)"], timeout_s=30)
    return done.stdout.decode().strip()


def test_an_environment_is_made_once_and_used_again(remote, cluster):
    """And no wheels are left on the host. The doctor, which makes none, says that a run will."""
    with tempfile.TemporaryDirectory() as sockets:
        versions = examine(cluster, control_dir=Path(sockets), sweep=False).findings[1]
    assert versions.word == "warn"
    assert "bare has no torch for " in versions.evidence
    assert "a run makes an environment of the wheelhouse" in versions.evidence
    python = interpreter(remote, cluster)
    assert torch_of(remote, python) == VERSION
    (made,) = Path(cluster.folder).glob("environments/*/.whole")
    written = made.stat().st_mtime_ns
    assert interpreter(remote, cluster) == python == interpreter(remote, cluster, make=False)
    assert made.stat().st_mtime_ns == written
    assert list(Path(cluster.folder).glob("wheels/*")) == []


def test_a_wheelhouse_that_lacks_something_is_an_error_that_names_it(remote, cluster):
    """Nothing that looks whole is left; with the wheel added, it is another wheelhouse."""
    (lacking,) = Path(cluster.wheelhouse).glob("pyarrow-*")
    lacking.unlink()
    with pytest.raises(HostError, match=r"bare: no environment can be made of the wheels in .*pyarrow>=.*pip wheel"):
        interpreter(remote, cluster)
    assert list(Path(cluster.folder).glob("environments/*/.whole")) == []


def test_a_host_that_has_torch_is_taken_as_it_is(remote, cluster):
    assert interpreter(remote, cluster.model_copy(update={"python": sys.executable})) == sys.executable
    assert not Path(cluster.folder).exists()


def test_a_wheelhouse_without_wheels_is_refused(remote, cluster):
    for wheel in Path(cluster.wheelhouse).iterdir():
        wheel.unlink()
    with pytest.raises(UsageError, match="holds no wheels; fill it"):
        interpreter(remote, cluster)
