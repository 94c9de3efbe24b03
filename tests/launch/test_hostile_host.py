"""A host that is not to be trusted with more than its own files: what it sends stays below the run folder."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from launch.sshd import hosts
from paceline.cluster import Host
from paceline.launch.remote import Remote

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def remote(tmp_path):
    with (
        hosts(tmp_path / "bed", addresses={"gamma": "127.0.0.1"}) as (host,),
        tempfile.TemporaryDirectory() as folder,
        closing(Remote(Host(name="gamma"), ssh_config=host.ssh_config, control_dir=Path(folder))) as remote,
    ):
        yield remote


def test_links_and_devices_of_a_host_are_not_taken_and_lead_nowhere(remote, tmp_path):
    """Links first, then folders of the same names with files in them, which would be written through the links."""
    there, here, outside = tmp_path / "there", tmp_path / "here", tmp_path / "outside"
    for folder in (there, outside):
        folder.mkdir()
    (outside / "authorized_keys").write_text("mine")
    (there / "logs").symlink_to(outside)
    (there / "up").symlink_to("../outside")
    (there / "update-1.pt").symlink_to(outside / "authorized_keys")
    os.mkfifo(there / "pipe")
    (there / "true.log").write_text("said")
    (there / "true.log").chmod(0o6777)
    remote.fetch(str(there), here)
    assert [path.name for path in here.rglob("*")] == ["true.log"]
    assert not (here / "true.log").stat().st_mode & (stat.S_ISUID | stat.S_ISGID)
    for name in ("logs", "up"):
        (there / name).unlink()
        (there / name).mkdir()
        (there / name / "authorized_keys").write_text("theirs")
    (there / "update-1.pt").unlink()
    (there / "update-1.pt").write_text("theirs")
    for append in (False, True):
        remote.fetch(str(there), here, append=append)
    assert (here / "logs" / "authorized_keys").read_text() == "theirs"
    assert (here / "update-1.pt").read_text() == "theirs"
    assert [path.read_text() for path in outside.iterdir()] == ["mine"]


def test_names_that_a_host_chooses_stay_names(remote, tmp_path):
    """Whatever a file is called, it comes below the folder that it is fetched into, under that very name."""
    there, here = tmp_path / "there", tmp_path / "here"
    names = ["..\\..\\owned", "-rf", "a\nb", "\x1b[31m", "~", "$(touch owned)", "..."]
    there.mkdir()
    for name in names:
        (there / name).write_text(name)
    remote.fetch(str(there), here)
    assert sorted(path.name for path in here.iterdir()) == sorted(names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bed", "here", "there"]
