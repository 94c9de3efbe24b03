"""A study that is killed, then interrupted, then continued by the same command: no orphans, the same bits."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import CommandLine
from launch.studies import write_study
from paceline.errors import DataError
from paceline.job import read_trial
from paceline.records import Epoch, Evaluation, Resumed, exit_of, rank_file, read_records, trial_dirs
from ranks import processes_naming
from train.trials import RUN

pytestmark = [
    pytest.mark.runs,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc"),
]

OPTIMIZERS = """
[optimizers.adam]
[optimizers.sgd]
"""
NUM_EPOCHS = 9


class Interrupted:
    """Adam on one rank is killed with -9 in its third epoch, SGD on two ranks gets Ctrl-C in its third."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run_dir = folder, folder / "runs" / "stopped"
        self.command = CommandLine(folder)
        self.study = write_study(
            folder, name="stopped", optimizers=OPTIMIZERS, max_epochs=NUM_EPOCHS, toy="train_sleep_s = 0.04"
        )
        self.study.write_text('checkpoint_every = "epoch"\n' + self.study.read_text())
        process = self.command.start("run", self.study, "--no-check")
        self.wait_for((self.run_dir / ".holder").exists, process)
        rival = self.command.start(
            "run", self.study, "--no-check"
        )  # looks at the folder while the ranks still import torch
        self.wait_for(lambda: self.is_in_third_epoch("adam_single_1x1"), process)
        self.seen_alive = len(processes_naming(str(self.run_dir)))
        self.rival = self.command.finish(rival)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
        self.left_by_kill = self.command.end_all()

        process = self.command.start("run", self.study, "--no-check")
        self.wait_for(lambda: self.is_in_third_epoch("sgd_ddp_1x2"), process)
        process.send_signal(signal.SIGINT)
        self.by_ctrl_c = self.command.finish(process, deadline_s=30)
        self.left_by_ctrl_c = processes_naming(str(self.run_dir))
        self.command.end_all()
        self.open_after_ctrl_c = [folder.name for folder in trial_dirs(self.run_dir) if exit_of(folder) is None]

        self.last = self.command("run", self.study, "--no-check")

    def wait_for(self, condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            if condition():
                return
            time.sleep(0.02)
        process.kill()
        raise AssertionError(f"waited in vain: {process.communicate()}")

    def is_in_third_epoch(self, cell: str) -> bool:
        paths = [rank_file(folder, 0) for folder in self.run_dir.glob(f"toy_{cell}_*")]
        return any(
            isinstance(record, Epoch) and record.epoch == 1
            for path in paths
            if path.exists()
            for record in read_records(path)
        )

    def trial(self, cell: str) -> Path:
        (folder,) = self.run_dir.glob(f"toy_{cell}_*")
        return folder


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    return Interrupted(tmp_path_factory.mktemp("interrupted"))


def test_kill_9_of_the_command_leaves_no_rank_alive(interrupted):
    assert interrupted.seen_alive >= 3, "the agent and two ranks"
    assert interrupted.left_by_kill == []


def test_a_study_that_is_being_run_is_refused_and_its_holder_named(interrupted):
    assert interrupted.rival.returncode == 2
    assert "stopped is being run by process " in interrupted.rival.stderr
    assert re.search(rf" on {os.uname().nodename} since \d{{4}}-.*; wait for it, or stop it", interrupted.rival.stderr)
    assert "Traceback" not in interrupted.rival.stderr


def test_ctrl_c_ends_with_130_and_leaves_no_rank_alive(interrupted):
    assert interrupted.by_ctrl_c.returncode == 130
    assert "Traceback" not in interrupted.by_ctrl_c.stderr
    assert interrupted.left_by_ctrl_c == []
    assert len(interrupted.open_after_ctrl_c) == 1, "an interrupted trial has not ended"


def test_the_same_command_goes_on_to_the_end(interrupted):
    assert interrupted.last.returncode == 0, interrupted.last.stderr
    assert [exit_of(folder).status for folder in trial_dirs(interrupted.run_dir)] == ["completed"] * 4


@pytest.mark.parametrize(("cell", "num_ranks"), [("adam_single_1x1", 1), ("sgd_ddp_1x2", 2)])
def test_an_interrupted_trial_ends_with_the_bits_of_an_uninterrupted_one(
    interrupted, rank_pool, tmp_path, cell, num_ranks
):
    """And its records tell of each epoch once."""
    folder = interrupted.trial(cell)
    records = [read_records(rank_file(folder, rank)) for rank in range(num_ranks)]
    assert [r.num_updates >= 11 for r in records[0] if isinstance(r, Resumed)] == [True], "it went on from a checkpoint"
    for of_rank in records:
        assert [r.epoch for r in of_rank if isinstance(r, Epoch)] == list(range(NUM_EPOCHS))
    evaluations = [r.num_samples for r in records[0] if isinstance(r, Evaluation)]
    assert evaluations == [501 * epoch for epoch in range(1, NUM_EPOCHS + 1)]

    trial = read_trial(folder).model_dump()
    trial["workload_options"] = {}
    results = rank_pool.run(RUN, num_ranks=num_ranks, trial=trial, folder=str(tmp_path))
    for rank, result in enumerate(results):
        assert records[rank][-1].parameters_digest == result["end"]["parameters_digest"]
        assert records[rank][-1].num_updates == result["end"]["num_updates"]


def test_a_damaged_exit_record_is_named(tmp_path):
    (tmp_path / "exit.json").write_text('{"status": "well"}')
    with pytest.raises(DataError, match=r"exit\.json does not say how a trial ended"):
        exit_of(tmp_path)
