"""Checkpoints: whole or passed over, two kept, loaded without running code; a resumed trial ends with the same bits."""

from __future__ import annotations

import io
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from paceline.cli.progress import PlainWatcher
from paceline.errors import DataError, PacelineError, UsageError
from paceline.records import Epoch, Evaluation, Resumed, Start, rank_file, read_records
from train.trials import RUN, folder_of, toy_trial

torch = pytest.importorskip("torch")
from paceline.strategies.ranks import Ranks  # noqa: E402 - after torch
from paceline.train import checkpoint, interval  # noqa: E402
from paceline.train.progress import generators, seed_generators, set_generators  # noqa: E402


def save(folder: Path, *updates: int) -> list[Path]:
    return [checkpoint.save(folder, {"update": torch.tensor(n)}, num_updates=n) for n in updates]


def test_the_newest_is_loaded_and_two_are_kept(tmp_path):
    save(tmp_path, 9, 10, 11, 1000)
    state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert state["update"] == 1000
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [f"update-{n:09d}.pt{end}" for n in (11, 1000) for end in ("", ".sha256")]


def test_no_checkpoint_is_no_error(tmp_path):
    assert checkpoint.load_newest(tmp_path) is None


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "no digest"])
def test_a_damaged_newest_one_is_passed_over(tmp_path, damage):
    _, newest = save(tmp_path, 1, 2)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "no digest":
        newest.with_name(newest.name + ".sha256").unlink()
    else:
        newest.write_bytes({"flip": bytes(content), "cut": content[:-10], "empty": b""}[damage])
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.state["update"] == 1
    why = "has no digest" if damage == "no digest" else "is not what was written"
    assert found.passed_over == (f"update-000000002.pt {why}",)


def test_what_was_passed_over_does_not_count_among_those_kept(tmp_path):
    """Nor does what a killed process left half written, or a digest without a checkpoint."""
    *_, newest = save(tmp_path, 1, 2, 9)
    newest.write_bytes(b"nonsense")
    unfinished = newest.with_name(".update-000000010.pt.4711")
    unfinished.write_bytes(b"half")
    newest.with_name("update-000000010.pt.sha256").write_text("of nothing")
    save(tmp_path, 3)
    kept = sorted(path.name for path in newest.parent.iterdir())
    assert kept == [f"update-{n:09d}.pt{end}" for n in (2, 3) for end in ("", ".sha256")]


def test_a_disk_that_gives_back_something_else_costs_no_older_checkpoint(tmp_path, monkeypatch):
    """The digest is that of what was to be written, not of what was found."""
    save(tmp_path, 1, 2)
    flush = os.fsync

    def flip(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.name.startswith(".update-000000003.pt") and ".sha256" not in path.name:
            os.pwrite(descriptor, b"\xff\x00", 100)
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", flip)
    with pytest.raises(PacelineError, match=r"update-000000003\.pt is not what was written when it is read back"):
        save(tmp_path, 3)
    monkeypatch.undo()
    assert [path.name for path in sorted((tmp_path / "checkpoints").glob("*.pt"))] == [
        f"update-{n:09d}.pt" for n in (1, 2)
    ]
    assert checkpoint.load_newest(tmp_path)["update"] == 2


def test_all_damaged_is_an_error_that_says_what_to_do(tmp_path):
    for path in save(tmp_path, 1, 2):
        path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"every checkpoint in .*checkpoints is damaged; remove that folder"):
        checkpoint.load_newest(tmp_path)


def test_a_newer_checkpoint_is_refused_by_its_version(tmp_path, monkeypatch):
    newer = checkpoint.SCHEMA_VERSION + 1
    monkeypatch.setattr(checkpoint, "SCHEMA_VERSION", newer)
    save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(DataError, match=f"schema version {newer}, this paceline reads up to {newer - 1}: upgrade"):
        checkpoint.load_newest(tmp_path)


class Poison:
    def __reduce__(self):
        return os.mkdir, ("poisoned",)


def test_loading_a_checkpoint_runs_no_code(tmp_path, monkeypatch):
    """``weights_only``: a pickle that calls a function is refused, even with a digest that agrees."""
    monkeypatch.chdir(tmp_path)
    checkpoint.save(tmp_path, {"poison": Poison()}, num_updates=1)
    with pytest.raises(DataError, match=r"update-000000001.pt is no checkpoint of paceline: .*[Ww]eights"):
        checkpoint.load_newest(tmp_path)
    assert not Path("poisoned").exists()


DIE_IN_SAVE = """
import os, sys, torch
from pathlib import Path
from paceline.train import checkpoint
checkpoint.save(Path(sys.argv[1]), {"update": torch.tensor(1)}, num_updates=1)
checkpoint.os.fsync = lambda _: os._exit(9)  # killed before the rename
checkpoint.save(Path(sys.argv[1]), {"update": torch.tensor(2)}, num_updates=2)
"""


def test_dying_while_saving_leaves_the_one_before(tmp_path):
    done = subprocess.run([sys.executable, "-c", DIE_IN_SAVE, str(tmp_path)], timeout=60, check=False)
    assert done.returncode == 9
    state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert state["update"] == 1


def test_a_disk_that_is_full_keeps_the_one_before_and_is_named(tmp_path):
    """And the space of what did not fit is free again, for a word of why."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", disk]
    if (mounted := subprocess.run(command, capture_output=True, text=True, check=False)).returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    try:
        save(disk, 1)
        with pytest.raises(PacelineError, match=r"update-000000002\.pt cannot be written: No space left on device"):
            checkpoint.save(disk, {"update": torch.zeros(100_000)}, num_updates=2)
        (disk / "word").write_bytes(b"x" * 60_000)
        state = checkpoint.load_newest(disk)
        assert state is not None
        assert state["update"] == 1
        assert len(list((disk / "checkpoints").iterdir())) == 2
    finally:
        subprocess.run(["umount", disk], check=True)


def leave(pool, trial, folder, *, after: int) -> None:
    """Train up to the checkpoint after so many updates."""
    asked = trial.model_dump()
    ended = pool.run(PART, num_ranks=trial.num_ranks, trial=asked, folder=str(folder), leave_after=after)
    assert ended == [None] * trial.num_ranks


CASES = {
    "adam": ({"name": "adam"}, 1),
    "sgd with momentum": ({"name": "sgd", "momentum": 0.9}, 2),
    "lbfgs": ({"name": "lbfgs", "max_iter": 4, "line_search": "strong_wolfe"}, 1),
    "adamw": ({"name": "adamw"}, 3),
}


LEFT_AFTER_EPOCHS = 22  # updates: two epochs of 501 examples, 50 at once
PART = "train.interrupted:run"


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_trial_ends_with_the_same_bits(rank_pool, tmp_path, case):
    """Left after epoch 2 of 4 with records beyond it, then continued; the records tell of one training only."""
    optimizer, num_ranks = CASES[case]
    whole = toy_trial(num_ranks=num_ranks, optimizer=optimizer, max_epochs=4, evaluate_every=200)
    straight, resumed = folder_of(whole, tmp_path), folder_of(whole, tmp_path)
    expected = rank_pool.run(RUN, num_ranks=num_ranks, trial=whole.model_dump(), folder=str(straight))
    leave(rank_pool, whole, resumed, after=LEFT_AFTER_EPOCHS)
    for rank in range(num_ranks):  # records of a third epoch that was lost with its ranks
        path = rank_file(resumed, rank)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lost = {**next(line for line in lines if line["kind"] == "epoch"), "epoch": 2, "num_updates": 33}
        path.write_text(path.read_text() + json.dumps({**lost, "parameters_digest": "lost"}) + '\n{"kind": "ev')
    results = rank_pool.run(RUN, num_ranks=num_ranks, trial=whole.model_dump(), folder=str(resumed))

    assert [r["end"]["parameters_digest"] for r in results] == [r["end"]["parameters_digest"] for r in expected]
    for field in ("num_updates", "num_samples", "num_gradient_evaluations", "bytes_sent", "num_collectives", "test"):
        assert results[0]["end"][field] == expected[0]["end"][field], field
    for rank in range(num_ranks):
        records, reference = (read_records(rank_file(folder, rank)) for folder in (resumed, straight))
        assert [r.epoch for r in records if isinstance(r, Epoch)] == [0, 1, 2, 3]
        assert [r.num_samples for r in records if isinstance(r, Evaluation)] == [
            r.num_samples for r in reference if isinstance(r, Evaluation)
        ]
        assert [r.parameters_digest for r in records if isinstance(r, Epoch)] == [
            r.parameters_digest for r in reference if isinstance(r, Epoch)
        ]
        assert [r.num_updates for r in records if isinstance(r, Resumed)] == [22]
        assert len([r for r in records if isinstance(r, Start)]) == 2
        assert len([r for r in records if r.kind == "end"]) == 1


def test_a_checkpoint_of_the_first_schema_is_gone_on_from(rank_pool, tmp_path, monkeypatch):
    """It had rank 0's totals and traffic for all, and was written after whole epochs only."""
    whole = toy_trial(num_ranks=2, optimizer={"name": "adam"}, max_epochs=3)
    straight, resumed = folder_of(whole, tmp_path), folder_of(whole, tmp_path)
    expected = rank_pool.run(RUN, num_ranks=2, trial=whole.model_dump(), folder=str(straight))
    leave(rank_pool, whole, resumed, after=LEFT_AFTER_EPOCHS)
    state = checkpoint.load_newest(resumed)
    assert state is not None
    first = state.pop("ranks")[0]
    monkeypatch.setattr(checkpoint, "SCHEMA_VERSION", 1)
    del state["schema_version"]
    old = {**state, "totals": first["totals"], "traffic": first["traffic"]}
    checkpoint.save(resumed, old, num_updates=state["progress"]["num_updates"])
    results = rank_pool.run(RUN, num_ranks=2, trial=whole.model_dump(), folder=str(resumed))
    for field in ("parameters_digest", "num_updates", "bytes_sent", "test"):
        assert [r["end"][field] for r in results] == [r["end"][field] for r in expected], field
    assert [r.num_updates for r in read_records(rank_file(resumed, 0)) if isinstance(r, Resumed)] == [22]


def test_a_checkpoint_of_the_second_schema_is_gone_on_from(rank_pool, tmp_path, monkeypatch):
    """It had torch's generators only."""
    whole = toy_trial(optimizer={"name": "adam"}, max_epochs=2, toy={"dropout": 0.3})
    straight, resumed = folder_of(whole, tmp_path), folder_of(whole, tmp_path)
    expected = rank_pool.run(RUN, num_ranks=1, trial=whole.model_dump(), folder=str(straight))
    leave(rank_pool, whole, resumed, after=15)
    state = checkpoint.load_newest(resumed)
    for own in state["ranks"]:
        own["generators"] = own["generators"]["torch"]
    del state["schema_version"]
    monkeypatch.setattr(checkpoint, "SCHEMA_VERSION", 2)
    checkpoint.save(resumed, state, num_updates=15)
    results = rank_pool.run(RUN, num_ranks=1, trial=whole.model_dump(), folder=str(resumed))
    assert results[0]["end"]["parameters_digest"] == expected[0]["end"]["parameters_digest"]


def test_generators_come_back_from_a_checkpoint():
    """Those of torch, python and numpy, also between the two halves of a pair of normal numbers."""

    def draws():
        return [torch.rand(3).tolist(), random.gauss(0, 1), random.gauss(0, 1), *np.random.normal(size=2)]

    cpu = torch.device("cpu")
    before = generators(cpu)
    try:
        seed_generators(1, epoch=2, rank=3)
        random.gauss(0, 1)
        np.random.normal()
        file = io.BytesIO()
        torch.save(generators(cpu), file)
        expected = draws()
        assert draws() != expected
        file.seek(0)
        set_generators(torch.load(file, weights_only=True), cpu)
        assert draws() == expected
    finally:
        set_generators(before, cpu)


def test_each_epoch_and_rank_draws_its_own():
    """And the three generators are no copies of each other."""
    before = generators(torch.device("cpu"))
    try:
        seen = set()
        for epoch, rank in ((0, 0), (0, 1), (1, 0)):
            seed_generators(5, epoch=epoch, rank=rank)
            seen |= {torch.rand(()).item(), random.gauss(0, 1), np.random.random()}
        assert len(seen) == 9
    finally:
        set_generators(before, torch.device("cpu"))


@pytest.mark.runs
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_model_that_draws_from_python_and_numpy_is_resumed_within_an_epoch(rank_pool, tmp_path, num_ranks):
    settings = {"name": "train.interrupted:build", "options": {"dropout": 0.3}}
    whole = toy_trial(num_ranks=num_ranks, optimizer={"name": "adam"}, workloads={"toy": settings})
    assert_resumed_alike(rank_pool, whole, tmp_path, after=15)


@pytest.mark.runs
def test_augmented_examples_are_the_same_after_a_resume_within_an_epoch(rank_pool, tmp_path):
    """The thread that gathers them is ahead of training; its draws depend on seed and epoch alone."""
    digits = {"name": "logreg-mnist", "dataset": "mnist-small", "augmentation": "crop"}
    whole = toy_trial(num_ranks=2, global_batch_size=400, workloads={"toy": digits})
    whole = whole.model_copy(update={"dataset": "mnist-small"})
    assert_resumed_alike(rank_pool, whole, tmp_path, after=17)


def assert_resumed_alike(pool, trial, tmp_path, *, after):
    num_ranks, asked = trial.num_ranks, trial.model_dump()
    straight, resumed = folder_of(trial, tmp_path), folder_of(trial, tmp_path)
    expected = pool.run(PART, num_ranks=num_ranks, trial=asked, folder=str(straight))
    leave(pool, trial, resumed, after=after)
    results = pool.run(PART, num_ranks=num_ranks, trial=asked, folder=str(resumed))
    for one, other in zip(results, expected, strict=True):
        for field in ("parameters_digest", "num_samples", "bytes_sent", "test"):
            assert one[field] == other[field], field


def test_a_damaged_newest_checkpoint_is_named_in_the_records_and_said(rank_pool, tmp_path, capsys):
    trial = toy_trial()
    folder = folder_of(trial, tmp_path)
    asked = trial.model_dump()
    rank_pool.run(PART, num_ranks=1, trial=asked, folder=str(folder), leave_after=15, every="4 updates")
    (folder / "checkpoints" / "update-000000015.pt").write_bytes(b"torn")
    (end,) = rank_pool.run(PART, num_ranks=1, trial=asked, folder=str(folder))
    assert end["num_updates"] == 22
    (resumed,) = [r for r in read_records(rank_file(folder, 0)) if isinstance(r, Resumed)]
    assert (resumed.num_updates, resumed.passed_over) == (12, ("update-000000015.pt is not what was written",))
    PlainWatcher().recorded(trial, resumed)
    assert "went on after update 12: update-000000015.pt is not what was written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seeds": [1]}, r"update-000000015.pt is of the trial toy_opt_single_1x1_seed0_\w+, not of toy_opt_.*seed1_"),
        (None, r"does not fit this trial: 0.weight is missing there, and of shape \(8, 6\) in the model; was the code"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_with_what_to_do(rank_pool, tmp_path, change, said):
    """Of another trial, or of the same one with another model in it; the folder to remove is named."""
    trial = toy_trial(optimizer={"name": "adam"})
    folder = folder_of(trial, tmp_path)
    leave(rank_pool, trial, folder, after=15)
    if change is None:
        state = checkpoint.load_newest(folder)
        del state["schema_version"]
        state["model"] = {f"1.{name.partition('.')[2]}": value for name, value in state["model"].items()}
        checkpoint.save(folder, state, num_updates=15)
    else:
        trial = toy_trial(optimizer={"name": "adam"}, **change)
    (answer,) = rank_pool.run(PART, num_ranks=1, trial=trial.model_dump(), folder=str(folder))
    assert re.search(said, answer), answer
    assert f"emove {folder / 'checkpoints'} to begin" in answer


EVERY = {  # updates after which there is a checkpoint, in two epochs of 11
    "4 updates": [4, 8, 12, 16, 20, 22],
    "11 updates": [11, 22],
    "epoch": [11, 22],
    "auto": [22],  # not a second of training
    "1000 s": [22],
}


@pytest.mark.parametrize("every", EVERY)
def test_checkpoints_are_written_when_they_are_to_be(rank_pool, tmp_path, every):
    trial = toy_trial(num_ranks=2)
    folder = folder_of(trial, tmp_path)
    rank_pool.run(PART, num_ranks=2, trial=trial.model_dump(), folder=str(folder), every=every, kept=99)
    assert written(folder) == EVERY[every]
    last = [r for r in read_records(rank_file(folder, 0)) if isinstance(r, Evaluation)][-1]
    assert (last.checkpoint_time_s > 0) == (len(EVERY[every]) > 1), "accounted for by itself"


def written(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("update-")) for path in (folder / "checkpoints").glob("*.pt"))


@pytest.mark.runs
@pytest.mark.parametrize("strategy", ["ddp", "local-sgd"])
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_ranks_agree_on_checkpoints_by_the_clock_within_an_epoch(rank_pool, tmp_path, num_ranks, strategy):
    """Also where ranks are apart between meetings. They change no bit, nor what the records say but of times."""
    strategies = {"settled": {"name": "local-sgd", "period": 7}} if strategy == "local-sgd" else [strategy]
    slow, quick = (
        toy_trial(
            num_ranks=num_ranks,
            max_epochs=2,
            strategies=strategies,
            global_batch_size=2048,  # that each update is fetched by itself
            toy={"num_train": 40 * 2048 + 1} | options,
        ).model_dump()
        for options in ({"train_sleep_s": 0.02, "sleep_rank": 0}, {})
    )
    folders = [tmp_path / name for name in ("slow", "quick")]
    for folder in folders:
        folder.mkdir()
    began = time.monotonic()  # of 1.64 s of sleep, at the least
    ends = [
        rank_pool.run(PART, num_ranks=num_ranks, trial=trial, folder=str(folder), every=every, kept=99)
        for trial, folder, every in zip((slow, quick), folders, ("0.25 s", "auto"), strict=True)
    ]
    *between, last = written(folders[0])
    assert last == 82
    assert 2 <= len(between) <= 1 + (time.monotonic() - began) / 0.25
    assert all(n % 7 == 0 or n % 41 == 0 for n in between) or num_ranks == 1 or strategy == "ddp"
    for one, other in zip(*ends, strict=True):
        for field in ("parameters_digest", "num_collectives", "test"):
            assert one[field] == other[field], field


def test_writing_takes_a_hundredth_of_the_time_of_training_at_most(monkeypatch):
    """What the last one took decides when the next is due; the first is due after a second."""
    now = [0.0]
    monkeypatch.setattr(interval.time, "monotonic", lambda: now[0])
    due = interval.Interval(interval.Keeping(), Ranks(), "trial")
    assert [due.wants_epoch(seconds) for seconds in (0.5, 0.99, 1.0)] == [False, False, True]
    due.written(num_updates=9, train_time_s=1.0, cost_s=0.3)
    assert [due.wants_epoch(seconds) for seconds in (2.0, 30.9, 31.0)] == [False, False, True]
    found = []
    for now[0] in (599.0, 600.0):
        found.append(due.is_due(10, 11))
    assert found == [False, True], "where epochs are longer than ten minutes"
    due.written(num_updates=10, train_time_s=600.0, cost_s=20.0)
    for now[0] in (2599.0, 2600.0):
        found.append(due.is_due(11, 12))
    assert found[2:] == [False, True]


@pytest.mark.parametrize("every", ["auto", "epoch", "1 update", "500 updates", "600 s", "0.5 s"])
def test_intervals_are_settings_that_change_no_id(every):
    assert toy_trial(checkpoint_every=every, checkpoints_kept=5).id == toy_trial().id


@pytest.mark.parametrize(
    "every", ["", "never", "0 updates", "0 s", "0.0 s", "-1 s", "5", "5 minutes", "1e3 s", "epoch "]
)
def test_another_interval_is_refused_with_what_is_allowed(every):
    with pytest.raises(UsageError, match=r"checkpoint_every: give 'auto', 'epoch', a number of updates such as"):
        toy_trial(checkpoint_every=every)


def test_one_checkpoint_is_too_few():
    with pytest.raises(UsageError, match=r"checkpoints_kept: .*greater than or equal to 2"):
        toy_trial(checkpoints_kept=1)
