"""Slurm on the bed: jobs run, stand side by side, and are cancelled."""

from __future__ import annotations

from pathlib import Path

from testbed.bed import wait_until
from testbed.slurm import Slurm


def _wait_for(slurm: Slurm, job: str, state: str, *, deadline_s: float = 20.0) -> None:
    wait_until(lambda: slurm.state(job) == state, f"job {job} to be {state}", deadline_s=deadline_s)


def _output(slurm: Slurm, name: str, job: str) -> str:
    """What a job has written so far."""
    path = Path(f"{slurm.folder}/{name}-{job}.out")
    return path.read_text(encoding="utf-8") if path.exists() else ""


def test_a_job_runs_on_four_nodes_and_its_output_is_on_the_shared_folder(slurm: Slurm) -> None:
    job = slurm.submit("four", "srun hostname", "--nodes=4")
    _wait_for(slurm, job, "COMPLETED")
    assert sorted(_output(slurm, "four", job).split()) == ["node1", "node2", "node3", "node4"]


def test_two_jobs_run_side_by_side_on_disjoint_nodes(slurm: Slurm) -> None:
    first, second = (slurm.submit(name, "srun hostname; sleep 99", "--nodes=2") for name in ("left", "right"))
    for job in (first, second):
        _wait_for(slurm, job, "RUNNING")
    wait_until(
        lambda: len({*_output(slurm, "left", first).split(), *_output(slurm, "right", second).split()}) == 4,
        "four host names",
    )


def test_a_cancelled_job_leaves_no_process(slurm: Slurm) -> None:
    job = slurm.submit("endless", "srun sleep 4325", "--nodes=2")
    nodes = slurm.bed.nodes[:2]
    wait_until(lambda: all(slurm.bed.processes(node, "sleep 4325") for node in nodes), "the job's processes")
    slurm.run("scancel", job)
    _wait_for(slurm, job, "CANCELLED")
    wait_until(lambda: not any(slurm.bed.processes(node, "4325") for node in nodes), "the end of its processes")
