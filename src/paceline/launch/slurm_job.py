"""What runs in a job of Slurm: ``python -m paceline.launch.slurm_job batch JOB`` on its first node, and there
and on the others ``node JOB HOST...``.

``batch`` starts the nodes' part by one ``srun``, has the ranks leave before the time limit (SIGUSR2), and puts the job
back in the queue after that. ``node`` is an agent under a supervisor, which ends it and all that it started when Slurm
asks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from paceline.job import Job, checks_path
from paceline.launch import supervisor
from paceline.launch.local import ALLOCATOR, GRACE_S, thread_settings
from paceline.launch.probe_host import route
from paceline.records import exit_of

FIRST_PORT, NUM_PORTS = 10_000, 20_000  # below those that systems give to clients
NOT_SEEN = "{host} does not see {path}: the folder of --runs must be on a file system that all nodes share\n"


def batch(path: Path) -> int:
    """Run the job; returns the exit code of srun, 0 where the job goes back to the queue."""
    if not path.exists():
        sys.stderr.write(NOT_SEEN.format(host=_node_name(), path=path))
        return 1
    job = Job.read(path)
    job.leave_path.unlink(missing_ok=True)  # of an earlier start of this job
    before = _reached(job)
    hosts = _say("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()
    signal.signal(signal.SIGUSR2, lambda *_: job.leave_path.touch())
    code = subprocess.call(
        [
            *("srun", "--ntasks-per-node=1", "--kill-on-bad-exit=1", "--cpu-bind=none", "--input=none"),
            *(sys.executable, "-m", "paceline.launch.slurm_job", "node", str(path), *hosts),
        ]
    )
    was_asked = job.leave_path.exists()
    job.leave_path.unlink(missing_ok=True)
    if not job.open_trials() or not (was_asked or (code and (_is_preempted() or _is_missed(hosts)))):
        return code
    if was_asked and _reached(job) == before:
        sys.stderr.write("no checkpoint, nor the end of a trial, before the job had to leave: raise time_limit_s\n")
        return 1
    return _requeue()


def node(path: Path, hosts: list[str]) -> int:
    """Run this node's agent; returns its exit code."""
    if not path.exists():
        sys.stderr.write(NOT_SEEN.format(host=_node_name(), path=path))
        return 1
    job, number = Job.read(path), int(os.environ["SLURM_NODEID"])
    job_id, restarts = int(os.environ["SLURM_JOB_ID"]), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    port = FIRST_PORT + (job_id * 16 + restarts) % NUM_PORTS  # a fresh one for every start
    peer = hosts[0] if number else next(iter(hosts[1:]), None)
    address = route(peer, "auto", "auto")["address"]
    logs = job.logs / _node_name()
    os.environ.update(ALLOCATOR | os.environ | thread_settings(job))
    command = [
        *(sys.executable, "-m", "paceline.train.agent", str(path), "--node", str(number), "--logs", str(logs)),
        *("--endpoint", f"{hosts[0]}:{port}", "--run-id", f"{job_id}-{restarts}", "--local-addr", address),
    ]
    reads, _kept = os.pipe()  # an input that never ends: Slurm tells when to, not whoever holds the other end
    os.dup2(reads, 0)
    with tempfile.TemporaryDirectory(prefix="paceline-") as folder:  # of this node: not all shared ones have locks
        words = ["start", folder, "--grace", str(GRACE_S), "--log", str(logs / "agent.log")]
        return supervisor.main([*words, "--", *command])


def _reached(job: Job) -> set[str]:
    """What a job has to show that an earlier start had not: checks, checkpoints, ends of trials."""
    folders = [job.folder / name for name in job.trials]
    found = {str(path) for folder in folders for path in folder.glob("checkpoints/*.pt")}
    found |= {str(folder) for folder in folders if exit_of(folder) is not None}
    return found | {str(path) for path in [checks_path(job.folder)] if path.exists()}


def _is_preempted() -> bool:
    """Whether others are given the nodes, for which Slurm has asked the agents to end; a job that has ended is lost."""
    return _this_job("PreemptTime") != "N/A"


def _is_missed(hosts: list[str]) -> bool:
    """Whether a node does not answer Slurm; it takes minutes until that puts the job back by itself."""
    states = _say("sinfo", "--noheader", "--Node", f"--nodes={','.join(hosts)}", "--format=%T").split()
    return any(state.endswith("*") or state.startswith("down") for state in states)


def _requeue() -> int:
    """Put this job back in the queue, unless it was cancelled, which that would undo; returns the exit code."""
    if _this_job("State") != "RUNNING":
        return 1
    sys.stderr.write("back in the queue, to go on from the last checkpoint\n")
    return subprocess.call(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]])


def _this_job(field: str) -> str:
    return _say("squeue", "--noheader", f"--jobs={os.environ['SLURM_JOB_ID']}", f"--Format={field}")


def _say(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def _node_name() -> str:
    return os.environ["SLURMD_NODENAME"]


def main() -> int:
    """Do what the command line says; returns the exit code."""
    part, path, *hosts = sys.argv[1:]
    return batch(Path(path)) if part == "batch" else node(Path(path), hosts)


if __name__ == "__main__":
    sys.exit(main())
