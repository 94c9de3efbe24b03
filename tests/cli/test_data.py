"""``paceline data``: from published files to a store, and a look at what is in it."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import pytest

from data.imagenet_source import change, write_source


def png_size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG whose every chunk is whole; fails if it is none."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    position, kinds, pixels = 8, [], b""
    while position < len(content):
        (length,) = struct.unpack_from(">I", content, position)
        kind, data = content[position + 4 : position + 8], content[position + 8 : position + 8 + length]
        assert struct.unpack_from(">I", content, position + 8 + length)[0] == zlib.crc32(kind + data)
        kinds.append(kind)
        pixels += data if kind == b"IDAT" else b""
        position += 12 + length
    assert (kinds[0], kinds[-1]) == (b"IHDR", b"IEND")
    assert len(zlib.decompress(pixels)) > 0
    return struct.unpack_from(">II", content, 16)


def test_show_counts_and_draws_a_data_set(paceline):
    done = paceline("data", "show", "mnist-small", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["num_images"] == {"train": 4500, "validation": 500, "test": 1000}
    assert [entry["name"] for entry in facts["classes"]] == list("0123456789")
    assert sum(entry["train"] for entry in facts["classes"]) == 4500
    assert facts["image_shape"] == [1, 32, 32]
    width, height = png_size(paceline.folder / "mnist-small.png")
    assert width > 300 and height > 300


def test_published_files_become_a_store_that_can_be_shown(paceline):
    """The same source gives the same digest, and is not converted twice."""
    source = write_source(paceline.folder / "source")
    data = paceline.folder / "data"
    arguments = ("data", "prepare", "imagenet32", "--source", source, "--data-dir", data, "--json")
    first = paceline(*arguments)
    assert first.returncode == 0, first.stderr
    made = json.loads(first.stdout)
    assert made["path"] == str(data / "imagenet32")
    assert "\x1b" not in first.stderr
    assert json.loads(paceline(*arguments).stdout) == made

    shown = paceline("data", "show", "imagenet32", "--data-dir", data, "--sheet", "sheet.png")
    assert shown.returncode == 0, shown.stderr
    for word in ("imagenet32: 4 classes, images 3 x 32 x 32", made["digest"], "kit fox", "tench"):
        assert word in shown.stdout
    png_size(paceline.folder / "sheet.png")


def test_a_damaged_source_ends_with_1_and_leaves_nothing(paceline):
    source = write_source(paceline.folder / "source")
    change(source / "train_data_batch_3", labels=[1, 2])
    done = paceline("data", "prepare", "imagenet32", "--source", source, "--data-dir", paceline.folder / "data")
    assert (done.returncode, done.stdout) == (1, "")
    assert "train_data_batch_3" in done.stderr
    assert "Traceback" not in done.stderr
    left = paceline.folder / "data"
    assert not left.exists() or list(left.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("prepare", "imagenet32", "--source", "nowhere"), 1, ["nowhere"]),
        (("prepare", "imagenet23", "--source", "."), 2, ["unknown data set 'imagenet23': did you mean 'imagenet32'?"]),
        (("prepare", "mnist", "--source", "."), 2, ["'mnist' is used as published, without preparing"]),
        (("show", "mnst"), 2, ["unknown data set 'mnst': did you mean 'mnist'?"]),
        (("show", "imagenet64"), 1, ["data set 'imagenet64' not found. Looked in:", "`paceline data prepare image"]),
        (("show", "mnist-small", "--data-dir", "nowhere"), 1, ["nowhere: no such folder, though --data-dir names it"]),
        (("show", "mnist-small", "--sheet", "no/such/folder.png"), 1, ["folder.png: the contact sheet cannot be"]),
    ],
)
def test_mistakes_have_their_exit_code_and_words(paceline, arguments, code, words):
    done = paceline("data", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("paceline: ")
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert [path.name for path in paceline.folder.iterdir()] in ([], ["cache"])
