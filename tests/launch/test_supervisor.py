"""The supervisor leaves no process of its command behind, however either of them ends, and touches nobody else's."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from disks import tmpfs
from paceline.launch import supervisor
from ranks import processes_naming, wait_until_gone

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")]

# Ignores SIGTERM, as do its child, its grandchild in a session of its own, and an orphan that was daemonized twice.
STUBBORN = """
import os, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, signal.SIG_IGN)
folder = Path(sys.argv[1])
def say(who):
    (folder / who).write_text(str(os.getpid()))
def sleep(who):
    say(who)
    time.sleep(60)
if not os.fork():
    if not os.fork():
        os.setsid()
        sleep("grandchild")
    sleep("child")
if not os.fork():
    os.setsid()
    if os.fork():
        os._exit(0)
    sleep("orphan")
sleep("command")
"""
POLITE = "import sys, time; open(sys.argv[1] + '/command', 'w'); time.sleep(60)"
FAMILY = ("command", "child", "grandchild", "orphan")


class Bed:
    """Supervisors of commands that name ``folder``, by which whatever is left of them can be found."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.control = folder, folder / "control"

    def words(self, *arguments: str, code: str = STUBBORN) -> list[str]:
        own = [sys.executable, "-m", "paceline.launch.supervisor", "start", str(self.control), *arguments]
        return [*own, "--", sys.executable, "-c", code, str(self.folder)]

    def start(self, *arguments: str, code: str = STUBBORN, family: tuple[str, ...] = FAMILY) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self.words(*arguments, code=code), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self.wait_for(lambda: all((self.folder / who).exists() for who in family))
        return process

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "paceline.launch.supervisor"]
        return subprocess.run([*program, *words], capture_output=True, text=True, timeout=30, check=False)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.01)

    def state(self) -> dict:
        return json.loads((self.control / "state.json").read_text())

    def alive(self) -> list[int]:
        return processes_naming(str(self.folder))

    def pid_of_command(self) -> int:
        return int((self.folder / "command").read_text())


@pytest.fixture
def bed(tmp_path) -> Iterator[Bed]:
    """Whatever a test does: nothing outlives it."""
    yield Bed(tmp_path)
    assert wait_until_gone(str(tmp_path), deadline_s=5.0) == []


def end(process: subprocess.Popen[bytes]) -> int:
    """Wait for a supervisor's end, its standard input still open."""
    code = process.wait(20)
    assert process.stdin is not None
    process.stdin.close()
    return code


def test_it_ends_with_the_command_and_its_exit_code(bed):
    """Output goes through, and the state says who ran and how it ended."""
    code = "print('well'); raise SystemExit(7)"
    done = subprocess.Popen(bed.words(code=code), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert done.stdout is not None
    with done.stdout:
        assert done.stdout.read() == b"well\n"
    assert end(done) == 7
    state = bed.state()
    assert (state["status"], state["exit_code"], state["host"]) == ("ended", 7, os.uname().nodename)
    assert state["since"] <= state["time"]


def test_what_the_command_leaves_behind_is_ended(bed):
    """A daemon that outlives the command does not outlive the supervisor."""
    code = STUBBORN.replace('sleep("command")', "[time.sleep(.01) for _ in iter((folder / 'go').exists, True)]")
    process = bed.start(code=code, family=FAMILY[1:])
    (bed.folder / "go").touch()
    assert end(process) == 0
    assert bed.alive() == []


def test_stop_ends_those_who_ignore_sigterm_or_hide_in_sessions_of_their_own(bed):
    process = bed.start("--grace", "0.3")
    began = time.monotonic()
    done = bed.call("stop", str(bed.control))
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr
    assert time.monotonic() - began > 0.3
    assert bed.alive() == []
    assert end(process) == 137
    assert (bed.state()["status"], bed.state()["exit_code"]) == ("stopped", 137)


def test_stop_now_does_not_wait(bed):
    process = bed.start("--grace", "30")
    began = time.monotonic()
    assert supervisor.stop(bed.control, now=True)
    assert time.monotonic() - began < 1
    assert bed.alive() == []
    end(process)


def test_a_command_that_heeds_sigterm_is_not_killed(bed):
    code = "import signal, sys; signal.signal(15, lambda *_: sys.exit(3));" + POLITE
    process = bed.start("--grace", "30", code=code, family=("command",))
    time.sleep(0.1)
    assert supervisor.stop(bed.control, now=False)
    assert end(process) == 3
    assert (bed.state()["status"], bed.state()["exit_code"]) == ("stopped", 3)


def test_all_ends_within_2_s_of_the_end_of_standard_input(bed):
    process = bed.start()
    assert process.stdin is not None
    process.stdin.close()
    began = time.monotonic()
    process.wait(20)
    assert time.monotonic() - began < 2
    assert bed.alive() == []
    assert bed.state()["status"] == "stopped"


def test_all_ends_when_nothing_comes_through_standard_input_for_too_long(bed):
    """Not before: whoever started it lives as long as it says so now and then."""
    process = bed.start("--silence", "1.5")
    assert process.stdin is not None
    for _ in range(12):
        time.sleep(0.25)
        process.stdin.write(b".")
        process.stdin.flush()
    assert process.poll() is None, "it was heard for 3 s"
    assert end(process) == 137
    assert bed.alive() == []
    assert bed.state()["status"] == "stopped"


def test_silence_of_a_command_without_input_is_refused(bed):
    done = bed.call(*bed.words("--silence", "5", "--detach")[3:])
    assert done.returncode == 2
    assert "leave --silence or --detach out" in done.stderr


@pytest.mark.parametrize("how", ["ends", "killed", "stopped"])
def test_what_a_command_detaches_by_a_supervisor_of_its_own_is_let_go(bed, how):
    """All else that it started is ended with it, however it ends."""
    apart = Bed(bed.folder / "apart")
    apart.folder.mkdir()
    code = f"import subprocess\nsubprocess.run({apart.words('--detach', code=POLITE)!r}, check=True)\n" + STUBBORN
    if how == "ends":
        code = code.replace('sleep("command")', "[time.sleep(.01) for _ in iter((folder / 'go').exists, True)]")
    process = bed.start("--grace", "0.3", code=code, family=FAMILY[1:])
    if how == "ends":
        (bed.folder / "go").touch()
    elif how == "killed":
        os.kill(bed.state()["pid"], signal.SIGKILL)
    else:
        assert supervisor.stop(bed.control, now=False)
    end(process)
    assert sorted(bed.alive()) == sorted(apart.alive()), "nothing but what is apart"
    assert len(apart.alive()) == 3, "guard, supervisor, command"
    assert supervisor.stop(apart.control, now=False)


def waiter(bed: Bed) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "paceline.launch.supervisor", "wait", str(bed.control)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_waiting_tells_the_state_at_once_and_at_the_end(bed):
    process = bed.start("--detach")
    end(process)
    with waiter(bed) as waits:
        assert json.loads(waits.stdout.readline())["status"] == "running"
        time.sleep(0.3)
        assert waits.poll() is None
        spent = Path(f"/proc/{waits.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        time.sleep(0.5)
        assert Path(f"/proc/{waits.pid}/stat").read_text().rpartition(")")[2].split()[11:13] == spent, "it sleeps"
        os.kill(bed.pid_of_command(), signal.SIGKILL)
        told = json.loads(waits.stdout.readline())
        assert (told["status"], told["exit_code"]) == ("ended", 137)
        assert waits.wait(5) == 0


def test_who_waits_leaves_when_nobody_listens_any_more(bed):
    process = bed.start("--detach", code=POLITE, family=("command",))
    end(process)
    with waiter(bed) as waits:
        waits.stdout.readline()
        waits.stdin.close()
        assert waits.wait(5) == 0
        assert waits.stdout.read() == ""
    assert bed.state()["status"] == "running"
    assert supervisor.stop(bed.control, now=False)


def test_waiting_where_nothing_ever_ran_is_over_at_once(bed):
    done = bed.call("wait", str(bed.control))
    assert (done.returncode, done.stdout) == (0, "null\nnull\n")


def test_kill_9_of_the_command_ends_all(bed):
    process = bed.start()
    os.kill(bed.pid_of_command(), signal.SIGKILL)
    assert end(process) == 137
    assert bed.alive() == []
    assert (bed.state()["status"], bed.state()["exit_code"]) == ("ended", 137)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("victim", ["supervisor", "guard"])
def test_kill_9_of_the_supervisor_or_its_guard_ends_all(bed, victim, detach):
    process = bed.start("--grace", "0.5", *["--detach"] * detach)
    pid = bed.state()["pid"]
    os.kill(pid if victim == "supervisor" else supervisor_parent(pid), signal.SIGKILL)
    bed.wait_for(lambda: bed.alive() == [])
    end(process)
    state = supervisor.read_state(bed.control)
    assert state is not None
    assert state["status"] == ("ended" if victim == "supervisor" else "stopped")


def supervisor_parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_detached_outlives_the_shell_that_started_it(bed):
    """Its session is killed whole, its terminal hangs up; the command goes on and its output is on disk."""
    words = bed.words("--detach", code="print('begun', flush=True);" + POLITE)
    shell = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, sys, time; subprocess.run(sys.argv[1:]); time.sleep(60)", *words],
        start_new_session=True,
    )
    bed.wait_for((bed.folder / "command").exists)
    for number in (signal.SIGHUP, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, number)
    shell.wait()
    time.sleep(0.2)
    assert bed.state()["status"] == "running"
    assert len(bed.alive()) == 3, "guard, supervisor, command"
    assert (bed.control / "output.log").read_text() == "begun\n"
    assert json.loads(bed.call("state", str(bed.control)).stdout)["status"] == "running"
    assert bed.call("stop", str(bed.control)).stdout == "stopped\n"
    assert bed.alive() == []
    assert bed.call("stop", str(bed.control)).stdout == "nothing ran\n"


def test_detaching_returns_when_the_state_says_running(bed):
    for _ in range(5):
        done = bed.call("start", str(bed.control), "--detach", "--", sys.executable, "-c", POLITE, str(bed.folder))
        assert done.returncode == 0, done.stderr
        assert bed.state()["status"] == "running"
        assert supervisor.stop(bed.control, now=True)


def test_a_reused_pid_is_not_touched(bed):
    """The state of a dead supervisor names a process that began at another time: a stranger."""
    with subprocess.Popen([sys.executable, "-c", POLITE, str(bed.folder)]) as stranger:
        bed.wait_for((bed.folder / "command").exists)
        bed.control.mkdir()
        state = supervisor.identity(stranger.pid) | {"status": "running", "exit_code": None, "grace_s": 0.1}
        state["start"] = state["start"][:-1]
        (bed.control / "state.json").write_text(json.dumps(state))
        assert not supervisor.stop(bed.control, now=True)
        assert supervisor.read_state(bed.control)["status"] == "ended"
        assert stranger.poll() is None
        stranger.kill()


def test_another_hosts_process_is_not_touched(bed):
    process = bed.start(code=POLITE, family=("command",))
    path = bed.control / "state.json"
    kept = path.read_text()
    path.write_text(json.dumps(bed.state() | {"host": "elsewhere"}))
    done = bed.call("stop", str(bed.control))
    assert done.returncode == 1
    assert "it runs on elsewhere" in done.stderr
    assert process.poll() is None
    path.write_text(kept)
    assert supervisor.stop(bed.control, now=False)
    end(process)


def test_a_hanging_supervisor_is_ended_by_force(bed, monkeypatch):
    monkeypatch.setattr(supervisor, "PATIENCE_S", 0.5)
    process = bed.start("--grace", "0.1")
    os.kill(bed.state()["pid"], signal.SIGSTOP)
    assert supervisor.stop(bed.control, now=False)
    assert bed.alive() == []
    end(process)


def test_a_command_that_has_only_begun_can_be_stopped(bed):
    """It is asked, not killed: no request is lost between fork and exec."""
    words = ["start", str(bed.control), "--detach", "--grace", "20", "--", "/bin/sleep", "60"]
    for _ in range(20):
        assert bed.call(*words).returncode == 0
        began = time.monotonic()
        assert supervisor.stop(bed.control, now=False)
        assert time.monotonic() - began < 5
        assert bed.state()["exit_code"] == 128 + signal.SIGTERM


def test_what_is_ending_is_waited_for(bed):
    """As after a controlling process was killed and started anew at once."""
    process = bed.start()
    assert process.stdin is not None
    process.stdin.close()
    successor = bed.start(code=POLITE, family=("command",))
    assert process.wait(5) == 137
    bed.wait_for(lambda: bed.state()["status"] == "running")
    assert supervisor.stop(bed.control, now=False)
    end(successor)


def test_the_state_of_a_host_that_is_gone_is_not_believed(bed):
    """Nobody holds the lock of a folder that hosts share."""
    bed.control.mkdir()
    state = supervisor.identity(os.getpid()) | {"status": "running", "exit_code": None, "host": "elsewhere"}
    (bed.control / "state.json").write_text(json.dumps(state))
    assert supervisor.read_state(bed.control)["status"] == "ended"
    assert not supervisor.stop(bed.control, now=False)


def test_one_command_a_folder(bed):
    process = bed.start(code=POLITE, family=("command",))
    rival = subprocess.run(bed.words(), capture_output=True, text=True, timeout=20, check=False)
    assert rival.returncode == 1
    assert f"something runs in {bed.control} already" in rival.stderr
    assert supervisor.stop(bed.control, now=False)
    end(process)


def test_stop_leaves_the_neighbour_alone(bed):
    neighbour = Bed(bed.folder / "neighbour")
    neighbour.folder.mkdir()
    mine, other = bed.start(), neighbour.start()
    supervisor.stop(bed.control, now=True)
    assert end(mine) == 137
    assert len(neighbour.alive()) == 2 + len(FAMILY)
    supervisor.stop(neighbour.control, now=True)
    end(other)


@pytest.mark.parametrize("detach", [True, False])
def test_a_program_that_does_not_exist_is_named(bed, detach):
    done = bed.call("start", str(bed.control), *["--detach"] * detach, "--", "/nowhere/python")
    assert done.returncode == 1
    assert "there is no program '/nowhere/python'" in done.stderr
    assert not bed.control.exists()


def test_it_runs_as_a_lone_file(bed):
    """Without the package, as it is sent to hosts, by an isolated interpreter."""
    lone = bed.folder / "keeper.py"
    lone.write_bytes(Path(supervisor.__file__).read_bytes())
    words = [sys.executable, "-I", str(lone), "start", str(bed.control), "--detach", "--", sys.executable, "-c", POLITE]
    done = subprocess.run([*words, str(bed.folder)], timeout=20, check=False)
    assert done.returncode == 0
    assert supervisor.stop(bed.control, now=False)


def test_a_full_disk_keeps_nobody_alive(bed):
    """How it ended cannot be written; it ends all the same, and is not taken for running."""
    with tmpfs(bed.control, "size=64k"):
        process = bed.start()
        with contextlib.suppress(OSError), (bed.control / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))
        process.send_signal(signal.SIGQUIT)
        assert end(process) == 137
        assert bed.alive() == []
        assert bed.state()["status"] == "running"
        state = supervisor.read_state(bed.control)
        assert state is not None
        assert (state["status"], state["exit_code"]) == ("ended", None)
