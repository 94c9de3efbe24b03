"""Groups of hosts share a study side by side, and two studies share the hosts without touching each other."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from paceline.analysis.load import Run, TrialResult, load
from paceline.job import RANKS_FILE
from paceline.records import read_json
from testbed.bed import CONTROL, Bed, wait_until

PACELINE = Path(sys.executable).with_name("paceline")
STUDY = """
name = "{name}"
seeds = {seeds}
aa_pair = false
scales = ["2x1"]
max_epochs = {max_epochs}
threads_per_rank = 1
device = "cpu"
batch = {{ rule = "global", global_batch_size = 500 }}

[workloads.digits]
name = "logreg-mnist"
dataset = "mnist-small"

[optimizers.adam]
[optimizers.sgd]
lr = 0.05
"""
KEPT = ".paceline/runs"  # what agents, supervisors and ranks name in their command lines

pytestmark = pytest.mark.timeout(240)


def start(bed: Bed, folder: Path, name: str, cluster: str, *options: str, seeds: str, max_epochs: int):
    """Begin a study on a cluster, from the control host."""
    (folder / f"{name}.toml").write_text(STUDY.format(name=name, seeds=seeds, max_epochs=max_epochs))
    (folder / f"{name}-cluster.toml").write_text(cluster)
    words = [PACELINE, "run", f"{name}.toml", "--no-check", "--cluster", f"{name}-cluster.toml", *options]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return bed.start(CONTROL, words, cwd=folder, **pipes)


def times(results: list[TrialResult]) -> tuple[float, float]:
    """From the first to the last record of some trials, in s since 1970."""
    return min(start.time for one in results for start in one.starts), max(one.last_record_time for one in results)


def of_seeds(run: Run, *seeds: int) -> list[TrialResult]:
    return [result for result in run.results if result.trial.seed in seeds]


def test_two_groups_run_a_study_side_by_side(hosts: Bed, tmp_path: Path) -> None:
    """Each seed on one group, both groups at once; the report has their speeds, and logs know their ranks."""
    members = [("node1", "east"), ("node2", "east"), ("node3", "west"), ("node4", "west")]
    tables = ", ".join(f'{{ name = "{host}", group = "{group}" }}' for host, group in members)
    cluster = f'[cluster]\nkind = "ssh"\nhosts = [{tables}]\n'
    process = start(hosts, tmp_path, "sides", cluster, "--json", seeds="[0, 1, 2, 3]", max_epochs=40)
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    run = load(tmp_path / "runs" / "sides")
    assert {result.status for result in run.results} == {"completed"}
    for result in run.results:
        pair = ["node3", "node4"] if result.trial.seed % 2 else ["node1", "node2"]
        assert [start.host for start in result.starts] == pair
    (east_began, east_ended), (west_began, west_ended) = times(of_seeds(run, 0, 2)), times(of_seeds(run, 1, 3))
    assert min(east_ended, west_ended) - max(east_began, west_began) > 0, "one after the other"
    for own in (of_seeds(run, 0, 2), of_seeds(run, 1, 3)):
        spans = sorted(times([result]) for result in own)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))

    found = json.loads(out)["groups"]
    assert [(one["name"], one["hosts"], one["seeds"]) for one in found["groups"]] == [
        ("node1", ["node1", "node2"], [0, 2]),
        ("node3", ["node3", "node4"], [1, 3]),
    ]
    assert found["num_cells"] == 2
    assert all(one["speed"]["low"] < one["speed"]["value"] < one["speed"]["high"] for one in found["groups"])
    assert "Speed is that of updates beside the middle group" in (run.folder / "report.html").read_text("utf-8")

    for number, (host, group) in enumerate(members):
        assert read_json(run.folder / "logs" / group / host / RANKS_FILE) == [number % 2]
    assert hosts.run_on_ctl([PACELINE, "logs", run.folder, "--rank", "1"]).returncode == 0
    asked = hosts.run_on_ctl([PACELINE, "logs", run.folder, "--rank", "2"])
    assert (asked.returncode, "its ranks are 0 to 1" in asked.stderr) == (2, True)


def test_two_studies_at_once_on_different_hosts_do_not_touch_each_other(hosts: Bed, tmp_path: Path) -> None:
    """From one folder. Each has processes on its own hosts only, and both come to their end."""
    places = {"first": ("node1", "node2"), "second": ("node3", "node4")}
    processes = {
        name: start(hosts, tmp_path, name, f"[cluster]\nhosts = {json.dumps(own)}\n", seeds="[0]", max_epochs=20)
        for name, own in places.items()
    }

    def where(name: str) -> set[str]:
        return {host for host in hosts.nodes if hosts.processes(host, f"{KEPT}/{name}-")}

    def both_train() -> bool:
        gone = [process.communicate() for process in processes.values() if process.poll() is not None]
        assert not gone, gone
        return all(list((tmp_path / "runs" / name).glob("*/rank-0000.jsonl")) for name in places)

    try:
        wait_until(both_train, "both studies to train", deadline_s=90)
        assert {name: where(name) for name in places} == {name: set(own) for name, own in places.items()}
        ends = {name: process.communicate(timeout=90) for name, process in processes.items()}
    except BaseException:
        for process in processes.values():
            hosts.signal(process, signal.SIGKILL)
            process.communicate()
        raise
    assert [process.returncode for process in processes.values()] == [0, 0], ends
    runs = {name: load(tmp_path / "runs" / name) for name in places}
    for name, run in runs.items():
        assert {(start.host, result.status) for result in run.results for start in result.starts} == {
            (host, "completed") for host in places[name]
        }
    (began, ended), (other_began, other_ended) = (times(list(run.results)) for run in runs.values())
    assert min(ended, other_ended) > max(began, other_began), "one after the other"
