"""Records on disk: appended whole, read back exactly, never half a file."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disks import tmpfs
from paceline.errors import DataError
from paceline.records import (
    End,
    Epoch,
    Evaluation,
    RecordFile,
    RecordFollower,
    Resumed,
    Start,
    each_record,
    read_json,
    read_records,
    write_atomically,
    write_json,
)

TIMES = {"train_time_s": 1.0, "data_s": 0.1, "compute_s": 0.2, "communication_s": 0.3, "optimizer_s": 0.4}
SENT = {"bytes_sent": 5, "num_collectives": 6}


def start(rank: int = 0) -> Start:
    return Start(
        trial="t", rank=rank, world_size=1, host="h", pid=1, device="cpu", backend="gloo", num_threads=1,
        dtype="float32", torch_version="2", python_version="3", processor="p", num_cores=1, affinity=[0],
        num_parameters=1, num_examples={"train": 1}, initial_parameters_digest="i", startup_s=0.5,
    )  # fmt: skip


def epoch(number: int, num_updates: int) -> Epoch:
    return Epoch(rank=0, epoch=number, num_updates=num_updates, num_indices=1, indices_digest="1-0",
                 parameters_digest="p", peak_memory_bytes=1, **TIMES, **SENT)  # fmt: skip


def evaluation(num_updates: int, loss: float = 0.5) -> Evaluation:
    return Evaluation(
        epoch=1, epoch_end=True, num_updates=num_updates, num_samples=1, num_gradient_evaluations=1,
        update_time_s={"p50": 0.1}, evaluation_time_s=0.1, checkpoint_time_s=0.1,
        train={"loss": loss}, validation={"loss": loss}, **TIMES, **SENT,
    )  # fmt: skip


def end(num_updates: int, status: str = "completed") -> End:
    return End(
        rank=0, status=status, reason="", num_updates=num_updates, num_samples=1, num_gradient_evaluations=1,
        train_time_s=1.0, wall_time_s=1.0, peak_memory_bytes=1, parameters_digest="p", test={}, **SENT,
    )  # fmt: skip


def write(path: Path, *records) -> None:
    file = RecordFile(path)
    for record in records:
        file.append(record)
    file.close()


def test_records_are_read_back_as_they_were_written(tmp_path):
    records = [start(), evaluation(3), epoch(0, 3), end(3)]
    write(tmp_path / "r", *records)
    assert read_records(tmp_path / "r") == records


@given(value=st.floats())
def test_any_float_survives(tmp_path_factory, value):
    """NaN and infinities are strings in the file, which stays strict JSON."""
    path = tmp_path_factory.mktemp("floats") / "r"
    write(path, evaluation(1, loss=value))
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    (read,) = read_records(path)
    assert isinstance(read, Evaluation)
    got = read.validation["loss"]
    assert got == value or (math.isnan(got) and math.isnan(value))


@given(cut=st.integers(1, 400))
def test_a_torn_last_line_is_left_out_and_written_over(tmp_path_factory, cut):
    """Wherever the writer died; what it wrote before stays, what follows begins on a line of its own."""
    path = tmp_path_factory.mktemp("torn") / "r"
    write(path, start(), epoch(0, 3), epoch(1, 6))
    whole = path.read_bytes()
    last = len(whole.splitlines()[-1]) + 1
    path.write_bytes(whole[: -min(cut, last)])
    assert read_records(path) == [r for r in read_records(path) if not (isinstance(r, Epoch) and r.epoch == 1)]
    assert len(read_records(path)) == 2
    write(path, epoch(1, 6))
    assert [r.kind for r in read_records(path)] == ["start", "epoch", "epoch"]


def test_a_file_of_nothing_but_a_torn_line_counts_as_empty(tmp_path):
    (tmp_path / "r").write_bytes(b'{"kind": "sta')
    assert read_records(tmp_path / "r") == []
    file = RecordFile(tmp_path / "r")
    assert not file.has_records
    file.close()


def test_a_resume_supersedes_what_came_after_its_checkpoint(tmp_path):
    """Twice over; starts are kept, since each names the process that ran."""
    write(
        tmp_path / "r",
        start(), evaluation(3), epoch(0, 3), evaluation(6), epoch(1, 6), evaluation(8),
        Resumed(rank=0, num_updates=6), start(), evaluation(8), evaluation(9), epoch(2, 9), end(9, "stopped"),
        Resumed(rank=0, num_updates=3), start(), evaluation(6), epoch(1, 6), end(6),
    )  # fmt: skip
    seen = [(r.kind, getattr(r, "num_updates", None)) for r in read_records(tmp_path / "r")]
    assert seen == [
        ("start", None), ("evaluation", 3), ("epoch", 3), ("start", None), ("resumed", 3), ("start", None),
        ("evaluation", 6), ("epoch", 6), ("end", 6),
    ]  # fmt: skip


def test_a_newer_record_is_refused_by_its_version_and_line(tmp_path):
    newer = start().model_dump() | {"schema_version": 99, "field_of_the_future": 1}
    write(tmp_path / "r", start())
    with (tmp_path / "r").open("a") as file:
        file.write(json.dumps(newer) + "\n")
    with pytest.raises(DataError, match=r"line 2 has schema version 99, this paceline reads up to 1: upgrade"):
        read_records(tmp_path / "r")


def test_a_newer_record_of_the_same_fields_is_refused_too(tmp_path):
    (tmp_path / "r").write_text(json.dumps(start().model_dump() | {"schema_version": 99}) + "\n")
    with pytest.raises(DataError, match="schema version 99"):
        read_records(tmp_path / "r")


@pytest.mark.parametrize("line", ["nonsense", "{}", '{"kind": "start"}', '{"kind": "other"}', "[1]"])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    write(tmp_path / "r", start())
    with (tmp_path / "r").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=r"r, line 2 is no record of paceline"):
        read_records(tmp_path / "r")


def test_a_follower_sees_whole_records_only_once(tmp_path):
    write(tmp_path / "r", start())
    follower = RecordFollower(tmp_path / "r")
    assert follower.new_records() == []
    write(tmp_path / "r", epoch(0, 3))
    with (tmp_path / "r").open("a") as file:
        file.write('{"kind": "ep')
    assert [r.kind for r in follower.new_records()] == ["epoch"]
    assert follower.new_records() == []


def test_what_is_no_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    for name in ("x.json", "missing.json"):
        with pytest.raises(DataError, match=name):
            read_json(tmp_path / name)


def test_a_record_that_does_not_fit_on_the_disk_is_an_error_and_no_line(tmp_path):
    """The system takes what fits of it without complaint."""
    with tmpfs(tmp_path / "disk", "size=16k") as disk:
        records = RecordFile(disk / "rank-0000.jsonl")
        record = Resumed(rank=0, num_updates=1)
        written = 0
        with pytest.raises(OSError, match="No space left"):
            for _ in range(10_000):
                records.append(record)
                written += 1
        records.close()
        assert list(each_record(disk / "rank-0000.jsonl")) == [record] * written
        assert not (disk / "rank-0000.jsonl").read_bytes().endswith(b"\n"), "a part of a line is there"


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    with tmpfs(tmp_path / "disk", "size=16k") as disk:
        write_json(disk / "state.json", {"old": True})
        with pytest.raises(OSError, match="No space left"):
            write_atomically(disk / "state.json", os.urandom(100_000))
        assert [path.name for path in disk.iterdir()] == ["state.json"]
        assert read_json(disk / "state.json") == {"old": True}
