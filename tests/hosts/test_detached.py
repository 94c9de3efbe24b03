"""Detached runs on hosts outlive connections and their controlling process; foreground runs outlive neither."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest

from paceline.records import each_record, rank_file, trial_dirs
from testbed.bed import CONTROL, Bed, wait_until

PACELINE = Path(sys.executable).with_name("paceline")
STUDY = """
name = "{name}"
seeds = [0]
aa_pair = false
scales = ["{num_hosts}x1"]
max_epochs = {max_epochs}
threads_per_rank = 1
device = "cpu"
batch = {{ rule = "global", global_batch_size = 500 }}

[workloads.digits]
name = "logreg-mnist"
dataset = "mnist-small"

[optimizers.adam]

[cluster]
kind = "ssh"
hosts = {hosts}
heartbeat_timeout_s = {silence_s}
"""

pytestmark = pytest.mark.timeout(240)


class Run:
    """A study of one trial, run from the control host, a rank on each of the first hosts."""

    def __init__(
        self, bed: Bed, folder: Path, *, name: str = "hosts", num_hosts: int, max_epochs: int, silence_s: float = 60.0
    ) -> None:
        self.bed, self.folder, self.run_dir, self.num_hosts = bed, folder, folder / "runs" / name, num_hosts
        self.max_epochs, self.kept = max_epochs, f".paceline/runs/{name}-"
        self.study = folder / f"{name}.toml"
        hosts = json.dumps(bed.nodes[:num_hosts])
        self.study.write_text(
            STUDY.format(name=name, num_hosts=num_hosts, max_epochs=max_epochs, hosts=hosts, silence_s=silence_s)
        )

    def paceline(self, *words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = self.bed.run_on_ctl([PACELINE, *words], cwd=self.folder, timeout_s=120)
        assert done.returncode == code, done.stderr
        return done

    def detach(self) -> None:
        """Returns once some epochs are known here."""
        self.paceline("run", self.study, "--no-check", "--detach")
        wait_until(lambda: self.epochs()[1] > 0, "the second epoch", deadline_s=90)

    def kill_controlling_process(self) -> None:
        """And wait for its supervisor to leave."""
        named = self.bed.processes(CONTROL, str(self.study))
        (process,) = [process for process in named if process.cmdline()[1:3] == ["-m", "paceline.cli"]]
        process.kill()
        wait_until(lambda: not self.bed.processes(CONTROL, str(self.study)), "its supervisor to end")

    def epochs(self, rank: int = 0) -> Counter[int]:
        """How often each epoch was recorded by a rank, as far as it is known here."""
        folders = trial_dirs(self.run_dir) if self.run_dir.exists() else ()
        paths = [path for folder in folders if (path := rank_file(folder, rank)).exists()]
        return Counter(record.epoch for path in paths for record in each_record(path) if record.kind == "epoch")

    def left(self) -> dict[str, int]:
        """How many processes of the run there are, by host."""
        return {host: len(self.bed.processes(host, self.kept)) for host in self.bed.nodes[: self.num_hosts]}

    def is_whole(self) -> bool:
        """Whether every rank recorded every epoch, and none twice."""
        wanted = Counter(range(self.max_epochs))
        return all(self.epochs(rank) == wanted for rank in range(self.num_hosts))


def test_a_detached_run_outlives_its_connections(hosts: Bed, tmp_path: Path) -> None:
    """Everything of ssh is killed on the control host: it is connected again, and nothing is lost."""
    run = Run(hosts, tmp_path, num_hosts=2, max_epochs=150)
    run.detach()
    for process in hosts.processes(CONTROL):
        with contextlib.suppress(psutil.NoSuchProcess):  # ended by itself, or with one that was killed
            if process.name() == "ssh":
                process.kill()
    followed = run.paceline("attach", run.run_dir)
    said = run.paceline("logs", run.run_dir).stdout
    for host in hosts.nodes[:2]:
        assert f"{host}: the connection was lost, the run goes on there" in said
        assert f"{host}: reached again" in said
    assert "completed" in followed.stderr
    assert run.is_whole()
    wait_until(lambda: not any(run.left().values()), "the processes on all hosts to end")


def test_hosts_go_on_without_the_controlling_process_and_attach_collects_everything(hosts: Bed, tmp_path: Path) -> None:
    run = Run(hosts, tmp_path, num_hosts=2, max_epochs=150)
    run.detach()
    run.kill_controlling_process()
    known = sum(run.epochs().values())
    status = run.paceline("status", run.run_dir).stdout
    assert "goes on without its controlling process, which was killed" in status
    assert known < 150, "it was over before"
    followed = run.paceline("attach", run.run_dir)
    assert "another one takes the run up" in followed.stderr
    assert run.is_whole()
    wait_until(lambda: not any(run.left().values()), "the processes on all hosts to end")


def test_stop_reaches_ranks_without_a_controlling_process_and_no_other_run(hosts: Bed, tmp_path: Path) -> None:
    run = Run(hosts, tmp_path, num_hosts=2, max_epochs=3000)
    other = Run(hosts, tmp_path, name="other", num_hosts=1, max_epochs=3000)
    run.detach()
    other.detach()
    run.kill_controlling_process()
    before, of_other = sum(run.epochs().values()), other.left()
    assert all(number >= 4 for number in (*run.left().values(), *of_other.values())), "two keepers, agent and rank"
    done = run.paceline("stop", run.run_dir)
    assert "its ranks had gone on without a controlling process" in done.stderr
    assert not any(run.left().values())
    assert other.left() == of_other
    assert sum(run.epochs().values()) > before, "what was written meanwhile is collected"
    assert "run by nobody now" in run.paceline("status", run.run_dir).stdout
    assert "stopped; it was run by process" in other.paceline("stop", other.run_dir).stderr
    assert not any(other.left().values())


def test_a_foreground_run_ends_when_its_controlling_host_is_gone_without_a_word(hosts: Bed, tmp_path: Path) -> None:
    """No connection closes: the hosts only hear nothing any more."""
    run = Run(hosts, tmp_path, num_hosts=2, max_epochs=3000, silence_s=8.0)
    process = hosts.start(CONTROL, [PACELINE, "run", run.study, "--no-check"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    wait_until(lambda: run.epochs()[1] > 0, "the second epoch", deadline_s=90)
    hosts.power_off(CONTROL)
    process.wait(10)
    assert all(run.left().values())
    wait_until(lambda: not any(run.left().values()), "the processes on all hosts to end", deadline_s=15)
