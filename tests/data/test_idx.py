"""Reading idx files: what is right comes back, what is damaged is an error that names the file."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from paceline.data.idx import read_idx
from paceline.errors import DataError

IMAGES = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)


def encoded(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture(params=["plain", "gzip"])
def write(request, tmp_path):
    """Write bytes as an idx file, plain or gzipped."""

    def write(content: bytes) -> Path:
        path = tmp_path / "images-ubyte"
        path.write_bytes(gzip.compress(content) if request.param == "gzip" else content)
        return path

    return write


def test_values_and_shape_come_back(write):
    assert np.array_equal(read_idx(write(encoded(IMAGES)), num_dims=3), IMAGES)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (encoded(IMAGES)[:-1], "truncated"),
        (encoded(IMAGES)[:7], "truncated inside its header"),
        (b"", "starts with nothing"),
        (encoded(IMAGES) + b"x", "bytes follow"),
        (encoded(IMAGES[0]), "3 dims"),
        (b"\x00\x00\x0d\x03" + encoded(IMAGES)[4:], "00000d03, not 00000803"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12, "truncated: its header declares 4294967295"),
    ],
    ids=["values", "header", "empty", "trailing", "dims", "magic", "absurd-size"],
)
def test_damaged_content_is_an_error_that_names_the_file(write, content, says):
    path = write(content)
    with pytest.raises(DataError, match=says) as caught:
        read_idx(path, num_dims=3)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
def test_truncated_gzip_is_an_error(tmp_path, kept):
    whole = gzip.compress(encoded(np.random.default_rng(0).integers(0, 256, (50, 8, 8), dtype=np.uint8)))
    path = tmp_path / "cut.gz"
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(DataError, match=r"cut\.gz: the gzip stream breaks off"):
        read_idx(path, num_dims=3)


def test_gzip_with_flipped_bits_is_an_error(tmp_path):
    whole = bytearray(gzip.compress(encoded(np.random.default_rng(0).integers(0, 256, (50, 8, 8), dtype=np.uint8))))
    whole[len(whole) // 2] ^= 0xFF
    path = tmp_path / "flipped.gz"
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"flipped\.gz"):
        read_idx(path, num_dims=3)


def test_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_idx(tmp_path / "nothing", num_dims=1)
