"""Examine the hosts of a run before its first job."""

from __future__ import annotations

import tempfile
from pathlib import Path

from paceline.cluster import Cluster
from paceline.errors import PacelineError
from paceline.launch.doctor import examine
from paceline.plan.jobs import Watcher
from paceline.study import Study


def examine_hosts(cluster: Cluster, study: Study, run_dir: Path, watcher: Watcher) -> None:
    """Examine the hosts that a study uses, where they are reached by ssh; ``doctor.json`` keeps what was found.

    All-reduces are left to the ranks, which are about to be started. What only warns is remarked.
    Raises: PacelineError if something would stop or spoil the run.
    """
    if cluster.kind != "ssh":
        return
    num_hosts = max(scale.num_hosts for scale in study.scales)
    with tempfile.TemporaryDirectory(prefix="paceline-") as sockets:
        found = examine(cluster, control_dir=Path(sockets), num_hosts=num_hosts, sweep=False)
    found.write(run_dir)
    for symptom in found.findings:
        if symptom.word == "warn":
            watcher.remarked(f"{symptom.check}: {symptom.evidence}")
    if found.failed:
        failed = "\n".join(f"  {symptom.check}: {symptom.evidence}" for symptom in found.failed)
        raise PacelineError(f"no trial was run, for the hosts are not fit:\n{failed}\n--no-check runs it all the same")
