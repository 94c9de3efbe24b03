"""``paceline run`` of a small study from its file to its report; and how light the command line is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import CommandLine
from paceline.records import Start, exit_of, rank_file, read_json, read_records, trial_dirs

pytestmark = pytest.mark.timeout(180)

STUDY = """
name = "tiny"
question = "does it run?"
seeds = [0]
aa_pair = false
scales = [1, 2]
max_epochs = 1
threads_per_rank = 1
batch = { rule = "global", global_batch_size = 500 }
[workloads.logreg-mnist]
dataset = "mnist-small"
[optimizers.adam]
[optimizers.sgd]
lr = 0.01
"""


class Ran:
    def __init__(self, folder: Path) -> None:
        self.run_dir = folder / "runs" / "tiny"
        command = CommandLine(folder)
        (folder / "tiny.toml").write_text(STUDY)
        self.first = command("run", "tiny.toml", "--json")
        self.left_alive = command.end_all()
        before = self.snapshot()
        self.shrunk = command("run", "tiny.toml", "--set", "seeds=[0, 1]", "--set", "scales=[1]")
        self.changed_by_refusal = {path for path, content in self.snapshot().items() if before.get(path) != content}
        self.grown = command("run", "tiny.toml", "--set", "optimizers.adamw.lr=0.001", "--no-check")

    def snapshot(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.run_dir.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    return Ran(tmp_path_factory.mktemp("ran"))


def test_a_study_runs_from_its_file_to_its_report(ran):
    """Standard output is one JSON document, all else goes to standard error, and no bars when piped."""
    assert ran.first.returncode == 0, ran.first.stderr
    comparison = json.loads(ran.first.stdout)
    assert comparison["study"] == "tiny"
    assert len(comparison["cells"]) == 4
    assert "4 trials; logreg-mnist on mnist-small; records in " in ran.first.stderr
    assert ran.first.stderr.count(": completed\n") == 4
    assert "\x1b" not in ran.first.stderr
    assert (ran.run_dir / "report.html").stat().st_size > 10_000
    assert ran.left_alive == []


def test_every_evaluation_is_told(ran):
    """Also of trials that are over before anyone looks."""
    assert ran.first.stderr.count("validation accuracy") == 4


def test_the_run_folder_holds_what_is_needed_to_repeat_it(ran):
    assert read_json(ran.run_dir / "study.json")["optimizers"]["sgd"]["hyperparameters"]["momentum"] == 0.9
    environment = read_json(ran.run_dir / "environment.json")
    assert environment["python"] and environment["packages"]["torch"]
    for folder in trial_dirs(ran.run_dir):
        trial = read_json(folder / "trial.json")
        assert folder.name == trial["id"]
        assert len(trial["data_digest"]) >= 16
        assert exit_of(folder).status == "completed"
        start = read_records(rank_file(folder, 0))[0]
        assert isinstance(start, Start)
        assert start.num_threads == 1
        assert start.num_examples == {"train": 4500, "validation": 500, "test": 1000}


def test_the_run_folder_of_another_study_is_left_alone(ran):
    """The same name with fewer trials: refused, and not a byte in the folder changes."""
    assert ran.shrunk.returncode == 2
    assert ran.shrunk.stderr.startswith("paceline: ")
    for words in ("belongs to another study (tiny, other settings)", "holds 2 trials that this one does not"):
        assert words in ran.shrunk.stderr
    assert ran.changed_by_refusal == set()


def test_a_study_may_grow(ran):
    assert ran.grown.returncode == 0, ran.grown.stderr
    assert "6 trials, 4 of them done already" in ran.grown.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["train", "--help"], ["data", "--help"]])
def test_help_does_not_import_what_is_slow(arguments):
    code = (
        "import sys\nfrom paceline.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "slow = {'torch', 'pandas', 'scipy', 'altair', 'numpy'} & set(sys.modules)\n"
        "print(sorted(slow), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    assert "Usage" in done.stdout
    assert done.stderr == "[]\n"


def test_the_schema_is_json(paceline):
    done = paceline("schema")
    assert done.returncode == 0
    assert "optimizers" in json.loads(done.stdout)["properties"]
