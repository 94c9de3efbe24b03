"""Runs on nodes that Slurm gives: they end whole, whatever takes the nodes away, and leave nothing there."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from paceline.records import AnyRecord, Start, exit_of, rank_file, read_records, trial_dirs
from testbed.bed import CONTROL, wait_until
from testbed.slurm import Slurm

PACELINE = Path(sys.executable).with_name("paceline")
STUDY = """
name = "nodes"
seeds = {seeds}
aa_pair = false
retries = 0
scales = ["{scale}"]
max_epochs = {max_epochs}
threads_per_rank = 1
device = "cpu"
batch = {{ rule = "global", global_batch_size = 500 }}

[workloads.digits]
name = "logreg-mnist"
dataset = "mnist-small"

[optimizers.adam]
"""
CLUSTER = '[cluster]\nkind = "slurm"\nheartbeat_timeout_s = 30\n'

pytestmark = pytest.mark.timeout(200)


class Run:
    """One study, run from the control host; its folder is shared by all."""

    def __init__(self, slurm: Slurm, folder: Path) -> None:
        self.slurm, self.bed, self.folder = slurm, slurm.bed, folder
        self.run_dir = folder / "runs" / "nodes"
        self.control = self.run_dir / "control" / "slurm"

    def write(self, *, scale: str, max_epochs: int, seeds: str = "[0]", cluster: str = "") -> None:
        (self.folder / "nodes.toml").write_text(STUDY.format(scale=scale, max_epochs=max_epochs, seeds=seeds))
        (self.folder / "slurm.toml").write_text(CLUSTER + cluster)

    def call(self, *words: str | Path) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return self.bed.start(CONTROL, [PACELINE, *words], cwd=self.folder, env=self.slurm.environment(), **pipes)

    def start(self, *options: str) -> subprocess.Popen[str]:
        return self.call("run", "nodes.toml", "--no-check", "--cluster", "slurm.toml", *options)

    def finish(self, process: subprocess.Popen[str], *, deadline_s: float) -> subprocess.CompletedProcess[str]:
        try:
            out, err = process.communicate(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            self.bed.signal(process, signal.SIGKILL)
            _, err = process.communicate()
            raise AssertionError(f"waited in vain: {err}\n{self.said()}") from None
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def said(self) -> str:
        """What jobs and agents wrote."""
        return "".join(path.read_text() for path in self.run_dir.glob("logs/**/*.log") if path.stat().st_size)

    def records(self, rank: int = 0) -> list[list[AnyRecord]]:
        paths = [rank_file(folder, rank) for folder in trial_dirs(self.run_dir)]
        return [read_records(path) for path in paths if path.exists()]

    def starts(self, rank: int = 0) -> list[Start]:
        return [start for records in self.records(rank) for start in self.starts_in(records)]

    @staticmethod
    def starts_in(records: list[AnyRecord]) -> list[Start]:
        return [record for record in records if isinstance(record, Start)]

    def wait_until_started(self, count: int, process: subprocess.Popen[str]) -> None:
        """Until a trial has begun or gone on so often, and is under way."""

        def is_under_way() -> bool:
            assert process.poll() is None, process.communicate()
            return any(
                len(self.starts_in(records)) == count and records[-1].kind == "epoch" for records in self.records()
            )

        wait_until(is_under_way, "a trial under way", deadline_s=60)

    def wait_for_epochs(self, count: int, process: subprocess.Popen[str], *, deadline_s: float = 60) -> None:
        """Until a trial has so many."""

        def are_there() -> bool:
            assert process.poll() is None, process.communicate()
            return any(sum(record.kind == "epoch" for record in records) >= count for records in self.records())

        wait_until(are_there, "epochs", deadline_s=deadline_s)

    def check_is_whole(self, *, max_epochs: int) -> None:
        """The trial is over, and no epoch was made twice but those that a resumed rank says it makes again."""
        (folder,) = trial_dirs(self.run_dir)
        ended = exit_of(folder)
        assert ended is not None
        assert ended.status == "completed"
        for rank in range(2):
            made: list[int] = []
            for record in read_records(rank_file(folder, rank)):
                if record.kind == "resumed":
                    made = [updates for updates in made if updates <= record.num_updates]
                if record.kind == "epoch":
                    made.append(record.num_updates)
            assert made == sorted(set(made))
            assert len(made) == max_epochs

    def job_id(self) -> str:
        (number,) = json.loads((self.control / "job-id.json").read_text()).values()
        return number

    def left(self) -> list[psutil.Process]:
        """What runs on the nodes, besides the daemons."""
        return [process for node in self.bed.nodes for process in self.bed.processes(node, "paceline")]

    def wait_until_gone(self) -> None:
        wait_until(lambda: not self.left(), f"the end of what runs on the nodes: {self.left()}", deadline_s=20)
        wait_until(lambda: not self.slurm.run("squeue", "--noheader").stdout, "an empty queue", deadline_s=20)


@pytest.fixture
def run(slurm: Slurm) -> Iterator[Run]:
    folder = slurm.bed.shared / "a study; $(touch canary) 100%j"
    folder.mkdir()
    yield Run(slurm, folder)
    assert not list(slurm.bed.shared.glob("**/canary"))
    shutil.rmtree(folder)


def test_a_study_runs_on_two_nodes_and_its_script_is_kept(run: Run) -> None:
    """The rank's numbers follow the nodes' order; a folder's name that a shell would act upon does no harm."""
    run.write(scale="2x1", max_epochs=2)
    began = time.monotonic()
    done = run.finish(run.start(), deadline_s=60)
    assert done.returncode == 0, done.stderr
    print(f"a study of two epochs on two nodes: {time.monotonic() - began:.1f} s")  # noqa: T201
    assert [start.host for rank in range(2) for start in run.starts(rank)] == ["node1", "node2"]
    run.check_is_whole(max_epochs=2)
    assert "#SBATCH --nodes=2\n" in (run.control / "job.sbatch").read_text()
    assert (run.run_dir / "logs" / "node2" / "agent.log").exists()
    run.wait_until_gone()


def test_two_groups_run_side_by_side_on_nodes_of_their_own(run: Run) -> None:
    """Two jobs at once; all trials of a seed are in one of them."""
    run.write(scale="1x1", max_epochs=400, seeds="[0, 1, 2]", cluster="num_groups = 2\n")
    done = run.finish(run.start(), deadline_s=90)
    assert done.returncode == 0, done.stderr
    spans: dict[str, list[tuple[float, float]]] = {}
    for records in run.records():
        spans.setdefault(run.starts_in(records)[0].host, []).append((records[0].time, records[-1].time))
    assert sorted(map(len, spans.values())) == [1, 2]
    (began, ended), (other_began, other_ended) = ((min(each)[0], max(each)[1]) for each in spans.values())
    assert max(began, other_began) < min(ended, other_ended)
    assert sorted(path.parent.name for path in run.control.glob("*/job.sbatch")) == ["group1", "group2"]


def test_a_run_that_is_ended_is_cancelled_and_leaves_no_process(run: Run) -> None:
    """By Ctrl-C with a rank that cannot hear it, by kill -9 of the controlling process, and by ``paceline stop``."""
    run.write(scale="2x1", max_epochs=5000)

    def interrupt(process: subprocess.Popen[str]) -> None:
        (rank,) = [process for process in run.left() if "paceline.train.worker" in process.cmdline()][:1]
        rank.send_signal(signal.SIGSTOP)
        run.bed.signal(process, signal.SIGINT)

    def kill(process: subprocess.Popen[str]) -> None:
        run.bed.signal(process, signal.SIGKILL)

    def stop(process: subprocess.Popen[str]) -> None:
        stopped = run.finish(run.call("stop", run.run_dir), deadline_s=30)
        assert stopped.returncode == 0, stopped.stderr

    for number, end in enumerate((interrupt, kill, stop)):
        process = run.start()
        run.wait_until_started(number + 1, process)
        end(process)
        process.communicate(timeout=30)
        run.wait_until_gone()


@pytest.mark.parametrize("why", ["time limit", "preemption"])
def test_a_job_that_must_leave_goes_on_from_a_checkpoint(run: Run, why: str) -> None:
    """Before its time limit, by the signal that Slurm sends then; or since another job may take its nodes."""
    run.write(scale="2x1", max_epochs=120)
    process = run.start()
    run.wait_for_epochs(2, process)
    if why == "time limit":
        run.slurm.run("scancel", "--signal=USR2", "--batch", run.job_id())
    else:
        run.slurm.submit("urgent", "sleep 1", "--nodes=4", "--exclusive", "--partition=urgent")
    done = run.finish(process, deadline_s=120)
    assert done.returncode == 0, (done.stderr, run.said())
    assert len(run.starts(1)) == 2, run.said()
    assert "back in the queue" in run.said()
    run.check_is_whole(max_epochs=120)


def test_a_time_limit_in_which_nothing_is_reached_ends_the_run(run: Run) -> None:
    """Else the job would go back to the queue for ever."""
    run.write(scale="2x1", max_epochs=120)
    process = run.start()
    wait_until(lambda: run.bed.processes("node2", "slurm_job node"), "the job", deadline_s=30)
    run.slurm.run("scancel", "--signal=USR2", "--batch", run.job_id())
    done = run.finish(process, deadline_s=60)
    assert done.returncode == 1
    assert "before the job had to leave: raise time_limit_s" in done.stderr
    assert not run.starts()


def test_a_rank_that_is_killed_fails_its_trial_and_its_own_last_words_are_told(run: Run) -> None:
    """Those of its host, though hosts share the folder of logs."""
    run.write(scale="2x1", max_epochs=5000)
    process = run.start()
    run.wait_for_epochs(2, process)
    for node in ("node2", "node1"):  # the newer one is not its own
        (log,) = run.run_dir.glob(f"logs/{node}/*/attempt_0/0/stderr.log")
        with log.open("a") as file:
            file.write(f"said on {node}\n")
    (rank,) = (each for each in run.bed.processes("node2", "paceline.train.worker"))
    rank.kill()
    done = run.finish(process, deadline_s=60)
    assert done.returncode == 1, done.stderr
    (folder,) = trial_dirs(run.run_dir)
    ended = exit_of(folder)
    assert ended is not None
    assert ended.cause.startswith("rank 1 on node2 died without a word")
    assert "rank 1 on node2 wrote last: " in ended.cause
    assert "said on node2" in ended.cause
    assert "said on node1" not in ended.cause


def test_a_job_whose_node_lost_power_goes_on_with_others(run: Run) -> None:
    run.write(scale="2x1", max_epochs=120)
    process = run.start()
    run.wait_for_epochs(2, process)
    run.bed.power_off("node2")
    done = run.finish(process, deadline_s=150)
    assert done.returncode == 0, (done.stderr, run.said())
    before, after = (start.host for start in run.starts(1))
    assert before == "node2" != after
    run.check_is_whole(max_epochs=120)


def test_a_run_folder_that_nodes_do_not_see_is_named(run: Run, tmp_path: Path) -> None:
    """Of the control host alone; nothing is made at its place on the nodes."""
    run.write(scale="2x1", max_epochs=1)
    done = run.finish(run.start("--runs", str(tmp_path / "own")), deadline_s=60)
    assert done.returncode == 1
    assert "--runs must name a folder that the nodes share" in done.stderr
    assert not (run.bed.folder / "node1" / "tmp" / tmp_path.relative_to("/tmp")).exists()


def test_a_detached_job_outlives_its_controlling_process_and_is_taken_up_again(run: Run) -> None:
    run.write(scale="2x1", max_epochs=120)
    begun = run.finish(run.start("--detach", "--json"), deadline_s=30)
    assert begun.returncode == 0, begun.stderr
    wait_until(run.starts, "the first trial", deadline_s=60)
    controlling = run.bed.processes(CONTROL, "paceline.cli")
    assert controlling
    for process in controlling:
        process.kill()
    time.sleep(2)
    assert run.slurm.state(run.job_id()) == "RUNNING"
    told = run.finish(run.call("attach", run.run_dir), deadline_s=90)
    assert told.returncode == 0, (told.stderr, run.said())
    assert len(run.starts(1)) == 1
    run.check_is_whole(max_epochs=120)


def test_the_doctor_asks_slurm(run: Run) -> None:
    """Whether it would take such a job; a partition that there is not, and a time that is too long, fail."""
    for settings, code, said in (
        ('options = ["--mem=100"]', 0, "pass            nodes: all 4 are up"),
        ('partition = "mian"', 1, "there is no 'mian': did you mean 'main'? Allowed: main, urgent"),
        ('partition = "urgent"\ntime_limit_s = 7200', 1, "time_limit_s is 7200, and partition urgent allows 3600"),
        ('options = ["--constraint=gpu"]', 1, "Slurm would refuse it, allocation failure: Invalid feature"),
    ):
        run.write(scale="2x1", max_epochs=1, cluster=settings)
        done = run.finish(run.call("doctor", "slurm.toml"), deadline_s=30)
        assert (done.returncode, said in done.stdout) == (code, True), done.stdout + done.stderr
    refused = run.finish(run.start(), deadline_s=30)
    assert refused.returncode == 1
    assert "Slurm refuses the job" in refused.stderr
