"""A warm job with trials that kill their ranks: each is recorded with who failed and why, and the job goes on."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from command_line import CommandLine
from launch.studies import write_study
from paceline.records import Exit, Start, exit_of, rank_file, read_records, trial_dirs

OPTIMIZERS = """
[optimizers.sgd]

[optimizers.killed]
name = "optimizers.faulty:build"
fault = "kill"
fail_rank = 1
fail_at = 3
lr = 0.1
cured = "{cured}"

[optimizers.raised]
name = "optimizers.faulty:build"
fault = "raise"
fail_rank = 1
fail_at = 3
lr = 0.1
cured = "{cured}"
"""


class Faults:
    """A study run twice: with trials that fail on two ranks, then with the cause removed."""

    def __init__(self, folder: Path) -> None:
        self.command = CommandLine(folder)
        self.run_dir = folder / "runs" / "faults"
        cured = folder / "cured"
        study = write_study(folder, name="faults", optimizers=OPTIMIZERS.format(cured=cured))
        self.first = self.command("run", study, "--no-check", "--set", "retries=0")
        self.left_alive = self.command.end_all()
        self.exits = self._exits()
        self.pids = self._pids()
        self.before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in self._files_of_done()}
        cured.touch()
        self.second = self.command("run", study, "--no-check")
        self.exits_after = self._exits()
        self.after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in self.before}
        self.third = self.command("run", study)

    def _exits(self) -> dict[str, Exit | None]:
        return {"_".join(folder.name.split("_")[1:4]): exit_of(folder) for folder in trial_dirs(self.run_dir)}

    def _pids(self) -> dict[str, list[int]]:
        """Process ids of the ranks of each trial."""
        found = {}
        for folder in trial_dirs(self.run_dir):
            ranks = 2 if "1x2" in folder.name else 1
            starts = [r for n in range(ranks) for r in read_records(rank_file(folder, n)) if isinstance(r, Start)]
            found["_".join(folder.name.split("_")[1:4])] = [start.pid for start in starts]
        return found

    def _files_of_done(self) -> list[Path]:
        folders = [folder for folder in trial_dirs(self.run_dir) if (how := exit_of(folder)) and not how.cause]
        return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    return Faults(tmp_path_factory.mktemp("faults"))


pytestmark = [pytest.mark.runs, pytest.mark.timeout(240)]


def test_the_others_complete_and_the_run_ends_with_1(faults):
    assert faults.first.returncode == 1, faults.first.stderr
    assert {name: how.status for name, how in faults.exits.items()} == {
        "sgd_single_1x1": "completed", "sgd_ddp_1x2": "completed",
        "killed_single_1x1": "completed", "killed_ddp_1x2": "failed",
        "raised_single_1x1": "completed", "raised_ddp_1x2": "failed",
    }  # fmt: skip
    assert "2 of 6 trials failed; run the same command to try them again" in faults.first.stderr
    assert faults.left_alive == []


def test_a_killed_rank_is_named(faults):
    """On a busy machine its peer may be ended before it can say that it only saw the connection close."""
    cause = faults.exits["killed_ddp_1x2"].cause
    assert f"rank 1 on {platform.node()} died without a word (killed, or out of memory?)" in cause


def test_a_rank_that_raised_is_named_with_what_it_said(faults):
    """Not its peer, which only saw the connection close."""
    cause = faults.exits["raised_ddp_1x2"].cause
    assert cause.startswith("rank 1 on ")
    assert cause.splitlines()[0].endswith(": RuntimeError: the hand-made fault")


def test_ranks_stay_warm_until_a_trial_kills_them(faults):
    """The same processes run every trial of an attempt; a new pair runs those after a death."""
    pids = faults.pids
    warm = pids["killed_ddp_1x2"]
    assert len(set(warm)) == 2
    assert pids["sgd_ddp_1x2"] == warm
    assert pids["sgd_single_1x1"] == pids["killed_single_1x1"] == warm[:1]
    assert pids["raised_single_1x1"] == pids["raised_ddp_1x2"][:1]
    assert not set(pids["raised_ddp_1x2"]) & set(warm)


def test_running_again_repeats_nothing_and_retries_what_failed(faults):
    """Not a byte of a finished trial is touched."""
    assert faults.second.returncode == 0, faults.second.stderr
    assert {how.status for how in faults.exits_after.values()} == {"completed"}
    assert faults.before == faults.after
    assert len(faults.before) >= 4 * 3
    assert "6 trials, 4 of them done already" in faults.second.stderr


def test_running_a_finished_study_starts_nothing(faults):
    assert faults.third.returncode == 0
    assert "6 trials, 6 of them done already" in faults.third.stderr
    assert "[" not in faults.third.stderr.partition("done already")[2].partition("report:")[0]
