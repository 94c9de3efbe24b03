"""Ranks on nodes that Slurm gives: a batch job, whose one ``srun`` starts an agent on each node.

The run folder, and the environment of this process, are seen by the nodes at the same paths. What runs in the job is
``slurm_job``. A foreground job is submitted, and cancelled when this process dies, by a keeper; a detached one is
Slurm's alone.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE

from paceline.cluster import Cluster
from paceline.errors import PacelineError, UsageError, nearest
from paceline.inert import inert
from paceline.job import Job
from paceline.launch.local import CONTROL
from paceline.launch.remote import UnreachableError
from paceline.launch.slurm_nodes import COMMANDS, SlurmNode, partition_nodes
from paceline.records import read_json, write_atomically, write_json
from paceline.study_tables import Scale

POLL_S = 1.0  # between questions to the controller, which all users share
ANSWER_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 90.0  # for a cancelled job: Slurm's KillWait, and an epilog
LEAVE_S = 120  # before the time limit: for the running update, a checkpoint, and Slurm's own minute
NUM_LINES = 15  # of the job's output that are shown
OVER = {
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"),
    *("OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "REVOKED", "FORGOTTEN"),
}
# Submits, tells the job's number, and cancels it when the input ends without a word: whoever started this has died.
_KEEPER = """
trap "" PIPE
job=$(sbatch --parsable "$1") || exit
job=${job%%;*}
echo "$job"
read -r over && exit
scancel "$job"
while [ -n "$(squeue --noheader --jobs="$job")" ]; do sleep 1; scancel "$job"; done
"""


class SlurmLauncher:
    """Runs a job as a batch job of Slurm, which may put it back in the queue and start it again."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._nodes: list[SlurmNode] = []
        self._keeper: subprocess.Popen[bytes] | None = None
        self._id = ""
        self._state, self._reason, self._is_deaf, self._due_s = "", "", False, 0.0

    @property
    def num_cores(self) -> int:
        """See ``Launcher``: of the node with the fewest, or as many as ``--cpus-per-task`` asks for."""
        asked = [option.partition("=")[2] for option in self._cluster.options if option.startswith("--cpus-per-task=")]
        fewest = min(node.num_cores for node in self._nodes)
        return min(int(asked[-1]), fewest) if asked else fewest

    def check(self, scales: tuple[Scale, ...]) -> list[str]:
        """See ``Launcher``: asks Slurm for the nodes of the partition."""
        if lacking := [command for command in COMMANDS if shutil.which(command) is None]:
            raise UsageError(f"there is no {', '.join(lacking)} here; run this where jobs of Slurm can be submitted")
        found = partition_nodes(self._cluster)
        self._nodes = found.nodes
        wanted = found.name
        if not found.nodes:
            raise UsageError(f"Slurm has no partition '{wanted}': {nearest(wanted, found.partitions)}")
        num_hosts = max(scale.num_hosts for scale in scales)
        if num_hosts > len(found.nodes):
            raise UsageError(f"a scale needs {num_hosts} hosts, and partition {wanted} has {len(found.nodes)} nodes")
        if too_long := found.why_too_long(self._cluster.time_limit_s):
            raise UsageError(too_long)
        most = max(scale.ranks_per_host for scale in scales)
        share = f"{most} ranks share {self.num_cores} cores of a node: their times measure contention"
        return [share] if most > self.num_cores else []

    def start(self, job: Job, *, detached: bool = False) -> None:
        """See ``Launcher``; what is left in the queue of an earlier job of this group is cancelled first.

        Raises: PacelineError if Slurm refuses the job; UsageError if it cannot name the run folder.
        """
        for left in _kept(job).values():
            self._id, self._state = left, "PENDING"
            self._cancel()
        script, output = _control(job) / "job.sbatch", _output(job)
        script.parent.mkdir(parents=True, exist_ok=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.unlink(missing_ok=True)
        write_atomically(script, script_of(self._cluster, job).encode())
        self._id, self._state, self._reason, self._due_s = "", "PENDING", "", time.monotonic() + POLL_S
        self._id = self._submit(script) if detached else self._submit_and_keep(script)
        write_json(_kept_path(job), {job.id: self._id})

    def runs(self, job: Job) -> bool:
        """See ``Launcher``: asks Slurm for the job whose number was kept."""
        job_id = _kept(job).get(job.id)
        return job_id is not None and _ask(job_id)[0] not in OVER

    def adopt(self, job: Job) -> bool:
        """See ``Launcher``."""
        if not self.runs(job):
            return False
        self._id, self._state, self._reason = _kept(job)[job.id], "PENDING", ""
        return True

    def poll(self) -> int | None:
        """See ``Launcher``: as Slurm says."""
        if self._state not in OVER and time.monotonic() >= self._due_s:
            self._look()
            self._due_s = time.monotonic() + POLL_S
        return None if self._state not in OVER else int(self._state != "COMPLETED")

    def stop(self) -> None:
        """See ``Launcher``: cancels the job, again where it was just going back to the queue, and sees it gone."""
        if self._id:
            self._cancel()
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.communicate(b"over\n" if self._state in OVER else b"")
        self._id = ""

    def last_words(self, job: Job) -> str:
        """See ``Launcher``."""
        path = _output(job)
        job_id = _kept(job).get(job.id, "of no number")
        if not path.exists():
            return (
                f"Slurm job {job_id} is {self._state} and has written nothing to {path}; --runs must name a folder "
                "that the nodes share with this host"
            )
        lines = path.read_text(errors="replace").splitlines()[-NUM_LINES:]
        said = "\n".join(lines) or "nothing"
        return f"Slurm job {job_id} is {self._state}; see {path.parent}; it said last:\n{said}"

    def _cancel(self) -> None:
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while self._state not in OVER and self._look() not in OVER:
            if time.monotonic() > deadline:
                raise PacelineError(f"Slurm job {self._id} was cancelled and does not end; see `squeue -j {self._id}`")
            if self._state != "COMPLETING":
                _call(["scancel", self._id])
            time.sleep(POLL_S / 4)

    def _submit(self, script: Path) -> str:
        done = subprocess.run(
            ["sbatch", "--parsable", str(script)], stdin=DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise _refused(script, done.stderr)
        return done.stdout.strip().partition(";")[0]

    def _submit_and_keep(self, script: Path) -> str:
        self._keeper = subprocess.Popen(
            ["sh", "-c", _KEEPER, "keeper", str(script)], stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
        assert self._keeper.stdout is not None
        if job_id := self._keeper.stdout.readline().decode().strip():
            return job_id
        keeper, self._keeper = self._keeper, None
        raise _refused(script, keeper.communicate()[1].decode(errors="replace"))

    def _look(self) -> str:
        """The job's state as Slurm says, the last one that it told where it does not answer."""
        try:
            self._state, reason = _ask(self._id)
        except UnreachableError as error:
            if not self._is_deaf:
                sys.stderr.write(inert(f"{error}; asked again until it does\n"))
            self._is_deaf = True
            return self._state
        self._is_deaf = False
        if self._state == "PENDING" and reason not in ("", "None", self._reason):
            sys.stderr.write(inert(f"Slurm job {self._id} waits: {reason}\n"))
            self._reason = reason
        return self._state


def script_of(cluster: Cluster, job: Job) -> str:
    """The batch script of a job.

    Raises: UsageError if the run folder's name holds what Slurm cannot read.
    """
    if not str(job.folder).isprintable() or "\\" in str(job.folder):
        raise UsageError(f"Slurm cannot write to {str(job.folder)!r}: choose --runs without backslash or line break")
    python = sys.executable if cluster.python == "auto" else cluster.python
    own = [
        f"--job-name=paceline-{job.folder.name}{'-' * bool(job.group)}{job.group}",
        f"--chdir={job.folder}",
        f"--output={str(_output(job)).replace('%', '%%')}",
        "--open-mode=append",
        "--requeue",
        *options_of(cluster, num_hosts=job.num_hosts),
    ]
    command = shlex.join([python, "-m", "paceline.launch.slurm_job", "batch", str(job.path)])
    head = ["#!/bin/sh", "# One agent a node, by srun; back in the queue, with a checkpoint, before the time limit."]
    return "\n".join([*head, *(f"#SBATCH {shlex.quote(option)}" for option in own), f"exec {command}\n"])


def options_of(cluster: Cluster, *, num_hosts: int) -> list[str]:
    """What sbatch is told of the nodes wanted."""
    limit = cluster.time_limit_s
    leave_s = LEAVE_S if limit is None else min(LEAVE_S, int(limit / 4))
    options = [f"--nodes={num_hosts}", "--ntasks-per-node=1", "--exclusive", f"--signal=B:USR2@{leave_s}"]
    options += [f"--partition={cluster.partition}"] if cluster.partition else []
    options += [f"--time={int(limit // 60)}:{int(limit % 60):02d}"] if limit else []
    return [*options, *cluster.options]


def _ask(job_id: str) -> tuple[str, str]:
    """State of a job, and why it waits.

    Raises: UnreachableError if Slurm does not answer.
    """
    code, said, error = _call(["squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format=%T|%r"])
    if code and "Invalid job id" not in error:
        raise UnreachableError("Slurm", f"does not answer, {error.strip()}")
    state, _, reason = (said.strip() or "FORGOTTEN").partition("|")
    return state, reason


def _call(command: list[str]) -> tuple[int, str, str]:
    """Exit code, output and error output of a command of Slurm; 1 if it does not answer."""
    try:
        done = subprocess.run(
            command, stdin=DEVNULL, capture_output=True, text=True, check=False, timeout=ANSWER_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return 1, "", f"no answer within {ANSWER_TIMEOUT_S:g} s from {command[0]}"
    return done.returncode, done.stdout, done.stderr


def _refused(script: Path, said: str) -> PacelineError:
    return PacelineError(f"Slurm refuses the job, see {script}: {said.strip() or 'sbatch said nothing'}")


def _control(job: Job) -> Path:
    return job.folder / CONTROL / "slurm" / job.group


def _kept_path(job: Job) -> Path:
    return _control(job) / "job-id.json"


def _kept(job: Job) -> dict[str, str]:
    """The number that Slurm gave to the last job of this group, by the job's own id."""
    path = _kept_path(job)
    return dict(read_json(path)) if path.exists() else {}


def _output(job: Job) -> Path:
    return job.logs / "slurm.log"
