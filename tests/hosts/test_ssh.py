"""Runs on four hosts by ssh: they compute what one rank computes, and whatever dies, nothing is left nor lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from paceline.records import AnyRecord, exit_of, rank_file, read_records, trial_dirs
from testbed.bed import CONTROL, Bed, wait_until

PACELINE = Path(sys.executable).with_name("paceline")
STUDY = """
name = "{name}"
seeds = [0]
aa_pair = false
retries = 0
scales = {scales}
max_epochs = {max_epochs}
threads_per_rank = 1
device = "cpu"
batch = {{ rule = "global", global_batch_size = 500 }}

[workloads.digits]
name = "logreg-mnist"
dataset = "mnist-small"

{optimizers}
"""
THREE = "[optimizers.adam]\n[optimizers.sgd]\nlr = 0.05\n[optimizers.lbfgs]\nmax_iter = 4\n"
KEPT = ".paceline/runs"  # what agents, supervisors and ranks name in their command lines

pytestmark = pytest.mark.timeout(240)


class Run:
    """One study, run from the control host on the first hosts."""

    def __init__(
        self, bed: Bed, folder: Path, *, num_hosts: int, max_epochs: int, scales: str, optimizers: str
    ) -> None:
        self.bed, self.folder, self.run_dir = bed, folder, folder / "runs" / "hosts"
        (folder / "hosts.txt").write_text("".join(f"{host}\n" for host in bed.nodes[:num_hosts]))
        study = STUDY.format(name="hosts", max_epochs=max_epochs, scales=scales, optimizers=optimizers)
        (folder / "hosts.toml").write_text(study)

    def start(self) -> subprocess.Popen[str]:
        words = [PACELINE, "run", "hosts.toml", "--no-check", "--cluster", "hosts.txt"]
        self.began = time.time()
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return self.bed.start(CONTROL, words, cwd=self.folder, **pipes)

    def finish(self, process: subprocess.Popen[str], *, deadline_s: float) -> subprocess.CompletedProcess[str]:
        try:
            out, err = process.communicate(timeout=deadline_s)
        except BaseException:
            self.bed.signal(process, signal.SIGKILL)
            process.communicate()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def records(self, scale: str, label: str, num_ranks: int) -> list[list[AnyRecord]]:
        (folder,) = self.run_dir.glob(f"digits_{label}_*_{scale}_*")
        return [read_records(rank_file(folder, rank)) for rank in range(num_ranks)]

    def wait_for_epochs(self, count: int, process: subprocess.Popen[str]) -> None:
        """Until so many epochs are known here."""

        def are_known() -> bool:
            assert process.poll() is None, process.communicate()
            paths = self.run_dir.glob("*/rank-0000.jsonl")
            return any(sum(record.kind == "epoch" for record in read_records(path)) >= count for path in paths)

        wait_until(are_known, "records", deadline_s=90)

    def on(self, host: str, module: str) -> list[psutil.Process]:
        """The processes of one module of paceline that the run has started on a host."""
        return [process for process in self.bed.processes(host, KEPT) if module in process.cmdline()[:4]]

    def left(self) -> list[psutil.Process]:
        return [process for host in self.bed.nodes for process in self.bed.processes(host, KEPT)]


@pytest.fixture
def long_run(hosts: Bed, tmp_path: Path) -> Run:
    """A trial over two hosts that goes on for long."""
    return Run(hosts, tmp_path, num_hosts=2, max_epochs=1000, scales='["2x1"]', optimizers="[optimizers.adam]")


def test_four_hosts_agree_with_one_rank(hosts: Bed, tmp_path: Path) -> None:
    """In loss to rounding, in parameters among each other to the bit; each rank on the host that its number says."""
    run = Run(hosts, tmp_path, num_hosts=4, max_epochs=1, scales='["4x1", "2x1", "1x1"]', optimizers=THREE)
    done = run.finish(run.start(), deadline_s=150)
    assert done.returncode == 0, done.stderr
    for label in ("adam", "sgd", "lbfgs"):
        (alone,) = run.records("1x1", label, 1)
        for num_hosts in (2, 4):
            together = run.records(f"{num_hosts}x1", label, num_hosts)
            starts = [records[0] for records in together]
            assert [start.host for start in starts] == list(hosts.nodes[:num_hosts])
            assert {start.initial_parameters_digest for start in starts} == {alone[0].initial_parameters_digest}
            assert len({records[-1].parameters_digest for records in together}) == 1
            tolerance = 1e-3 if label == "lbfgs" else 1e-5
            assert together[0][-1].test["loss"] == pytest.approx(alone[-1].test["loss"], rel=tolerance)
    first = min(start.time for (start, *_) in run.records("4x1", "adam", 4))
    print(f"from the command to the first update on four hosts: {first - run.began:.1f} s")  # noqa: T201


@pytest.mark.parametrize("who", ["paceline.train.worker", "paceline.train.agent", "paceline.launch.supervisor"])
def test_whatever_is_killed_on_a_host_nothing_is_left_anywhere(long_run: Run, hosts: Bed, who: str) -> None:
    """A rank fails its trial, which is recorded with its host; without an agent or a supervisor the run ends."""
    process = long_run.start()
    long_run.wait_for_epochs(2, process)
    victims = long_run.on("node2", who)
    assert victims
    for victim in victims:
        victim.kill()
    done = long_run.finish(process, deadline_s=60)
    assert done.returncode == 1, done.stderr
    (folder,) = trial_dirs(long_run.run_dir)
    if who == "paceline.train.worker":
        first = exit_of(folder).cause.splitlines()[0]
        assert "rank 1 on node2" in first
        assert "died without a word" in first
    else:
        assert "node2: " in done.stderr
        assert exit_of(folder) is None, "it goes on from its checkpoint"
    wait_until(lambda: not long_run.left(), "the processes on all hosts to end")


def test_a_run_ends_with_its_controlling_process_and_is_taken_up_again(hosts: Bed, tmp_path: Path) -> None:
    run = Run(hosts, tmp_path, num_hosts=2, max_epochs=60, scales='["2x1"]', optimizers="[optimizers.adam]")
    process = run.start()
    run.wait_for_epochs(3, process)
    hosts.signal(process, signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not run.left(), "the processes on all hosts to end", deadline_s=5)
    done = run.finish(run.start(), deadline_s=90)
    assert done.returncode == 0, done.stderr
    for records in run.records("2x1", "adam", 2):
        assert [record.epoch for record in records if record.kind == "epoch"] == list(range(60))


@pytest.mark.parametrize("fault", ["power", "link"])
def test_a_host_that_is_gone_without_a_word_is_named(long_run: Run, hosts: Bed, fault: str) -> None:
    """Its packets just stop. The other host's rank is ended, and the run says which host it was."""
    process = long_run.start()
    long_run.wait_for_epochs(2, process)
    if fault == "power":
        hosts.power_off("node2")
    else:
        hosts.link("node2", up=False)
    done = long_run.finish(process, deadline_s=75)
    assert done.returncode == 1
    assert "node2: the connection was lost" in done.stderr
    assert hosts.processes("node1", KEPT) == []
