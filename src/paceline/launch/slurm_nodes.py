"""What Slurm says of a partition's nodes."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from paceline.cluster import Cluster
from paceline.errors import PacelineError

COMMANDS = ("sbatch", "squeue", "scancel", "sinfo", "scontrol", "srun")


@dataclass(frozen=True, kw_only=True)
class SlurmNode:
    """A node: its cores, as Slurm counts them, and its state, such as ``idle`` or ``down*``."""

    name: str
    num_cores: int
    state: str

    @property
    def is_up(self) -> bool:
        """Whether it takes jobs, now or after those that it has."""
        return self.state in ("idle", "mixed", "allocated", "completing", "planned", "reserved")


@dataclass(frozen=True, kw_only=True)
class Partition:
    """The partition that a cluster file names, or the default one; ``partitions`` are all that there are."""

    name: str
    nodes: list[SlurmNode]
    max_time_s: float
    partitions: list[str]

    def why_too_long(self, time_limit_s: float | None) -> str:
        """Why a job must not take so long here; empty if it may."""
        if time_limit_s is None or time_limit_s <= self.max_time_s:
            return ""
        return f"time_limit_s is {time_limit_s:g}, and partition {self.name} allows {self.max_time_s:g}; lower it"


def partition_nodes(cluster: Cluster) -> Partition:
    """Ask Slurm for the nodes of a partition, or of several, as in ``partition = "one,two"``; none if it is unknown.

    Raises: PacelineError if Slurm does not answer.
    """
    asked = ["sinfo", "--noheader", "--Node", "--format=%P|%l|%c|%T|%N"]
    done = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PacelineError(f"Slurm does not answer: {done.stderr.strip()}")
    rows = [line.split("|") for line in done.stdout.splitlines()]
    default = next((row[0].rstrip("*") for row in rows if row[0].endswith("*")), "")
    name = cluster.partition or default
    own = [row for row in rows if row[0].rstrip("*") in name.split(",")]
    nodes = {node: SlurmNode(name=node, num_cores=int(cores), state=state) for _, _, cores, state, node in own}
    return Partition(
        name=name,
        nodes=list(nodes.values()),
        max_time_s=min((_seconds(row[1]) for row in own), default=float("inf")),
        partitions=sorted({row[0].rstrip("*") for row in rows}),
    )


def _seconds(limit: str) -> float:
    """Of a time as Slurm writes it: infinite, or [days-][[hours:]minutes:]seconds."""
    if not limit[:1].isdigit():
        return float("inf")
    days, _, clock = limit.rpartition("-")
    seconds = 0
    for part in clock.split(":"):
        seconds = 60 * seconds + int(part)
    return 86400.0 * int(days or 0) + seconds
