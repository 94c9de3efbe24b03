"""Who holds a run folder: named where somebody does, and nobody where the holder died, whatever it left."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from paceline.errors import UsageError
from paceline.launch.supervisor import identity
from paceline.plan.folder import hold, holder_of
from paceline.records import read_json, write_json

HOLD = """
import sys, time
from pathlib import Path
from paceline.plan.folder import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
LOCK = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1] + "/.lock"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""

Begin = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Start a process that holds something, and wait until it does."""
    begun = []

    def start(code: str, *words: object) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, text=True)
        begun.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def test_the_second_is_told_who_holds_it(tmp_path, begin):
    """Host, process and since when; with the exit code of wrong use."""
    holder = begin(HOLD, tmp_path)
    with pytest.raises(UsageError) as refused, hold(tmp_path):
        pass
    who = rf"process {holder.pid} on {re.escape(platform.node())} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d; wait for it"
    assert re.search(who, str(refused.value))
    assert refused.value.exit_code == 2
    assert abs(holder_of(tmp_path).since - time.time()) < 60


def test_a_killed_holder_holds_nothing(tmp_path, begin):
    holder = begin(HOLD, tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / ".holder").exists()
    with hold(tmp_path):
        assert holder_of(tmp_path).pid == os.getpid()
    assert holder_of(tmp_path) is None
    assert not (tmp_path / ".holder").exists()


def test_a_process_that_was_given_the_pid_of_a_killed_holder_holds_nothing(tmp_path):
    began_before = {"start": "another-boot/123", "since": 0.0}
    write_json(tmp_path / ".holder", identity(os.getpid()) | began_before)
    assert holder_of(tmp_path) is None
    with hold(tmp_path):
        assert read_json(tmp_path / ".holder")["start"] == identity(os.getpid())["start"]


def test_a_holder_on_another_host_is_known_by_its_lock(tmp_path, begin):
    """Its process cannot be seen from here, its lock on a shared disk can."""
    elsewhere = {"pid": os.getpid(), "start": "boot/1", "host": "elsewhere", "since": 1e9}
    write_json(tmp_path / ".holder", elsewhere)
    assert holder_of(tmp_path) is None, "nobody has the lock"
    begin(LOCK, tmp_path, 60)
    assert holder_of(tmp_path).host == "elsewhere"
    with pytest.raises(UsageError, match=rf"process {os.getpid()} on elsewhere since 2001-09-"), hold(tmp_path):
        pass


def test_a_lock_of_nobody_who_is_known_to_live_is_waited_for(tmp_path, begin):
    """A killed process lets go of its locks when the last of its threads is gone."""
    begin(LOCK, tmp_path, 0.5)
    with hold(tmp_path):
        assert holder_of(tmp_path).pid == os.getpid()
