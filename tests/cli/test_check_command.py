"""``paceline check``, and what ``paceline run`` does where a check fails."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from command_line import CommandLine
from launch.studies import write_study
from paceline.job import read_checks
from paceline.records import exit_of, trial_dirs

pytestmark = [pytest.mark.runs, pytest.mark.timeout(240)]

SPOILT = """
name = "spoilt"
seeds = [0]
aa_pair = false
scales = [1, 2]
max_epochs = 1
threads_per_rank = 1
device = "cpu"
batch = { rule = "global", global_batch_size = 500 }
[workloads.digits]
name = "workloads.spoilt:build"
options = { fault = "none" }
[optimizers.sgd]
"""
FAULTY = (
    '{ name = "optimizers.faulty:build", fault = "raise", fail_rank = 1, fail_at = 2, lr = 0.1, cured = "nowhere" }'
)
RANK_CHECKS = [
    "labels and images", "shuffled-label probe", "better than chance is possible", "parity of one rank and N ranks",
]  # fmt: skip


def spoilt_study(folder: Path) -> Path:
    path = folder / "spoilt.toml"
    path.write_text(SPOILT)
    return path


def with_fault(fault: str) -> tuple[str, str]:
    return "--set", f'workloads.digits.options.fault="{fault}"'


def test_check_prints_every_finding_and_leaves_nothing_behind(paceline):
    """Ends with 1, since a study of one seed can tell nothing."""
    study, temporary = spoilt_study(paceline.folder), paceline.folder / "temporary"
    temporary.mkdir()
    done = paceline("check", study, "--json", TMPDIR=str(temporary))
    assert done.returncode == 1, done.stderr
    findings = json.loads(done.stdout)["findings"]
    assert [finding["check"] for finding in findings] == ["budgets", "threads", "enough seeds", *RANK_CHECKS]
    assert [finding["check"] for finding in findings if finding["status"] != "pass"] == ["enough seeds"]
    assert list(temporary.glob("paceline*")) == []
    assert not (paceline.folder / "runs").exists()


def test_check_ends_with_0_where_every_check_passes(paceline):
    study = spoilt_study(paceline.folder)
    done = paceline("check", study, "--set", "scales=[1]")
    assert done.returncode == 0, done.stderr
    assert "pass            shuffled-label probe: digits: after 50 updates the validation loss is " in done.stdout
    assert "not applicable  enough seeds: there is one cell" in done.stdout
    assert "not applicable  parity of one rank and N ranks: no cell of more than one rank" in done.stdout


def test_check_of_what_cannot_be_run_is_refused_as_run_refuses_it(paceline):
    study = spoilt_study(paceline.folder)
    done = paceline("check", study, "--set", "workloads.digits.name=no.such:thing")
    assert done.returncode == 2
    assert "no.such" in done.stderr
    assert "Traceback" not in done.stderr.partition("cannot be built")[0]


class Refused:
    """Labels dropped without their images: refused, run all the same, then cured and run."""

    def __init__(self, folder: Path) -> None:
        command = CommandLine(folder)
        study, self.run_dir = spoilt_study(folder), folder / "runs" / "spoilt"
        self.first = command("run", study, *with_fault("labels dropped"))
        self.left_alive = command.end_all()
        self.exits_after_refusal = [exit_of(trial) for trial in trial_dirs(self.run_dir)]
        self.found = read_checks(self.run_dir)
        self.regardless = command("run", study, *with_fault("labels dropped"), "--no-check")
        self.exits = [exit_of(trial) for trial in trial_dirs(self.run_dir)]
        self.kept = read_checks(self.run_dir)


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    return Refused(tmp_path_factory.mktemp("refused"))


def test_a_study_that_fails_a_check_is_not_run(refused):
    """Exit code 1; the failed check is named with its evidence, and what to do. Too few seeds are no reason."""
    assert refused.first.returncode == 1
    said = refused.first.stderr[refused.first.stderr.index("paceline: ") :].splitlines()
    assert said[0] == "paceline: no trial was run, for the study is not sound:"
    assert said[1].startswith("  shuffled-label probe: digits: after 1600 updates the validation loss is ")
    assert said[2] == "--no-check runs it all the same"
    assert refused.exits_after_refusal == [None, None]
    assert refused.left_alive == []


def test_no_check_runs_it_all_the_same_and_the_findings_stay(refused):
    assert refused.regardless.returncode == 0, refused.regardless.stderr
    assert [how.status for how in refused.exits] == ["completed"] * 2
    assert refused.kept == refused.found
    failed = [finding.check for finding in refused.found.findings if finding.status == "fail"]
    assert failed == ["enough seeds", "shuffled-label probe"]


@pytest.mark.parametrize(
    ("changes", "check", "cause"),
    [
        (with_fault("killed"), "labels and images", f"rank 1 on {platform.node()} died without a word"),
        (("--set", f"optimizers.sgd={FAULTY}"), "parity of one rank and N ranks", "RuntimeError: the hand-made fault"),
    ],
)  # fmt: skip
def test_a_rank_that_dies_while_checking_fails_that_check(paceline, changes, check, cause):
    """With who died and why; no trial is run, nothing hangs, and no rank is started over and over."""
    study = spoilt_study(paceline.folder)
    done = paceline("run", study, *changes, deadline_s=60.0)
    assert done.returncode == 1
    assert f"\n  {check}: rank " in done.stderr
    assert cause in done.stderr
    assert "Traceback" not in done.stderr
    assert [exit_of(trial) for trial in trial_dirs(paceline.folder / "runs" / "spoilt")] == [None, None]
    attempts = list((paceline.folder / "runs" / "spoilt" / "logs").glob("*/attempt_*"))
    assert len(attempts) == 2


def test_a_sound_study_is_checked_once(paceline):
    """A trial that fails is tried again without another check; findings go when the study grows unchecked."""
    cured = paceline.folder / "cured"
    optimizers = f"""
    [optimizers.raised]
    name = "optimizers.faulty:build"
    fault = "raise"
    fail_rank = 0
    fail_at = 5
    lr = 0.1
    cured = "{cured}"
    """
    study = write_study(paceline.folder, name="once", optimizers=optimizers, scales="[1]")
    run_dir = paceline.folder / "runs" / "once"
    assert "1 of 1 trials failed" in paceline("run", study).stderr
    first = (run_dir / "checks.json").stat()
    cured.touch()
    again = paceline("run", study)
    assert again.returncode == 0, again.stderr
    assert (run_dir / "checks.json").stat().st_mtime_ns == first.st_mtime_ns
    grown = paceline("run", study, "--set", "seeds=[0, 1]", "--no-check")
    assert grown.returncode == 0, grown.stderr
    assert read_checks(run_dir) is None
