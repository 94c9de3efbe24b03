"""What cannot be done ends with 2 (wrong use) or 1 (it failed), one message, and nothing half-written."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from disks import tmpfs
from paceline.data import catalog
from paceline.records import exit_of, trial_dirs

pytestmark = pytest.mark.timeout(180)

TRAIN = ("train", "--epochs", "1")
CONTESTANTS = {"--workload": "logreg-mnist", "--optimizer": "adam"}
STUDY = """
name = "{name}"
seeds = [0]
aa_pair = false
max_epochs = 1
threads_per_rank = 1
batch = {{ rule = "global", global_batch_size = 500 }}
[workloads.{workload}]
{more}
[optimizers.sgd]
"""


def write_study(folder: Path, name: str, workload: str = "logreg-mnist", more: str = "") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(STUDY.format(name=name, workload=workload, more=more))
    return path


def trial_words() -> list[str]:
    return [*TRAIN, *(word for pair in CONTESTANTS.items() for word in pair)]


def check(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("paceline: "), done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


WRONG = {
    "unknown workload": (("--workload", "logreg-mist"), ["unknown workload 'logreg-mist': did you mean 'logreg-mn"]),
    "unknown optimizer": (("--optimizer", "adan"), ["unknown optimizer 'adan'", "did you mean 'adam'?"]),
    "unknown strategy": (("--strategy", "dpp"), ["unknown strategy 'dpp': did you mean 'ddp'?"]),
    "no ranks": (("--ranks", "0"), ["Input should be greater than 0"]),
    "fewer ranks than none": (("--ranks", "-2"), ["a scale is a number of ranks"]),
    "single on two ranks": (("--ranks", "2", "--strategy", "single"), ["single takes exactly 1"]),
    "batch of 0": (("--global-batch-size", "0"), ["global_batch_size: Input should be greater than 0"]),
    "batch below ranks": (("--ranks", "2", "--global-batch-size", "1"), ["smaller than the 2 ranks"]),
    "unknown setting": (("--set", "optimizer.learning_rate=3"), ["optimizers.adam.learning_rate: unknown key"]),
    "setting without value": (("--set", "max_epochs"), ["give KEY=VALUE"]),
    "wrong data set": (("--set", "workload.dataset=imagenet32"), ["cannot use the data set 'imagenet32'"]),
    "options it has not": (("--set", "workload.options.a=1"), ["takes no options (given: a)"]),
    "several hosts": (("--set", 'scales=["2x1"]'), ["needs 2 hosts"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_use_of_train_ends_with_2(paceline, case):
    """The message names the mistake and what is allowed, and no folder is made."""
    arguments, words = WRONG[case]
    given = CONTESTANTS | dict(zip(arguments[::2], arguments[1::2], strict=True))
    check(paceline(*TRAIN, *(word for pair in given.items() for word in pair)), 2, *words)
    assert not (paceline.folder / "runs").exists()


def test_a_workload_of_your_own_that_cannot_be_built_is_named(paceline):
    check(paceline("train", "--workload", "no.such:thing", "--optimizer", "sgd"), 2, "no.such", "PYTHONPATH")
    assert not (paceline.folder / "runs").exists()


def test_a_missing_study_file_is_named(paceline):
    check(paceline("run", "nowhere.toml"), 2, "nowhere.toml cannot be read: No such file")


def test_a_folder_of_foreign_files_is_left_alone(paceline):
    study = write_study(paceline.folder, "mine")
    folder = paceline.folder / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    check(paceline("run", study), 2, "holds no run of paceline but thesis.txt", "choose another --runs DIR")
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == ["thesis.txt"]


def test_a_file_where_the_run_folder_should_be_is_named(paceline):
    (paceline.folder / "runs").write_text("")
    check(paceline(*trial_words()), 1, "runs")


def test_a_disk_that_is_full_before_anything_runs(paceline):
    """One message; the study can be run once there is room."""
    study = write_study(paceline.folder, "full")
    with tmpfs(paceline.folder / "disk", "size=16k") as disk:
        (disk / "filler").write_bytes(b"x" * 8192)
        check(
            paceline("run", study, "--runs", disk, "--no-check"),
            1,
            "cannot be used: No space left on device",
            "make room",
        )
        assert not list(disk.rglob("trial.json"))
        (disk / "filler").unlink()


def test_a_disk_that_fills_up_while_training(paceline):
    """It is said that the disk is full; no trial is taken for done; the same command goes on after making room."""
    study = write_study(paceline.folder, "filling")
    with tmpfs(paceline.folder / "disk", "size=100k") as disk:  # room for records, not for a checkpoint
        done = paceline("run", study, "--runs", disk, "--no-check")
        assert done.returncode == 1
        assert "Traceback" not in done.stderr, done.stderr
        assert "cannot be written: No space left on device; make room" in done.stderr
        assert not [folder for folder in trial_dirs(disk / "filling") if (how := exit_of(folder)) and not how.cause]
        subprocess.run(["mount", "-o", "remount,size=10m", disk], check=True)
        again = paceline("run", study, "--runs", disk, "--no-check")
        assert again.returncode == 0, again.stderr
        assert [exit_of(folder).status for folder in trial_dirs(disk / "filling")] == ["completed"]


def test_a_read_only_folder_is_named(paceline):
    """By a read-only mount, since mode bits do not bind root."""
    with tmpfs(paceline.folder / "disk", "size=1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        check(paceline(*trial_words(), "--runs", disk), 1, "Read-only file system", "choose another by --runs DIR")


def test_data_that_vanished_between_two_runs_is_named(paceline):
    """Nothing of the run is touched."""
    embedded = Path(catalog.__file__).parent / "embedded" / "mnist-small"
    data = paceline.folder / "data"
    shutil.copytree(embedded, data / "mnist")
    study = write_study(paceline.folder, "vanished", more='dataset = "mnist"')
    first = paceline("run", study, "--data-dir", data, "--no-check")
    assert first.returncode == 0, first.stderr
    shutil.rmtree(data)
    check(paceline("run", study, "--data-dir", data), 1, f"{data}: no such folder, though --data-dir names it")
    data.mkdir()
    check(paceline("run", study, "--data-dir", data), 1, "data set 'mnist' not found. Looked in:", str(data))
    (folder,) = trial_dirs(paceline.folder / "runs" / "vanished")
    assert exit_of(folder).status == "completed"


def test_paceline_data_that_points_nowhere_is_named(paceline):
    done = paceline(*trial_words(), PACELINE_DATA="/no/such/place")
    check(done, 1, "/no/such/place: no such folder, though PACELINE_DATA names it")
    assert not (paceline.folder / "runs").exists()
