"""Keeps one command and all that it starts: ``python -m paceline.launch.supervisor start|stop|state|wait FOLDER``.

``start FOLDER -- COMMAND...`` runs a command until it ends, standard input closes or ``stop`` asks, and then leaves
nothing of it, whatever it started. With ``--silence S`` it is also ended where nothing came through standard input for
so long. With ``--detach`` it returns once the command runs, which then outlives everything but ``stop``.
``FOLDER/state.json`` says how it goes; ``wait`` prints that at once, and again when it is over.

Two processes keep each other: a guard, and its child, the supervisor, whose child is the command. Each is the reaper of
its descendants, so that whoever loses a parent becomes its child, however hidden before; and so each only ever kills
children of its own, whose process ids nobody else can have. If the supervisor is killed, the guard ends the rest; if
the guard is killed, the supervisor does. What the command itself has detached by this program has keepers of its own,
and is let go. Only the standard library is imported: this file is sent to hosts as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

GRACE_S = 5.0  # from asking to end until ending by force
EOF_GRACE_S = 1.0  # the same, when whoever started it is gone
PATIENCE_S = 5.0  # beyond the grace, until the supervisor itself is ended by force
POLL_S = 0.01
PARENT_VARIABLE = "PACELINE_PARENT_PID"  # as in paceline.job: the command may see that its parent lives
_ASK, _AT_ONCE = (signal.SIGTERM, signal.SIGINT), signal.SIGQUIT
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36
_APART = b"paceline-keeper"  # the name of a detached guard, as ps shows it: others let it go
_OF_STATE = {"pid", "start", "host", "status", "exit_code"}
_DAMAGED = "{path} does not say what runs there ({why}); remove it, once nothing of the run is alive any more"
_IS_LINUX = sys.platform == "linux"


class SupervisorError(Exception):
    """What cannot be done, and what to do about it."""


def start(
    folder: Path, command: Sequence[str], *, detach: bool, log: Path | None, grace_s: float, silence_s: float
) -> int:
    """Run a command; returns its exit code (128 + N if signal N ended it), or 0 at once where it is detached.

    Args:
        log: where its output is appended; ``FOLDER/output.log`` where detached, else the output of this process.
        silence_s: how long nothing may come through standard input, infinite where it is detached.
    Raises: SupervisorError if it cannot be started, or something runs in ``folder`` already.
    """
    if detach and not _IS_LINUX:
        raise SupervisorError("detached runs need Linux; run it in the foreground here, or start it on a Linux host")
    if shutil.which(command[0]) is None:
        raise SupervisorError(f"there is no program {command[0]!r} here; give the path of one")
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder, PATIENCE_S)  # what a killed process left there may still be ending
    if lock is None:
        raise SupervisorError(f"something runs in {folder} already; stop that first, or use another folder")
    if not detach:
        return _guarded(folder, command, told=None, log=log, grace_s=grace_s, silence_s=silence_s)
    hears, told = os.pipe()
    log = log or folder / "output.log"
    if os.fork() == 0:
        os.setsid()
        guard = partial(_guarded, folder, command, told=told, log=log, grace_s=grace_s, silence_s=silence_s)
        _exit_with(lambda: 0 if os.fork() else guard())
    os.close(told)
    os.close(lock)
    if not os.read(hears, 1):
        raise SupervisorError(f"the supervisor of {folder} could not start; see {log}")
    return 0


def stop(folder: Path, *, now: bool) -> bool:
    """End what runs in a folder and wait until nothing is left of it; returns whether anything ran.

    Raises: SupervisorError if it runs on another host, or does not end.
    """
    state = read_state(folder)
    if state is None or (state["status"] != "running" and state["host"] != platform.node()):
        return False
    ran = signal_process(state, _AT_ONCE if now else signal.SIGTERM)
    if not _is_free(folder, (0 if now else state["grace_s"]) + PATIENCE_S):
        signal_process(state, signal.SIGKILL)  # the guard ends the rest
        if not _is_free(folder, PATIENCE_S):
            raise SupervisorError(f"what runs in {folder} does not end, process {state['pid']}; is its disk gone?")
    return ran


def wait(folder: Path) -> bool:
    """Sleep until nothing runs in a folder; False if standard input closed before that."""
    try:
        handle = os.open(folder / "lock", os.O_RDWR)
    except FileNotFoundError:  # nothing ever ran there
        return True
    over, tells = os.pipe()

    def sleep() -> None:
        fcntl.flock(handle, fcntl.LOCK_SH)
        os.write(tells, b"1")

    threading.Thread(target=sleep, daemon=True).start()
    while True:
        ready, _, _ = select.select([over, 0], [], [])
        if over in ready:
            os.close(handle)
            return True
        if not os.read(0, 4096):
            return False


def read_state(folder: Path) -> dict[str, Any] | None:
    """What ``state.json`` says; None where nothing was started.

    pid, start and host are the supervisor's. status: running, ended or stopped. exit_code: None while it runs, and
    where nobody saw it end. since, time: when it began and when this was written, in seconds since 1970.
    Raises: SupervisorError if it is damaged, as a disk or a crash of the host may leave it.
    """
    path = folder / "state.json"
    try:
        state: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise SupervisorError(_DAMAGED.format(path=path, why=error)) from error
    if not isinstance(state, dict) or not state.keys() >= _OF_STATE:
        raise SupervisorError(_DAMAGED.format(path=path, why="something is missing"))
    if state["status"] == "running":
        is_here = state["host"] == platform.node()
        if not (is_alive(state) if is_here else _is_busy(folder)):
            state["status"] = "ended"
    return state


def keeps(state: dict[str, Any] | None, mark: str) -> bool:
    """Whether a supervisor of this state keeps, or kept last, a command that has ``mark`` among its words."""
    return state is not None and mark in state["command"]


def runs(state: dict[str, Any] | None, mark: str) -> bool:
    """Whether that command runs."""
    return state is not None and state["status"] == "running" and keeps(state, mark)


def identity(pid: int) -> dict[str, Any]:
    """What names a process for good: pid, host, and when it began, since a pid is given again one day."""
    return {"pid": pid, "start": _start_of(pid), "host": platform.node()}


def is_alive(process: dict[str, Any]) -> bool:
    """Whether the process with this identity, on this host, still runs."""
    return process["start"] is not None and process["start"] == _start_of(process["pid"])


def signal_process(process: dict[str, Any], number: signal.Signals) -> bool:
    """Send a signal to the process with this identity and to no other; returns whether it is there.

    Raises: SupervisorError on another host than the process's, and where the system is not Linux.
    """
    if process["host"] != platform.node():
        raise SupervisorError(f"it runs on {process['host']}, and this is {platform.node()}; ask there")
    if sys.platform != "linux":
        raise SupervisorError("stopping what another process started needs Linux; press Ctrl-C where it was started")
    try:
        handle = os.pidfd_open(process["pid"])
    except ProcessLookupError:
        return False
    try:  # what the handle holds cannot be replaced any more
        if not is_alive(process):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def _start_of(pid: int) -> str | None:
    """When a process began, in clock ticks after a boot; None if it does not exist or is dead."""
    if not _IS_LINUX:
        asked = ["ps", "-o", "lstart=", "-p", str(pid)]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or None
    fields = _stat(str(pid))
    if fields is None or fields[0] in "ZX":
        return None
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{fields[19]}"


def _stat(pid: str) -> list[str] | None:
    """The fields of ``/proc/PID/stat`` from the state on, and last the name, which may hold anything."""
    try:
        said = Path("/proc", pid, "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    before, _, fields = said.rpartition(")")
    return [*fields.split(), before.partition("(")[2]]


def _lock(folder: Path, patience_s: float) -> int | None:
    """Lock a folder for this process and those that it forks, not for the command; None if others have it as long."""
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(handle)
                return None
        time.sleep(POLL_S)


def _is_free(folder: Path, patience_s: float) -> bool:
    """Whether nothing runs in a folder any more, at the latest after a while."""
    lock = _lock(folder, patience_s)
    if lock is not None:
        os.close(lock)
    return lock is not None


def _is_busy(folder: Path) -> bool:
    """Whether something runs in a folder, on any host that shares it."""
    try:
        return not _is_free(folder, 0.0)
    except OSError:  # a copy on a disk that cannot be written
        return False


def _guarded(
    folder: Path, command: Sequence[str], *, told: int | None, log: Path | None, grace_s: float, silence_s: float
) -> int:
    """Be the guard: fork the supervisor, pass signals on to it, end what it leaves; returns the exit code."""
    if told is not None:
        _redirect(os.devnull, 0)
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        _redirect(str(log), 1, 2)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    wake = _wake_on(*_ASK, _AT_ONCE, signal.SIGCHLD)
    guard = os.getpid()
    child = os.fork()
    if child == 0:
        _exit_with(lambda: _supervise(folder, command, guard=guard, told=told, grace_s=grace_s, silence_s=silence_s))
    if told is not None:
        _prctl(_PR_SET_NAME, _APART)
        os.close(told)
    code = None
    while code is None:
        numbers = os.read(wake, 512)
        for number in set(numbers) & {*_ASK, _AT_ONCE}:
            os.kill(child, number)
        code = _reap(child)
    _end_children(child)
    state = read_state(folder)
    if state is not None and state["pid"] == child and state["exit_code"] is None:
        _write_end(folder, {**state, "status": "ended", "exit_code": code})
    return code


def _supervise(
    folder: Path, command: Sequence[str], *, guard: int, told: int | None, grace_s: float, silence_s: float
) -> int:
    """Be the supervisor: start the command, end it when asked to, and all that is left; returns the exit code."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    wake = _wake_on(*_ASK, _AT_ONCE, signal.SIGCHLD)
    _end_with(guard, signal.SIGTERM)
    began = {**identity(os.getpid()), "since": time.time(), "grace_s": grace_s, "command": list(command)}
    _write_state(folder, {**began, "status": "running", "exit_code": None})
    supervisor = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, _ASK)  # what asks the child to end must not be lost while it begins
    child = os.fork()
    if child == 0:
        _exit_with(lambda: _become(command, supervisor))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASK)
    if told is not None:
        os.write(told, b"1")
        os.close(told)
    code, was_asked = _wait(child, wake, watches_input=told is None, grace_s=grace_s, silence_s=silence_s)
    _end_children(child)
    if code is None:
        code = 128 + signal.SIGKILL
    _write_end(folder, {**began, "status": "stopped" if was_asked else "ended", "exit_code": code})
    return code


def _wait(child: int, wake: int, *, watches_input: bool, grace_s: float, silence_s: float) -> tuple[int | None, bool]:
    """Wait for the command, and ask it to end when that is due.

    Returns: its exit code, None if it must be killed; whether it was asked to end.
    """
    watched, deadline = [wake, 0] if watches_input else [wake], float("inf")
    silent = time.monotonic() + silence_s  # when whoever started it is taken for gone
    while True:
        due = min(deadline, silent)
        left = None if due == float("inf") else max(0.0, due - time.monotonic())
        ready, _, _ = select.select(watched, [], [], left)
        numbers = os.read(wake, 512) if wake in ready else b""
        if (code := _reap(child)) is not None:
            return code, deadline < float("inf")
        grace = 0.0 if _AT_ONCE in numbers else grace_s if set(numbers) & set(_ASK) else None
        if 0 in ready and os.read(0, 4096):
            silent = time.monotonic() + silence_s
        elif 0 in ready or time.monotonic() >= silent:
            watched, silent = [wake], float("inf")
            grace = min(EOF_GRACE_S, grace_s if grace is None else grace)
        if grace is not None:
            os.kill(child, signal.SIGTERM)
            deadline = min(deadline, time.monotonic() + grace)
        if time.monotonic() >= deadline:
            return None, True


def _become(command: Sequence[str], supervisor: int) -> int:
    """Turn this process into the command, in a session of its own, which dies with the supervisor."""
    _end_with(supervisor, signal.SIGKILL)
    os.setsid()
    _redirect(os.devnull, 0)
    for number in (*_ASK, _AT_ONCE, signal.SIGCHLD, signal.SIGPIPE):  # Python ignores the last, and it would, too
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASK)
    try:
        os.execvpe(command[0], list(command), os.environ | {PARENT_VARIABLE: str(supervisor)})  # noqa: S606
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be run: {error.strerror}\n")
        return 127


def _end_children(command: int) -> None:
    """Kill children until there is none that is not apart: theirs become ours.

    Elsewhere than on Linux: the command's process group.
    """
    if not _IS_LINUX:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(command, signal.SIGKILL)
    while _reap(0) is None:  # until there is no child
        left = _children()
        if _IS_LINUX and not left:  # but those that are apart
            return
        for pid in left:
            with contextlib.suppress(PermissionError):  # one that became another user: it can only be waited for
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)


def _children() -> list[int]:
    """Living and dead children of this process but those apart: none but these can lose its id to another process."""
    me = str(os.getpid())
    pids = (entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()) if _IS_LINUX else ()
    found = [(pid, fields) for pid in pids if (fields := _stat(pid)) is not None and fields[1] == me]
    return [int(pid) for pid, fields in found if fields[0] == "Z" or fields[-1] != _APART.decode()]


def _reap(wanted: int) -> int | None:
    """Bury dead children; the exit code of the wanted one if it is among them, 0 where there is no child at all."""
    code = None
    try:
        while (found := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            if found[0] == wanted:
                exit_code = os.waitstatus_to_exitcode(found[1])
                code = exit_code if exit_code >= 0 else 128 - exit_code
    except ChildProcessError:
        return 0 if code is None else code
    return code


def _end_with(parent: int, number: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent dies; leave if it is dead already."""
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(128 + number)


def _prctl(option: int, value: int | bytes) -> None:
    if _IS_LINUX and ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel refuses prctl")


def _wake_on(*numbers: signal.Signals) -> int:
    """A descriptor from which the numbers of signals that came can be read."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)  # as set_wakeup_fd demands
    signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    return reads


def _redirect(path: str, *descriptors: int) -> None:
    opened = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    for descriptor in descriptors:
        os.dup2(opened, descriptor)
    os.close(opened)


def _write_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace ``state.json``: a reader sees the old one or the new one, never a part."""
    aside = folder / f".state.json.{os.getpid()}"
    try:
        with aside.open("w") as file:
            file.write(json.dumps(state | {"time": time.time()}, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(folder / "state.json")
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def _write_end(folder: Path, state: dict[str, Any]) -> None:
    """Write how it ended; on a full disk the state stays that of a supervisor which is gone."""
    try:
        _write_state(folder, state)
    except OSError as error:
        sys.stderr.write(f"how the command ended cannot be written: {error}\n")


def _exit_with(run: Any) -> NoReturn:  # noqa: ANN401
    """End a forked process with what ``run()`` returns, never by going on in its parent's code."""
    code = 1
    try:
        code = run()
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    finally:
        sys.stderr.flush()
        os._exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m paceline.launch.supervisor", description=__doc__)
    parser.add_argument("action", choices=("start", "stop", "state", "wait"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--detach", action="store_true", help="start: return once the command runs")
    parser.add_argument("--log", type=Path, help="start: append the command's output to this file")
    parser.add_argument("--grace", type=float, default=GRACE_S, help="start: seconds from asking it to end to force")
    parser.add_argument(
        "--silence", type=float, default=float("inf"), help="start: seconds until standard input is dead"
    )
    parser.add_argument("--now", action="store_true", help="stop: by force at once")
    words = list(sys.argv[1:] if arguments is None else arguments)
    cut = words.index("--") if "--" in words else len(words)
    asked, command = parser.parse_args(words[:cut]), words[cut + 1 :]
    if (asked.action == "start") != bool(command):
        parser.error("start takes a command after --, and nothing else does")
    if asked.detach and asked.silence < float("inf"):
        parser.error("what is detached has no input: leave --silence or --detach out")
    folder = asked.folder.absolute()
    try:
        if asked.action == "start":
            grace_s, silence_s = asked.grace, asked.silence
            return start(folder, command, detach=asked.detach, log=asked.log, grace_s=grace_s, silence_s=silence_s)
        if asked.action == "stop":
            sys.stdout.write("stopped\n" if stop(folder, now=asked.now) else "nothing ran\n")
            return 0
        sys.stdout.write(json.dumps(read_state(folder)) + "\n")
        sys.stdout.flush()
        if asked.action == "wait" and wait(folder):
            sys.stdout.write(json.dumps(read_state(folder)) + "\n")
    except (SupervisorError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
