"""Slurm over a bed: munge on every host, the controller on the control host, a daemon on each node; no accounting.

A host that loses power is noticed after ``SlurmdTimeout``; its jobs are requeued then and run once more when their old
credentials have expired. Jobs of the partition ``urgent`` take the nodes of those in ``main``, which go back to the
queue after a few seconds' grace.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from testbed.bed import CONTROL, Bed, wait_until

COMMANDS = {"slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm", "munged": "munge"}


class Slurm:
    """The daemons, as a context manager; they end with their hosts."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.folder = bed.shared / "slurm"
        self.settings = self.folder / "slurm.conf"
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Slurm:
        self._write_files()
        for host in self.bed.hosts:
            self.start_daemons(host)
        self.wait_until_idle()
        return self

    def __exit__(self, *_: object) -> None:
        self.bed.spoilt.update(self.bed.hosts)
        self.bed.restore()
        for process in self._daemons:
            process.wait(10)
        shutil.rmtree(self.folder)

    def start_daemons(self, host: str) -> None:
        """Start what a host needs; also after its power was off."""
        own = self.folder / host
        munged = [
            "munged",
            "--foreground",
            "--force",
            f"--key-file={self.folder / 'key'}",
            "--socket=/run/munge.socket",
        ]
        munged += [f"--{name}-file={own / name}" for name in ("pid", "log", "seed")]
        slurm = ["slurmctld"] if host == CONTROL else ["slurmd", "-N", host]
        self._start(host, munged)
        socket = Path(f"/proc/{self.bed.first(host)}/root/run/munge.socket")
        wait_until(socket.exists, f"the munged of {host}: see {own}/munged.out")
        self._start(host, [*slurm, "-D", "-f", self.settings])

    def run(self, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command of Slurm on the control host."""
        return self.bed.run_on_ctl(arguments, env=self.environment(), **options)

    def submit(self, name: str, body: str, *options: str) -> str:
        """Submit a batch script with this body; returns the job's number."""
        script = self.folder / f"{name}.sh"
        script.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        output = f"--output={self.folder}/{name}-%j.out"
        submitted = self.run("sbatch", "--parsable", f"--job-name={name}", output, *options, script)
        assert submitted.returncode == 0, submitted.stderr
        return submitted.stdout.strip()

    def environment(self) -> dict[str, str]:
        """What Slurm's commands need to be told."""
        return {**os.environ, "SLURM_CONF": str(self.settings)}

    def state(self, job: str) -> str:
        """Of a job, as squeue says it."""
        show = ("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")
        return self.run(*show).stdout.strip()

    def wait_until_idle(self) -> None:
        """Wait until every node can take a job."""
        show = ("sinfo", "--noheader", "--Node", "--format=%T")
        wait_until(lambda: set(self.run(*show).stdout.split()) == {"idle"}, f"idle nodes: see {self.folder}/*/*.out")

    def _start(self, host: str, command: Sequence[str | Path]) -> None:
        with (self.folder / host / f"{command[0]}.out").open("ab") as output:
            daemon = self.bed.start(host, command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self._daemons.append(daemon)

    def _write_files(self) -> None:
        for host in self.bed.hosts:
            (self.folder / host).mkdir(parents=True)
        key = self.folder / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        nodes = ",".join(self.bed.nodes)
        self.settings.write_text(
            f"""
ClusterName=testbed
SlurmctldHost={CONTROL}
AuthType=auth/munge
AuthInfo=socket=/run/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={self.folder}/{CONTROL}
SlurmdSpoolDir={self.folder}/%n/spool
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=6
MessageTimeout=5
TCPTimeout=1
KillWait=5
NodeName={nodes} CPUs=2 RealMemory=2000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE GraceTime=8 PriorityTier=1 State=UP
PartitionName=urgent Nodes=ALL MaxTime=60 PriorityTier=2 PreemptMode=OFF State=UP
""",
            encoding="utf-8",
        )
