"""Runs that outlive the shell that started them: followed and stopped from another; nothing outlives a stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from command_line import PACELINE, CommandLine
from launch.studies import write_study
from paceline.launch import supervisor
from paceline.records import Epoch, Resumed, each_record, exit_of, rank_file, read_json, read_records, trial_dirs
from ranks import processes_naming

pytestmark = [
    pytest.mark.runs,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux"),
]

OPTIMIZERS = """
[optimizers.adam]
[optimizers.sgd]
"""
FAULTY = """
[optimizers.raised]
name = "optimizers.faulty:build"
fault = "raise"
fail_rank = 0
fail_at = 3
lr = 0.1
cured = "{cured}"
"""


class Bed:
    """A study of two trials on two ranks, slow enough to be watched."""

    def __init__(self, folder: Path, *, max_epochs: int = 60) -> None:
        self.folder, self.run_dir = folder, folder / "runs" / "slow"
        self.command = CommandLine(folder)
        self.study = write_study(
            folder,
            name="slow",
            optimizers=OPTIMIZERS,
            scales="[2]",
            max_epochs=max_epochs,
            toy="train_sleep_s = 0.03",
        )

    def detach(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.command("run", self.study, "--no-check", "--detach", *arguments)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def trains(self, optimizer: str) -> bool:
        """Whether a trial has begun its third epoch."""
        paths = [rank_file(folder, 0) for folder in self.run_dir.glob(f"toy_{optimizer}_*")]
        records = [record for path in paths if path.exists() for record in read_records(path)]
        return any(isinstance(record, Epoch) and record.epoch == 1 for record in records)

    def log(self) -> str:
        paths = sorted((self.run_dir / "logs").rglob("*.log"))
        return "\n".join(f"{path}:\n{path.read_text()[-2000:]}" for path in paths)

    def alive(self) -> list[int]:
        return processes_naming(str(self.folder))

    def statuses(self) -> list[str]:
        return [how.status if (how := exit_of(folder)) else "open" for folder in trial_dirs(self.run_dir)]


@pytest.fixture
def bed(tmp_path) -> Iterator[Bed]:
    """A study whose processes do not outlive the test."""
    bed = Bed(tmp_path)
    yield bed
    assert bed.command.end_all() == [], "something outlived its test"


class Story:
    """Detached from a shell that is killed; looked at, followed, stopped; detached again and followed to the end."""

    def __init__(self, folder: Path) -> None:
        self.bed = bed = Bed(folder, max_epochs=54)
        command = bed.command
        words = [PACELINE, "run", str(bed.study), "--no-check", "--detach", "--json"]
        code = (
            "import subprocess, sys, time; print(subprocess.run(sys.argv[1:]).returncode, flush=True); time.sleep(60)"
        )
        with command.start("-c", code, *words, program=(sys.executable,), PYTHONUNBUFFERED="1") as shell:
            self.begun = json.loads(shell.stdout.readline())
            self.returned = shell.stdout.readline()
            self.early_status = command("status", bed.run_dir, "--json")
            shell.kill()
            shell.communicate(timeout=10)
        self.rival = command("run", bed.study, "--no-check")
        self.detached_rival = bed.detach()
        bed.wait_for(lambda: bed.trains("adam"))
        self.status = command("status", bed.run_dir)
        follower = command.start("attach", bed.run_dir)
        time.sleep(2.0)
        follower.send_signal(signal.SIGINT)
        self.follower = command.finish(follower, deadline_s=20)
        self.alive = len(bed.alive())
        listener = command.start("logs", bed.run_dir, "-f")
        began = time.monotonic()
        self.stop = command("stop", bed.run_dir)
        self.stop_s = time.monotonic() - began
        self.left_by_stop = [pid for pid in bed.alive() if pid != listener.pid]
        self.listener = command.finish(listener, deadline_s=20)
        self.stopped_status = command("status", bed.run_dir)
        self.stopped_attach = command("attach", bed.run_dir)
        self.statuses = bed.statuses()
        self.again = bed.detach()
        self.attach = command("attach", bed.run_dir, "--json")
        self.left = command.end_all()
        self.logs = {
            name: command("logs", bed.run_dir, *arguments)
            for name, arguments in {
                "run": [],
                "rank": ["--rank", "1"],
                "trial": ["--trial", "adam"],
                "none": ["--trial", "nadam"],
            }.items()
        }


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    return Story(tmp_path_factory.mktemp("story"))


def test_detaching_returns_with_who_runs_it(story):
    assert story.returned == "0\n"
    assert story.begun["run"] == str(story.bed.run_dir)
    runner = story.begun["runner"]
    assert (runner["host"], runner["detached"]) == (os.uname().nodename, True)
    assert json.loads(story.early_status.stdout)["runner"] == runner


def test_it_goes_on_without_its_shell_and_status_says_who_runs_it(story):
    runner = story.begun["runner"]
    assert f"run by process {runner['pid']} on {runner['host']} since 20" in story.status.stdout
    assert "running: toy_adam_ddp_1x2" in story.status.stdout
    assert story.alive >= 8, "supervisor and guard of the run and of the agent, the run, the agent, two ranks"


@pytest.mark.parametrize("which", ["rival", "detached_rival"])
def test_a_second_run_is_refused_and_says_who_holds_it(story, which):
    rival = getattr(story, which)
    assert rival.returncode == 2
    assert "is being run by process " in rival.stderr
    assert f"stop it: `paceline stop {story.bed.run_dir}`" in rival.stderr


def test_ctrl_c_ends_only_the_following(story):
    assert story.follower.returncode == 130
    assert "toy adam ddp 1x2 seed 0: epoch 1/54" in story.follower.stderr
    assert "the run goes on" in story.follower.stderr


def test_stop_leaves_no_process_and_the_running_trial_open(story):
    assert story.stop.returncode == 0
    assert "stopped; it was run by process " in story.stop.stderr
    assert story.left_by_stop == []
    assert story.stop_s < 10
    assert story.statuses == ["open", "open"]
    assert "the last detached run stopped with exit code 130" in story.stopped_status.stdout
    assert story.stopped_attach.returncode == 130


def test_following_logs_ends_with_the_run(story):
    assert story.listener.returncode == 0
    assert "==> run.log <==\n2 trials; toy on toy" in story.listener.stdout


def test_attach_follows_to_the_end_with_its_exit_code(story):
    """And what was stopped went on from its checkpoint."""
    assert story.again.returncode == 0, story.again.stderr
    assert story.attach.returncode == 0, story.attach.stderr
    assert "toy sgd ddp 1x2 seed 0: completed" in story.attach.stderr
    assert len(json.loads(story.attach.stdout)["cells"]) == 2
    assert story.bed.statuses() == ["completed", "completed"]
    (adam,) = story.bed.run_dir.glob("toy_adam_*")
    assert any(isinstance(record, Resumed) for record in read_records(rank_file(adam, 0)))
    assert story.left == []


def test_logs_of_the_run_of_a_rank_and_of_a_trial(story):
    assert "toy sgd ddp 1x2 seed 0: completed" in story.logs["run"].stdout
    assert "==> agent.log <==" not in story.logs["rank"].stdout
    lines = story.logs["trial"].stdout.splitlines()
    assert any(" rank 1 epoch: epoch 23, " in line for line in lines)
    assert any(" resumed: num_updates " in line for line in lines)
    assert story.logs["none"].returncode == 2
    assert "has no trial 'nadam'; 2 others" in story.logs["none"].stderr


def kill_controlling_process(bed: Bed) -> None:
    """Its supervisor ends what it keeps, but not the ranks."""
    bed.wait_for(lambda: bed.trains("adam"))
    os.kill(read_json(bed.run_dir / ".holder")["pid"], signal.SIGKILL)
    bed.wait_for(lambda: supervisor.read_state(bed.run_dir / "control" / "run")["status"] == "ended")


def test_the_ranks_outlive_kill_9_of_the_controlling_process_and_attach_takes_them_up(bed):
    bed = Bed(bed.folder, max_epochs=24)
    assert bed.detach().returncode == 0
    kill_controlling_process(bed)
    status = bed.command("status", bed.run_dir)
    assert "goes on without its controlling process, which was killed" in status.stdout
    assert f"`paceline attach {bed.run_dir}` takes it up" in status.stdout
    assert json.loads(bed.command("status", bed.run_dir, "--json").stdout)["goes_on_alone"] is True
    followed = bed.command("attach", bed.run_dir)
    assert followed.returncode == 0, followed.stderr
    assert "another one takes the run up" in followed.stderr
    assert bed.statuses() == ["completed", "completed"]
    (adam,) = bed.run_dir.glob("toy_adam_*")
    for rank in range(2):
        records = list(each_record(rank_file(adam, rank)))
        assert [record.epoch for record in records if isinstance(record, Epoch)] == list(range(24)), "none twice"
    assert bed.alive() == []
    assert "run by nobody now" in bed.command("status", bed.run_dir).stdout


@pytest.mark.parametrize("how", [[], ["--now"]])
def test_ranks_without_a_controlling_process_can_be_stopped(bed, how):
    assert bed.detach().returncode == 0
    kill_controlling_process(bed)
    assert len(bed.alive()) >= 5, "guard, supervisor, agent, two ranks"
    done = bed.command("stop", bed.run_dir, *how)
    assert done.returncode == 0, done.stderr
    assert "its ranks had gone on without a controlling process" in done.stderr
    assert bed.alive() == []
    assert bed.statuses() == ["open", "open"]
    assert "run by nobody now" in bed.command("status", bed.run_dir).stdout
    assert "nobody ran it" in bed.command("stop", bed.run_dir).stderr


def test_a_foreground_run_ends_ranks_without_a_controlling_process_and_goes_on_from_them(bed):
    bed = Bed(bed.folder, max_epochs=24)
    assert bed.detach().returncode == 0
    kill_controlling_process(bed)
    done = bed.command("run", bed.study, "--no-check")
    assert done.returncode == 0, done.stderr
    assert bed.statuses() == ["completed", "completed"]
    found = [record for folder in trial_dirs(bed.run_dir) for record in each_record(rank_file(folder, 0))]
    assert any(isinstance(record, Resumed) for record in found)


def test_stop_now_kills(bed):
    assert bed.detach().returncode == 0
    bed.wait_for(lambda: bed.trains("adam"))
    assert bed.command("stop", bed.run_dir, "--now").returncode == 0
    assert bed.alive() == []
    assert bed.statuses() == ["open", "open"]
    assert "nobody ran it" in bed.command("stop", bed.run_dir).stderr


@pytest.mark.parametrize(("how", "code"), [([], 130), (["--now"], -signal.SIGKILL)])
def test_a_run_in_another_shell_can_be_stopped(bed, how, code):
    """But not followed: its progress is on its own terminal."""
    process = bed.command.start("run", bed.study, "--no-check")
    bed.wait_for(lambda: bed.trains("adam"))
    followed = bed.command("attach", bed.run_dir)
    assert followed.returncode == 2
    assert "it is run by process " in followed.stderr
    assert bed.command("stop", bed.run_dir, *how).returncode == 0
    assert bed.command.finish(process, deadline_s=20).returncode == code
    assert bed.alive() == []


def test_attach_ends_with_the_exit_code_of_a_run_that_failed(bed):
    """And the words of the rank that failed can be read."""
    optimizers = FAULTY.format(cured=bed.folder / "cured")
    study = write_study(bed.folder, name="fails", optimizers=optimizers, scales="[1]")
    run_dir = bed.folder / "runs" / "fails"
    assert bed.command("run", study, "--no-check", "--detach").returncode == 0
    followed = bed.command("attach", run_dir)
    assert followed.returncode == 1
    assert "1 of 1 trials failed" in followed.stderr
    said = bed.command("logs", run_dir, "--trial", "raised", "--rank", "0").stdout
    assert "RuntimeError: the hand-made fault" in said


@pytest.mark.parametrize("what", ["bad study", "missing workload", "foreign folder", "other study", "dry run"])
def test_what_cannot_be_started_is_said_at_once_and_nothing_is_left(bed, what):
    arguments: list[str] = []
    if what == "bad study":
        arguments = ["--set", "seeds=[]"]
    elif what == "missing workload":
        arguments = ["--set", "workloads.other.name='workloads.nowhere:build'"]
    elif what == "dry run":
        arguments = ["--dry-run"]
    elif what == "foreign folder":
        bed.run_dir.mkdir(parents=True)
        (bed.run_dir / "mine.txt").write_text("mine")
    else:
        (bed.run_dir / "toy_other").mkdir(parents=True)
        (bed.run_dir / "toy_other" / "trial.json").write_text("{}")
        (bed.run_dir / "study.json").write_text('{"name": "other"}')
    before = sorted(path for path in bed.folder.rglob("*") if path.name != ".lock")
    done = bed.detach(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("paceline: ")
    assert sorted(path for path in bed.folder.rglob("*") if path.name != ".lock") == before
    assert bed.alive() == []


def test_what_nobody_started_is_wrong_use(bed):
    for command in ("attach", "stop", "logs"):
        done = bed.command(command, bed.run_dir)
        assert done.returncode == 2
        assert "there is no folder" in done.stderr
