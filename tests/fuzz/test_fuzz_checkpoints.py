"""Checkpoints of any content, with a digest that agrees, are loaded as plain values or refused in words."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st

from fuzz.hostile import VALUES, peak_memory_mb, spoilt_bytes
from paceline.errors import DataError
from paceline.train import checkpoint


@pytest.fixture
def saved(tmp_path):
    """A checkpoint as a trial leaves it."""
    state = {"model": {"weight": torch.arange(6.0).reshape(2, 3)}, "num_updates": 3, "rng": [1, (2, None), "text"]}
    return checkpoint.save(tmp_path, state, num_updates=3)


def put(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.with_name(f"{path.name}.sha256").write_text(hashlib.sha256(content).hexdigest())


def torch_bytes(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def test_files_of_any_content(survives, saved):
    trial = saved.parent.parent

    def read(content: bytes) -> None:
        put(saved, content)
        state = checkpoint.load_newest(trial)
        assert isinstance(state, dict)
        assert int(state["schema_version"]) <= checkpoint.SCHEMA_VERSION

    whole = saved.read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        program = archive.read(name)

    def with_program(spoilt: bytes) -> bytes:
        """The archive whole, and the pickle in it spoilt."""
        made = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as new:
            for entry in old.namelist():
                new.writestr(entry, spoilt if entry == name else old.read(entry))
        return made.getvalue()

    values = VALUES.map(lambda value: {"schema_version": value, "model": value}) | VALUES
    survives(read, st.one_of(spoilt_bytes(whole), spoilt_bytes(program).map(with_program), values.map(torch_bytes)))


class Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_that_names_code_is_refused_before_it_runs(saved, tmp_path):
    for content in (
        torch_bytes({"schema_version": 1, "x": Runs(tmp_path / "ran")}),
        pickle.dumps(Runs(tmp_path / "ran")),
    ):
        put(saved, content)
        with pytest.raises(DataError, match="is no checkpoint of paceline"):
            checkpoint.load_newest(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_small_file_that_would_fill_memory_is_refused(saved, tmp_path):
    """Bytes of any size that nobody wrote; zeros, packed a thousandfold."""
    big = torch_bytes({"schema_version": 1, "x": torch.zeros(50_000_000, dtype=torch.uint8)})
    packed, named = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(big)) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
    with zipfile.ZipFile(named, "w") as new:
        new.writestr("a/data.pkl", b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x60\x85R.")
        new.writestr("a/version", "3\n")
    before_mb = peak_memory_mb()
    for content in (packed.getvalue(), named.getvalue()):
        assert len(content) < 100_000
        put(saved, content)
        with pytest.raises(DataError, match=r"packed|names builtins bytearray"):
            checkpoint.load_newest(tmp_path)
    assert peak_memory_mb() - before_mb < 40


WRONG = {
    "a list": [1, 2],
    "a tensor": torch.zeros(3),
    "no version": {"model": {}},
    "a version that is text": {"schema_version": "x"},
    "a version of the future": {"schema_version": 99},
    "nothing": None,
    "an ordered dict without a version": OrderedDict(a=1),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_checkpoint_of_something_else_is_refused(saved, tmp_path, what):
    put(saved, torch_bytes(WRONG[what]))
    with pytest.raises(DataError, match=r"update-000000003\.pt"):
        checkpoint.load_newest(tmp_path)


def test_a_digest_of_any_content_is_compared_only(survives, saved):
    digest = saved.with_name(f"{saved.name}.sha256")

    def read(content: bytes) -> None:
        digest.write_bytes(content)
        checkpoint.load_newest(saved.parent.parent)

    survives(read, st.binary(max_size=100) | spoilt_bytes(digest.read_bytes()), num_examples=30)
