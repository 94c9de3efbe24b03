"""``paceline tune``, and ``paceline run`` of a study that tunes: real ranks, two scales, a kill in between."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from command_line import CommandLine
from paceline.job import read_trial
from paceline.records import exit_of, trial_dirs

pytestmark = [pytest.mark.runs, pytest.mark.timeout(300)]

STUDY = """
name = "tuned"
seeds = [0, 1]
aa_pair = true
scales = [1, 2]
max_epochs = 2
threads_per_rank = 1
device = "cpu"
batch = { rule = "global", global_batch_size = 50 }
[workloads.toy]
name = "workloads.toy:build"
target = 0.7
[workloads.toy.options]
train_sleep_s = 0.01
[optimizers.adam]
[optimizers.sgd]
momentum = 0.0
[tuning]
num_trials = 3
seeds = [1000]
max_epochs = 3
[tuning.search.adam]
lr = { low = 1e-3, high = 1e-1, log = true }
"""
NUM_TUNING = 3 * 2 * 2


class Tuned:
    """The tuning is killed with -9 half-way and goes on; then the study runs, twice."""

    def __init__(self, folder: Path) -> None:
        self.run_dir, self.tuning_dir = folder / "runs" / "tuned", folder / "runs" / "tuned" / "tuning"
        command = CommandLine(folder)
        (folder / "tuned.toml").write_text(STUDY)
        process = command.start("tune", "tuned.toml", "--no-check")
        deadline = time.monotonic() + 90
        while len(self.ended()) < 3 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
        command.end_all()
        self.before = self.ended()
        self.status = command("status", "runs/tuned/tuning", "--json")
        self.tuned = command("tune", "tuned.toml", "--no-check", "--json")
        self.after = self.ended()
        self.ran = command("run", "tuned.toml", "--no-check", "--json")
        self.again = command("run", "tuned.toml", "--no-check")
        self.changed = command("run", "tuned.toml", "--no-check", "--set", "tuning.sobol_seed=1")

    def ended(self) -> dict[str, int]:
        """When each tuning trial ended, by name."""
        paths = self.tuning_dir.glob("*/exit.json")
        return {path.parent.name: path.stat().st_mtime_ns for path in paths}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    return Tuned(tmp_path_factory.mktemp("tuned"))


def test_a_killed_tuning_goes_on_and_repeats_nothing(tuned):
    assert 3 <= len(tuned.before) < NUM_TUNING
    assert tuned.tuned.returncode == 0, tuned.tuned.stderr
    assert f"{NUM_TUNING} trials, {len(tuned.before)} of them done already" in tuned.tuned.stderr
    assert tuned.before.items() <= tuned.after.items()
    assert len(tuned.after) == NUM_TUNING


def test_the_tuning_folder_is_a_run_like_any_other(tuned):
    status = json.loads(tuned.status.stdout)
    assert status["num_planned"] == NUM_TUNING
    assert status["states"]["completed"] == len(tuned.before)


def test_what_was_chosen_is_the_best_of_equally_many(tuned):
    found = json.loads(tuned.tuned.stdout)
    assert (found["complete"], found["equal_budgets"], len(found["searches"])) == (True, True, 4)
    for search in found["searches"]:
        scores = [one["score_s"] for one in search["configurations"]]
        assert len(scores) == 3
        assert search["chosen"]["score_s"] == min(scores) == search["best_score_s"][-1]
        assert search["node_hours"] > 0
    assert found["searches"][0]["searched"] == ["lr"]


def test_final_trials_carry_the_values_tuned_at_their_own_scale(tuned):
    assert tuned.ran.returncode == 0, tuned.ran.stderr
    chosen = {
        (search["label"], search["scale"]): search["chosen"]["hyperparameters"]
        for search in json.loads(tuned.tuned.stdout)["searches"]
    }
    trials = [read_trial(folder) for folder in trial_dirs(tuned.run_dir)]
    assert len(trials) == 2 * 2 * 2 + 2, "and the baseline once more with each seed"
    for trial in trials:
        assert trial.hyperparameters == chosen[trial.label, str(trial.scale)]
        assert trial.seed in (0, 1)
        assert exit_of(tuned.run_dir / trial.id).status == "completed"
    assert "adam at 1x2 on toy is tuned: lr=" in tuned.ran.stderr


def test_once_tuned_a_study_is_not_tuned_again(tuned):
    assert tuned.again.returncode == 0, tuned.again.stderr
    assert f"{NUM_TUNING} trials, {NUM_TUNING} of them done already" in tuned.again.stderr
    assert "10 trials, 10 of them done already" in tuned.again.stderr
    assert tuned.ended() == tuned.after


def test_another_tuning_under_the_same_name_is_refused(tuned):
    assert tuned.changed.returncode == 2
    assert "runs/tuned/tuning belongs to another study" in tuned.changed.stderr
    assert tuned.ended() == tuned.after


def test_an_optimizer_that_always_fails_is_named(paceline):
    broken = STUDY.replace("[optimizers.sgd]\nmomentum = 0.0", '[optimizers.broken]\nname = "optimizers.nowhere:build"')
    broken = broken.replace("scales = [1, 2]", "scales = [1]").replace("num_trials = 3", "num_trials = 1")
    (paceline.folder / "b.toml").write_text(broken + "[tuning.search.broken]\nlr = [0.1, 0.2]\n")
    done = paceline("run", "b.toml", "--no-check")
    assert done.returncode == 1
    assert "every tuning trial failed of broken at 1x1 on toy" in done.stderr
    assert "paceline status" in done.stderr
    assert not list(trial_dirs(paceline.folder / "runs" / "tuned")), "the study's own trials were not started"


def test_tune_without_a_table_says_what_to_add(paceline):
    (paceline.folder / "s.toml").write_text(STUDY.partition("[tuning]")[0])
    done = paceline("tune", "s.toml")
    assert done.returncode == 2
    assert "the study tuned has no [tuning]" in done.stderr


def test_a_dry_run_tells_size_time_and_power_and_starts_nothing(paceline):
    (paceline.folder / "s.toml").write_text(STUDY)
    done = paceline("run", "s.toml", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["num_trials"] == NUM_TUNING + 8 + 2
    assert [plan[part]["num_trials"] for part in ("tuning", "final", "repeats")] == [NUM_TUNING, 8, 2]
    assert len(plan["paces"]) == 4
    for pace in plan["paces"]:
        assert pace["num_train"] == 501
        assert 0.01 < pace["update_time_s"] < 1, "the workload sleeps 10 ms a batch"
    assert plan["tuning"]["low_s"] < plan["tuning"]["high_s"], "tuning trials may stop at their target"
    assert plan["final"]["low_s"] == plan["final"]["high_s"] > 8 * 2 * 11 * 0.01
    assert plan["time_s"]["low"] < plan["time_s"]["high"]
    assert (plan["num_seeds"], plan["num_comparisons"], plan["seeds_needed"]) == (2, 3, 7)
    assert plan["detectable"] == {"0.05": "inf", "0.1": "inf", "0.2": "inf"}
    assert not (paceline.folder / "runs").exists()


def test_a_dry_run_in_words(paceline):
    (paceline.folder / "s.toml").write_text(STUDY.partition("[tuning]")[0])
    done = paceline("run", "s.toml", "--dry-run", "--set", "seeds=[0,1,2,3,4,5,6,7]", "--set", "scales=[1]")
    assert done.returncode == 0, done.stderr
    assert "24 trials" in done.stdout
    assert "repeats of the baseline" in done.stdout
    assert "1 comparison needs 6 seeds or more, and there are 8" in done.stdout
    assert "a chance of 80 % to find" in done.stdout
    assert done.stdout.count("if seeds spread by") == 3


def test_a_dry_run_of_a_cell_that_fails_says_so(paceline):
    (paceline.folder / "s.toml").write_text(STUDY.partition("[tuning]")[0])
    done = paceline("run", "s.toml", "--dry-run", "--set", "optimizers.adam.name=optimizers.nowhere:build")
    assert done.returncode == 1
    assert "failed in its first updates" in done.stderr
