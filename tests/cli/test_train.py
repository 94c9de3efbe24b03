"""``paceline train``, and the same trial under the user's own torchrun."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from command_line import CommandLine
from paceline.records import Epoch, Start, rank_file, read_json, read_records, trial_dirs

pytestmark = pytest.mark.timeout(240)

TRIAL = ("--workload", "logreg-mnist", "--optimizer", "adam", "--epochs", "1", "--global-batch-size", "500")
STABLE_KEYS = {
    "schema_version", "trial", "status", "num_ranks", "train_time_s", "examples_per_s", "final_validation_accuracy",
    "final_test_accuracy", "parameters_digest", "run_dir",
}  # fmt: skip


class Trained:
    """One trial on one rank, twice, on two ranks, and on two ranks under torchrun."""

    def __init__(self, folder: Path) -> None:
        self.command = CommandLine(folder)
        self.first = self.command("train", *TRIAL, "--json")
        self.files = self.snapshot()
        self.second = self.command("train", *TRIAL, "--json", "--set", "threads_per_rank=1")
        self.two = self.command("train", *TRIAL, "--ranks", "2", "--threads", "1", "--json")
        torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "paceline.train")
        self.torchrun = self.command(*TRIAL, "--set", "threads_per_rank=1", "--json", program=torchrun)
        self.files_after = self.snapshot()

    def snapshot(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.command.folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return Trained(tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize(("which", "num_ranks"), [("first", 1), ("second", 1), ("two", 2), ("torchrun", 2)])
def test_standard_output_is_one_json_line_with_the_stable_keys(trained, which, num_ranks):
    done = getattr(trained, which)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    result = json.loads(done.stdout)
    assert set(result) >= STABLE_KEYS
    assert (result["status"], result["num_ranks"], result["schema_version"]) == ("completed", num_ranks, 1)
    assert result["train_time_s"] > 0
    assert result["examples_per_s"] == pytest.approx(4500 / result["train_time_s"])
    assert 0.5 < result["final_validation_accuracy"] <= 1
    assert 0.5 < result["final_test_accuracy"] <= 1
    assert [folder.name for folder in trial_dirs(Path(result["run_dir"]).parent)] == [result["trial"]]


def test_torchrun_gives_the_same_bits(trained):
    two, torchrun = (json.loads(done.stdout) for done in (trained.two, trained.torchrun))
    assert torchrun["parameters_digest"] == two["parameters_digest"]
    assert torchrun["trial"] == two["trial"]


@pytest.mark.parametrize("which", ["second", "two", "torchrun"])
def test_threads_are_those_asked_for(trained, which):
    """However they were asked for."""
    folder = Path(json.loads(getattr(trained, which).stdout)["run_dir"])
    start = read_records(rank_file(folder, 0))[0]
    assert isinstance(start, Start)
    assert start.num_threads == read_json(folder / "trial.json")["threads_per_rank"] == 1


def test_ranks_agree_with_one_rank(trained):
    one, two = (json.loads(done.stdout) for done in (trained.second, trained.two))
    assert one["final_test_accuracy"] == pytest.approx(two["final_test_accuracy"], abs=0.002)


def test_another_train_overwrites_nothing(trained):
    """Each has a run folder of its own; what the first wrote is still there, byte for byte."""
    folders = {Path(json.loads(done.stdout)["run_dir"]).parent for done in (
        trained.first, trained.second, trained.two, trained.torchrun
    )}  # fmt: skip
    assert len(folders) == 4
    for path, content in trained.files.items():
        assert trained.files_after[path] == content, path


def test_torchrun_writes_the_same_kind_of_run_folder(trained):
    """A report can be made of it as of any other."""
    folder = Path(json.loads(trained.torchrun.stdout)["run_dir"])
    assert {path.name for path in folder.iterdir()} >= {"trial.json", "exit.json", "rank-0000.jsonl", "rank-0001.jsonl"}
    done = trained.command("report", folder.parent, "--json", "--no-html")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_planned"] == 1


def test_without_torchrun_the_module_says_what_to_do(paceline):
    done = paceline(*TRIAL, program=(sys.executable, "-m", "paceline.train"))
    assert done.returncode == 2
    assert done.stderr == "paceline: start this by torchrun, or use `paceline train`\n"


@pytest.mark.runs
def test_a_trial_goes_on_at_another_number_of_ranks(trained, tmp_path):
    """Where it stopped: the second epoch is all that is left."""
    left = Path(json.loads(trained.second.stdout)["run_dir"])
    words = ("--epochs", "2", "--ranks", "2", "--set", "threads_per_rank=1", "--json")
    done = CommandLine(tmp_path)("train", *TRIAL[:4], *TRIAL[6:], *words, "--from", left.parent)
    assert done.returncode == 0, done.stderr
    start, *_ = records = read_records(rank_file(Path(json.loads(done.stdout)["run_dir"]), 0))
    assert (start.continues, start.num_epochs_before) == (left.name, 1)
    assert [record.epoch for record in records if isinstance(record, Epoch)] == [1]


@pytest.mark.parametrize(
    ("folder", "options", "says"),
    [(".", (), "holds no trial"), ("nothing", (), "holds no trial"), (".", ("--cluster", "x"), "leave --cluster out")],
)
def test_what_there_is_nothing_to_go_on_with_is_refused(paceline, folder, options, says):
    if options:
        (paceline.folder / "x").write_text("localhost\n")
    done = paceline("train", *TRIAL, "--from", folder, *options)
    assert done.returncode == 2
    assert says in done.stderr
    assert not list(paceline.folder.glob("runs/*/study.json"))
