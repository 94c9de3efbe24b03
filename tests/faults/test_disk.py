"""A disk that is full at each write of a run in turn, and one that can suddenly not be written any more.

The cause is named, nothing is half-written, and with room again the same command ends with the bits of a run that was
never short of any.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command_line import CommandLine
from disks import PLENTY, leave_room, read_only, tmpfs
from launch.studies import write_study
from paceline.cli import main
from paceline.records import Epoch, exit_of, rank_file, read_json, read_records, trial_dirs
from train.trials import folder_of, toy_trial

ATTEMPT = "faults.filling:attempt"
FULL = "No space left on device"
ROOMS = (0, 3, 10, 40)  # pages of 4 kB that each run finds; all before the report have it in the end

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path / "disk", f"size={PLENTY * 4}k,nr_inodes={PLENTY}") as folder:
        yield folder


def assert_whole(folder: Path) -> None:
    """Nothing is half-written: no file aside, each JSON file whole, each line of records but the last."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert not re.fullmatch(r"\..+\.\d+", path.name), f"{path} was left aside"
        if path.suffix == ".json":
            read_json(path)
        if path.suffix == ".jsonl":
            read_records(path)


def digests(folder: Path, rank: int = 0) -> list[str]:
    """Of the parameters after each epoch."""
    return [r.parameters_digest for r in read_records(rank_file(folder, rank)) if isinstance(r, Epoch)]


@pytest.mark.parametrize("short_of", ["pages", "files"])
def test_whatever_the_controlling_process_writes_does_not_fit(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], short_of: str
) -> None:
    """From the lock on: one page, or file, more each time, until ranks are started."""
    study = write_study(tmp_path, name="full", optimizers="[optimizers.sgd]", scales="[1]").read_text()
    built_in = study.replace('name = "workloads.toy:build"\n', "").replace("workloads.toy", "workloads.logreg-mnist")
    (tmp_path / "full.toml").write_text(built_in.replace("[workloads.logreg-mnist.options]", 'dataset = "mnist-small"'))
    run_dir, room = disk / "full", 0
    while True:
        leave_room(disk, **{short_of: room})
        code = main(["run", str(tmp_path / "full.toml"), "--no-check", "--runs", str(disk)])
        out, err = capsys.readouterr()
        assert (code, out) == (1, ""), err
        assert FULL in err or f"the disk that holds {run_dir} is full" in err, (room, err)
        assert "paceline: " in err
        assert str(run_dir) in err
        assert_whole(disk)
        if (run_dir / "job.json").exists() or list(run_dir.glob("logs/*")):
            break
        shutil.rmtree(run_dir, ignore_errors=True)
        room += 1
        assert room < 30
    assert room >= 4, "study, trial, environment and job were written one after another"


@pytest.mark.parametrize("short_of", ["pages", "files"])
def test_whatever_a_rank_writes_does_not_fit(disk: Path, rank_pool: Any, tmp_path: Path, short_of: str) -> None:
    """Records, checkpoints, digests and how the trial ended: one page, or file, more each time, until all fits."""
    trial = toy_trial(max_epochs=3)
    reference = folder_of(trial, tmp_path)
    assert rank_pool.run(ATTEMPT, num_ranks=1, trial=trial.model_dump(), folder=str(reference)) == [""]
    room, failed_at = 0, []
    while True:
        folder = folder_of(trial, disk)
        leave_room(disk, **{short_of: room})
        (error,) = rank_pool.run(ATTEMPT, num_ranks=1, trial=trial.model_dump(), folder=str(folder))
        leave_room(disk)
        assert_whole(folder)
        if not error:
            break
        assert FULL in error, (room, error)
        assert exit_of(folder) is None
        failed_at.append(len(digests(folder)) if rank_file(folder, 0).exists() else 0)
        assert rank_pool.run(ATTEMPT, num_ranks=1, trial=trial.model_dump(), folder=str(folder)) == [""], room
        assert digests(folder) == digests(reference), room
        assert exit_of(folder).status == "completed"
        shutil.rmtree(folder)
        room += 1
        assert room < 60
    assert digests(folder) == digests(reference)
    assert set(failed_at) == {0, 1, 2, 3}, "before the first epoch, after each, and after the last"


class Filled:
    """A study on a disk that has a little more room at each run, and at last enough."""

    def __init__(self, folder: Path, disk: Path) -> None:
        self.run_dir = disk / "full"
        command = CommandLine(folder)
        study = write_study(folder, name="full", optimizers="[optimizers.sgd]\n[optimizers.adam]", scales="[2]")
        words = ("run", study, "--no-check", "--set", "retries=0")
        self.reference = command(*words, "--json")
        self.attempts, self.sound = [], []
        for room in ROOMS:
            leave_room(disk, pages=room)
            self.attempts.append(command(*words, "--runs", disk, deadline_s=200))
            assert_whole(disk)
            self.sound.append({path.parent: exit_of(path.parent) for path in disk.glob("full/*/exit.json")})
        leave_room(disk)
        self.last = command(*words, "--runs", disk, "--json")
        self.left = command.end_all()
        self.digests = {folder.name: [digests(folder, rank) for rank in (0, 1)] for folder in trial_dirs(self.run_dir)}
        place = folder / "runs" / "full"
        self.expected = {folder.name: [digests(folder, rank) for rank in (0, 1)] for folder in trial_dirs(place)}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    folder = tmp_path_factory.mktemp("filled")
    with tmpfs(folder / "disk", f"size={PLENTY * 4}k,nr_inodes={PLENTY}") as disk:
        yield Filled(folder, disk)


def test_each_run_names_the_full_disk_and_ends_with_1(filled: Filled) -> None:
    for room, done in zip(ROOMS, filled.attempts, strict=True):
        assert done.returncode == 1, (room, done.stderr)
        assert "Traceback" not in done.stderr, (room, done.stderr)
        assert FULL in done.stderr or "is full; make room" in done.stderr, (room, done.stderr)


def test_with_room_the_same_command_ends_with_the_same_bits(filled: Filled) -> None:
    assert filled.last.returncode == 0, filled.last.stderr
    assert filled.left == []
    assert filled.digests == filled.expected
    told, expected = (json.loads(done.stdout)["cells"] for done in (filled.last, filled.reference))
    for one, other in zip(told, expected, strict=True):
        for field in ("updates_to_target", "final_validation", "test", "num_reached"):
            assert one[field] == other[field], field


def test_no_trial_that_was_over_is_lost(filled: Filled) -> None:
    for before, after in zip(filled.sound, [*filled.sound[1:], filled.sound[-1]], strict=True):
        for folder, how in before.items():
            if how is not None and how.status == "completed":
                assert after[folder] == how


def test_a_report_and_exports_that_do_not_fit_leave_no_part_of_a_file(
    filled: Filled, capsys: pytest.CaptureFixture[str]
) -> None:
    page = filled.run_dir / "report.html"
    before = page.read_bytes()
    for name in ("report", "export"):
        leave_room(filled.run_dir.parent, pages=1)
        words = [name, str(filled.run_dir), *(["--to", "csv"] if name == "export" else [])]
        assert main(words) == 1
        err = capsys.readouterr().err
        assert err.startswith("paceline: "), err
        assert FULL in err
        assert str(filled.run_dir) in err
        leave_room(filled.run_dir.parent)
    assert page.read_bytes() == before
    assert_whole(filled.run_dir)


def test_a_disk_that_becomes_read_only_in_mid_run_is_named_and_the_run_goes_on_later(tmp_path: Path) -> None:
    """As kernels do when a disk fails: what is open may still be written, nothing else."""
    command, run_dir = CommandLine(tmp_path), tmp_path / "runs" / "frozen"
    study = write_study(
        tmp_path, name="frozen", optimizers="[optimizers.sgd]", scales="[2]", max_epochs=4, toy="train_sleep_s = 0.03"
    )
    words = ("run", study, "--no-check", "--set", 'checkpoint_every="epoch"')
    with tmpfs(tmp_path / "probe", "size=16k"):  # skips where nothing can be mounted
        process = command.start(*words)
    deadline = time.monotonic() + 60
    while not any(digests(path.parent) for path in run_dir.glob("*/rank-0000.jsonl")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    with read_only(run_dir):
        done = command.finish(process)
        assert command.end_all() == []
        status = command("status", run_dir)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Read-only file system" in done.stderr
    assert status.returncode == 0, status.stderr
    assert_whole(run_dir)
    last = command(*words)
    assert last.returncode == 0, last.stderr
    (folder,) = trial_dirs(run_dir)
    reference = command(*words, "--runs", tmp_path / "reference")
    assert reference.returncode == 0, reference.stderr
    assert digests(folder) == digests(tmp_path / "reference" / "frozen" / folder.name)
    assert command.end_all() == []
