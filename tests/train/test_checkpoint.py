"""Checkpoints: whole or passed over, two kept, loaded without running code; a resumed trial ends with the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paceline.errors import DataError, PacelineError
from paceline.records import Epoch, Evaluation, Resumed, Start, rank_file, read_records
from train.trials import RUN, folder_of, toy_trial

torch = pytest.importorskip("torch")
from paceline.train import checkpoint  # noqa: E402 - after torch


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
    state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert state["update"] == 1


def test_all_damaged_is_an_error_that_says_what_to_do(tmp_path):
    for path in save(tmp_path, 1, 2):
        path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"every checkpoint in .*checkpoints is damaged; remove that folder"):
        checkpoint.load_newest(tmp_path)


def test_a_newer_checkpoint_is_refused_by_its_version(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SCHEMA_VERSION", 3)
    save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(DataError, match="schema version 3, this paceline reads up to 2"):
        checkpoint.load_newest(tmp_path)


class Poison:
    def __reduce__(self):
        return os.mkdir, ("poisoned",)


def test_loading_a_checkpoint_runs_no_code(tmp_path, monkeypatch):
    """``weights_only``: a pickle that calls a function is refused, even with a digest that agrees."""
    monkeypatch.chdir(tmp_path)
    checkpoint.save(tmp_path, {"poison": Poison()}, num_updates=1)
    with pytest.raises(Exception, match=r"[Ww]eights"):
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


CASES = {
    "adam": ({"name": "adam"}, 1),
    "sgd with momentum": ({"name": "sgd", "momentum": 0.9}, 2),
    "lbfgs": ({"name": "lbfgs", "max_iter": 4, "line_search": "strong_wolfe"}, 1),
    "adamw": ({"name": "adamw"}, 3),
}


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_trial_ends_with_the_same_bits(rank_pool, tmp_path, case):
    """Left after epoch 2 of 4 with records beyond it, then continued; the records tell of one training only."""
    optimizer, num_ranks = CASES[case]
    whole, cut = (
        toy_trial(num_ranks=num_ranks, optimizer=optimizer, max_epochs=epochs, evaluate_every=200) for epochs in (4, 2)
    )
    straight, resumed = folder_of(whole, tmp_path), folder_of(whole, tmp_path)
    expected = rank_pool.run(RUN, num_ranks=num_ranks, trial=whole.model_dump(), folder=str(straight))
    rank_pool.run(RUN, num_ranks=num_ranks, trial=cut.model_dump(), folder=str(resumed))
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
    whole, cut = (toy_trial(num_ranks=2, optimizer={"name": "adam"}, max_epochs=epochs) for epochs in (3, 2))
    straight, resumed = folder_of(whole, tmp_path), folder_of(whole, tmp_path)
    expected = rank_pool.run(RUN, num_ranks=2, trial=whole.model_dump(), folder=str(straight))
    rank_pool.run(RUN, num_ranks=2, trial=cut.model_dump(), folder=str(resumed))
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
