"""What can be known of Slurm's nodes without a job."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from paceline.cluster import Cluster
from paceline.errors import PacelineError, nearest
from paceline.launch.doctor_checks import Symptom, Trouble, conclude, not_applicable
from paceline.launch.slurm import options_of
from paceline.launch.slurm_nodes import COMMANDS, Partition, partition_nodes

NO_LOOK = "nodes are looked at by the job itself; --runs, and this environment, must be in folders that they share"


def examine_slurm(cluster: Cluster) -> list[Symptom]:
    """Commands, partition, nodes, time limit, and whether Slurm would take such a job."""
    lacking = ", ".join(command for command in COMMANDS if shutil.which(command) is None)
    told = Trouble(f"there is no {lacking} here: run paceline where jobs of Slurm can be submitted")
    found = [conclude("commands of Slurm", [told] if lacking else [], ", ".join(COMMANDS))]
    if lacking:
        return found
    try:
        partition = partition_nodes(cluster)
    except PacelineError as error:
        return [*found, conclude("partition", [Trouble(f"{error}: is its controller up?")], "")]
    if not partition.nodes:
        said = f"there is no '{partition.name}': {nearest(partition.name, partition.partitions)}"
        return [*found, conclude("partition", [Trouble(said)], "")]
    found.append(conclude("partition", [], f"{partition.name}, {len(partition.nodes)} nodes"))
    too_long = partition.why_too_long(cluster.time_limit_s)
    found.append(conclude("time limit", [Trouble(too_long)] if too_long else [], f"{partition.max_time_s:g} s at most"))
    found += [_nodes(partition), _cores(partition), _trial(cluster)]
    return [*found, not_applicable("shared folders", NO_LOOK)]


def _nodes(partition: Partition) -> Symptom:
    down = [node for node in partition.nodes if not node.is_up]
    said = ", ".join(f"{node.name} is {node.state}" for node in down)
    is_serious = len(down) == len(partition.nodes)
    troubles = [Trouble(f"{said}: jobs wait for the others", is_serious)] if down else []
    return conclude("nodes", troubles, f"all {len(partition.nodes)} are up")


def _cores(partition: Partition) -> Symptom:
    counts: Sequence[int] = sorted({node.num_cores for node in partition.nodes})
    said = f"nodes have {' or '.join(map(str, counts))} cores"
    troubles = [Trouble(f"{said}: ask for like ones, such as options = ['--constraint=NAME']", False)]
    return conclude("cores", troubles if len(counts) > 1 else [], said)


def _trial(cluster: Cluster) -> Symptom:
    """Whether Slurm would take a job of one node with these settings; nothing is submitted."""
    asked = ["sbatch", "--test-only", *options_of(cluster, num_hosts=1)]
    done = subprocess.run(asked, input="#!/bin/sh\n", capture_output=True, text=True, check=False)
    said = done.stderr.strip().splitlines()[-1:] or ["sbatch said nothing"]
    troubles = [Trouble(f"Slurm would refuse it, {said[0]}: correct partition, time_limit_s or options")]
    return conclude("a job of these settings", troubles if done.returncode else [], said[0].removeprefix("sbatch: "))
