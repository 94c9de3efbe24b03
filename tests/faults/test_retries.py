"""A trial that fails is tried again from its newest checkpoint, up to ``retries`` times; then its cause stands."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from command_line import CommandLine
from launch.studies import write_study
from paceline.records import Resumed, exit_of, failures_of, failures_path, rank_file, read_records, trial_dirs

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

OPTIMIZER = """
[optimizers.{label}]
name = "faults.passing:build"
lr = 0.1
fault = "{fault}"
times = {times}
counted = "{folder}/{label}"
"""
DIED = f"rank 1 on {platform.node()} died without a word (killed, or out of memory?)"


class Retried:
    """A study of three trials on two ranks: one is killed once, one twice, one has a setting that is wrong."""

    def __init__(self, folder: Path) -> None:
        self.command, self.run_dir = CommandLine(folder), folder / "runs" / "retried"
        faults = (("once", "kill", 1), ("often", "kill", 2), ("wrong", "refuse", 1))
        tables = [
            OPTIMIZER.format(label=label, fault=fault, times=times, folder=folder) for label, fault, times in faults
        ]
        study = write_study(folder, name="retried", optimizers="".join(tables), scales="[2]", max_epochs=5)
        study.write_text('checkpoint_every = "epoch"\n' + study.read_text())
        self.first = self.command("run", study, "--no-check")
        self.exits = {label: exit_of(self.trial(label)) for label in ("once", "often", "wrong")}
        self.failures = {label: failures_of(self.trial(label)) for label in self.exits}
        self.second = self.command("run", study, "--no-check")

    def trial(self, label: str) -> Path:
        (folder,) = self.run_dir.glob(f"toy_{label}_*")
        return folder


@pytest.fixture(scope="module")
def retried(tmp_path_factory):
    return Retried(tmp_path_factory.mktemp("retried"))


def test_a_trial_that_failed_once_is_completed_in_the_same_run_from_its_newest_checkpoint(retried):
    how = retried.exits["once"]
    assert (how.status, how.cause, how.num_attempts) == ("completed", "", 2)
    assert [failure.cause.splitlines()[0].partition(";")[0] for failure in retried.failures["once"]] == [DIED]
    for rank in range(2):
        records = read_records(rank_file(retried.trial("once"), rank))
        assert [record.num_updates for record in records if isinstance(record, Resumed)] == [22], "two epochs of eleven"
    assert f"an attempt at {retried.trial('once').name} failed: {DIED}" in retried.first.stderr


def test_a_trial_that_failed_too_often_is_over_with_its_cause(retried):
    """Not with the first of them."""
    how = retried.exits["often"]
    assert (how.status, how.num_attempts) == ("failed", 2)
    assert how.cause.startswith(DIED)
    assert len(retried.failures["often"]) == 2
    assert retried.first.returncode == 1
    assert "2 of 3 trials failed; run the same command to try them again" in retried.first.stderr


def test_what_trying_again_cannot_cure_is_not_tried_again(retried):
    how = retried.exits["wrong"]
    assert (how.status, how.num_attempts) == ("failed", 1)
    assert how.cause.startswith(f"rank 1 on {platform.node()}: momentum must be below 1")


def test_another_run_counts_anew_and_goes_on(retried):
    assert retried.second.returncode == 0, retried.second.stderr
    exits = {folder.name.split("_")[1]: exit_of(folder) for folder in trial_dirs(retried.run_dir)}
    assert {label: (how.status, how.num_attempts) for label, how in exits.items()} == {
        "once": ("completed", 2), "often": ("completed", 1), "wrong": ("completed", 1),
    }  # fmt: skip
    assert not any(failures_path(retried.trial(label)).exists() for label in ("often", "wrong"))
