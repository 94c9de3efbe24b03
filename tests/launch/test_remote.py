"""One host by ssh and rsync, against a real sshd."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest

from launch.sshd import hosts, make_key
from paceline.cluster import Host
from paceline.errors import UsageError
from paceline.launch.remote import HostError, Remote, UnreachableError

pytestmark = pytest.mark.timeout(60)

ODD = ["a b", "it's", '"q"', "; rm -rf x", "-rf", "$HOME", "`id`", "*", "new\nline", "ü", "a\\b", "~", "a:b", "%h", ""]


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    with hosts(tmp_path_factory.mktemp("a bed"), addresses={"alpha": "127.0.0.1"}) as (host,):
        yield host


@pytest.fixture(scope="module")
def control_dir():
    with tempfile.TemporaryDirectory(prefix="it's %h ") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def remote(sshd, control_dir):
    with closing(Remote(Host(name="alpha"), ssh_config=sshd.ssh_config, control_dir=control_dir)) as remote:
        yield remote


@pytest.fixture
def other(tmp_path):
    """A host that a test may spoil, and a new connection to it."""
    with (
        hosts(tmp_path, addresses={"beta": "127.0.0.1"}) as (host,),
        tempfile.TemporaryDirectory() as folder,
        closing(Remote(Host(name="beta"), ssh_config=host.ssh_config, control_dir=Path(folder))) as remote,
    ):
        yield host, remote


def test_arguments_arrive_as_they_were_given(remote):
    """Spaces, quotes, dollars, newlines: none means anything to the host's shell."""
    done = remote.run([sys.executable, "-c", "import sys; print(sys.argv[1:])", *ODD], timeout_s=20)
    assert done.stdout.decode().strip() == str(ODD)
    assert done.stderr == b""


@pytest.mark.parametrize("code", [0, 3, 255])
def test_exit_code_and_input_and_both_outputs_come_through(remote, code):
    """255 too, which ssh itself ends with when it fails."""
    program = f"import sys; d = sys.stdin.read(); print(d); sys.stderr.write(d); sys.exit({code})"
    done = remote.run([sys.executable, "-c", program], input=b"word", timeout_s=20)
    assert (done.returncode, done.stdout, done.stderr) == (code, b"word\n", b"word")


def test_a_command_that_takes_too_long_is_given_up(remote):
    began = time.monotonic()
    with pytest.raises(HostError, match=r"alpha: no answer within 0\.5 s from: sleep 20"):
        remote.run(["sleep", "20"], timeout_s=0.5)
    assert time.monotonic() - began < 5


def test_one_login_serves_commands_and_transfers(other, tmp_path):
    """They are faster than the first, and close() ends the connection."""
    host, remote = other
    times = []
    for _ in range(4):
        began = time.monotonic()
        assert remote.run(["true"], timeout_s=20).returncode == 0
        times.append(time.monotonic() - began)
    remote.send([host.ssh_config], str(tmp_path / "there"))
    assert (host.folder / "log").read_text().count("Accepted publickey") == 1
    assert min(times[1:]) < times[0], times
    assert remote.is_connected()
    remote.close()
    assert not remote.is_connected()


STARTER = """
import sys
from pathlib import Path
from paceline.cluster import Host
from paceline.launch.remote import Remote

ssh_config, control_dir, *command = sys.argv[1:]
remote = Remote(Host(name="alpha"), ssh_config=Path(ssh_config), control_dir=Path(control_dir))
print(remote.start(command).stdout.readline(), flush=True)
sys.stdin.read()
"""


def test_a_started_command_sees_its_input_close_when_its_starter_is_killed(remote, sshd, control_dir, tmp_path):
    """Which is how a foreground run ends on every host with its controlling process."""
    ended = tmp_path / "ended"
    there = f"import sys, pathlib; print('up', flush=True); sys.stdin.read(); pathlib.Path({str(ended)!r}).touch()"
    command = [sys.executable, "-c", STARTER, sshd.ssh_config, control_dir, sys.executable, "-c", there]
    starter = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert b"up" in starter.stdout.readline()
        assert not ended.exists()
    finally:
        starter.kill()
        starter.communicate()
    deadline = time.monotonic() + 5
    while not ended.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ended.exists()


def test_files_of_any_name_go_there_and_come_back(remote, tmp_path):
    """And a folder of any name holds them; nothing of it is run."""
    names = [name for name in ODD if name and "/" not in name]
    source, there, back = tmp_path / "source", f"{tmp_path}/-x '; touch {tmp_path}/run; $HOME", tmp_path / "back"
    source.mkdir()
    for name in names:
        (source / name).write_text(name)
    remote.send([source / name for name in names], there)
    remote.fetch(there, back)
    assert {path.name: path.read_text() for path in back.iterdir()} == {name: name for name in names}
    assert not (tmp_path / "run").exists()


def test_folders_keep_their_names_and_patterns_choose(remote, tmp_path):
    (tmp_path / "run" / "trial").mkdir(parents=True)
    (tmp_path / "run" / "trial" / "rank-0000.jsonl").write_text("1\n")
    (tmp_path / "run" / "trial" / "checkpoint.pt").write_text("large")
    remote.send([tmp_path / "run"], f"{tmp_path}/there")
    remote.fetch(f"{tmp_path}/there/run", tmp_path / "back", patterns=["rank-*.jsonl"])
    assert [str(path.relative_to(tmp_path / "back")) for path in sorted((tmp_path / "back").rglob("*"))] == [
        "trial", "trial/rank-0000.jsonl",
    ]  # fmt: skip


def test_a_growing_file_is_added_to_in_place(remote, tmp_path):
    """A reader that has it open sees what is new; one that was cut short there, and grew anew, is made equal."""
    (tmp_path / "there").mkdir()
    there, here = tmp_path / "there" / "rank-0000.jsonl", tmp_path / "back" / "rank-0000.jsonl"
    there.write_text("one\n" * 1000)
    remote.fetch(str(there.parent), here.parent, append=True)
    with here.open() as reader:
        assert len(reader.readlines()) == 1000
        with there.open("a") as file:
            file.write("two\n")
        remote.fetch(str(there.parent), here.parent, append=True)
        assert reader.readlines() == ["two\n"]
    there.write_text("one\n" * 999 + "other\n" * 2)
    remote.fetch(str(there.parent), here.parent, append=True)
    assert here.read_text() == there.read_text()


def test_what_is_missing_there_is_said(remote, tmp_path):
    with pytest.raises(HostError, match=r"alpha: rsync ended with code 23: rsync: .*no such"):
        remote.fetch(f"{tmp_path}/no such", tmp_path / "back")
    with pytest.raises(HostError, match=r"alpha: /proc/x cannot be made: "):
        remote.send([tmp_path], "/proc/x")
    done = remote.run(["no-such-program"], timeout_s=20)
    assert done.returncode == 127


def test_a_folder_of_the_home_folder_is_meant_on_the_host(remote, tmp_path):
    (tmp_path / "word").write_text("word")
    place = Path(
        tempfile.mkdtemp(prefix=".paceline-test-", dir=pwd.getpwuid(os.getuid()).pw_dir)
    )  # sshd asks nobody else
    try:
        remote.send([tmp_path / "word"], f"~/{place.name}/below")
        assert (place / "below" / "word").read_text() == "word"
    finally:
        shutil.rmtree(place)


def test_a_changed_host_key_is_refused(other):
    """With what to do; neither commands nor files get through."""
    host, remote = other
    make_key(host.folder / "another")
    host.trust(host.folder / "another.pub")
    with pytest.raises(
        UnreachableError, match=r"^beta: its host key is not the one .* said: Offending .*known_hosts:\d"
    ):
        remote.run(["true"], timeout_s=20)
    with pytest.raises(UnreachableError, match="its host key is not the one"):
        remote.fetch("x", host.folder / "x")


def test_an_unknown_host_key_and_a_refused_login_are_told_apart(other):
    host, remote = other
    known = host.known_hosts.read_text()
    host.known_hosts.write_text("")
    with pytest.raises(UnreachableError, match=r"^beta: its host key is not known yet: connect once by hand"):
        remote.run(["true"], timeout_s=20)
    host.known_hosts.write_text(known)
    Path(f"{host.folder.parent}/key.pub").write_text("")
    with pytest.raises(UnreachableError, match=r"^beta: the login is refused: `ssh beta true` must work without"):
        remote.run(["true"], timeout_s=20)


def test_a_host_that_is_down_is_named_with_what_to_do(other, tmp_path):
    """Also when it goes down under an open connection."""
    host, remote = other
    assert remote.run(["true"], timeout_s=20).returncode == 0
    host.stop()
    remote.close()
    with pytest.raises(UnreachableError, match=r"^beta: it cannot be reached: is it up, .* Connection refused"):
        remote.run(["true"], timeout_s=20)
    with pytest.raises(UnreachableError, match=r"^beta: it cannot be reached"):
        remote.send([tmp_path / "ssh_config"], "x")


def test_a_name_that_nobody_has_is_said(sshd, control_dir):
    nobody = Remote(Host(name="no-such-host.invalid"), ssh_config=sshd.ssh_config, control_dir=control_dir)
    with pytest.raises(UnreachableError, match=r"^no-such-host\.invalid: there is no host of that name: correct it"):
        nobody.run(["true"], timeout_s=20)


def test_too_long_a_folder_for_sockets_is_refused(tmp_path):
    with pytest.raises(UsageError, match="choose a shorter TMPDIR"):
        Remote(Host(name="alpha"), ssh_config=None, control_dir=tmp_path / ("x" * 100))


def test_settings_of_the_users_own_sessions_do_no_harm(other):
    """A remote command, forwardings and a terminal asked for in ssh_config."""
    host, remote = other
    text = host.ssh_config.read_text()
    host.ssh_config.write_text(f"{text}  RemoteCommand echo no\n  RequestTTY force\n  LocalForward 1 localhost:1\n")
    assert remote.run(["echo", "yes"], timeout_s=20).stdout == b"yes\n"
