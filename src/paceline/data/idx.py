"""The idx files that MNIST and its kin are published in, gzipped or plain.

Layout: two zero bytes, the type (0x08: uint8), the number of dims, one big-endian uint32 a dim, the values.
Source: http://yann.lecun.com/exdb/mnist, "the IDX file format".
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from paceline.errors import DataError

_GZIP_MAGIC = b"\x1f\x8b"
_UINT8 = 0x08
_MAX_DEFLATE_RATIO = 1032  # zlib's technical details: no deflate stream expands further
_STEP_BYTES = 1 << 20
_MOST_BYTES = 1 << 30  # the largest published set of the kind, EMNIST by class, has 0.55 of it


def read_idx(path: Path, *, num_dims: int) -> NDArray[np.uint8]:
    """Read one idx file of unsigned bytes.

    Memory is set aside once, for the size the header declares, after checking that the file can hold that much.
    Args:
        path: gzipped (told by its first two bytes, not by its name) or plain.
        num_dims: 3 for images, 1 for labels.
    Returns: uint8 of the declared shape.
    Raises: DataError naming the file, if it is missing, truncated, too long, corrupt or something else.
    """
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            if not compressed:
                return _read_values(raw, path, num_dims, limit_bytes=path.stat().st_size)
            with gzip.GzipFile(fileobj=raw) as unzipped:
                limit_bytes = path.stat().st_size * _MAX_DEFLATE_RATIO
                return _read_values(cast(BinaryIO, unzipped), path, num_dims, limit_bytes=limit_bytes)
    except EOFError as error:
        raise DataError(f"{path}: the gzip stream breaks off: a truncated download? Fetch the file again") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged gzip stream ({error}). Fetch the file again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read_values(stream: BinaryIO, path: Path, num_dims: int, *, limit_bytes: int) -> NDArray[np.uint8]:
    shape = _read_header(stream, path, num_dims)
    num_bytes = math.prod(shape)
    if num_bytes > limit_bytes:
        raise DataError(
            f"{path}: truncated: its header declares {_dims(shape)} values, more than the file can hold. "
            "Fetch the file again"
        )
    if num_bytes > _MOST_BYTES:
        raise DataError(
            f"{path}: its header declares {_dims(shape)} values: files of up to {_MOST_BYTES >> 20} MiB, "
            "unpacked, are read into memory"
        )
    values = np.empty(num_bytes, dtype=np.uint8)
    view = values.data
    filled = 0
    while filled < num_bytes:
        count = stream.readinto(view[filled : filled + _STEP_BYTES])  # type: ignore[attr-defined]
        if not count:
            raise DataError(
                f"{path}: truncated: {filled} of the {num_bytes} values that its header declares ({_dims(shape)}). "
                "Fetch the file again"
            )
        filled += count
    if stream.read(1):
        raise DataError(f"{path}: bytes follow the {num_bytes} values that its header declares ({_dims(shape)})")
    return values.reshape(shape)


def _read_header(stream: BinaryIO, path: Path, num_dims: int) -> tuple[int, ...]:
    magic = stream.read(4)
    expected = bytes((0, 0, _UINT8, num_dims))
    if magic != expected:
        raise DataError(
            f"{path}: no idx file of unsigned bytes with {num_dims} dim{'s' * (num_dims > 1)}: "
            f"it starts with {magic.hex() or 'nothing'}, not {expected.hex()}"
        )
    sizes = stream.read(4 * num_dims)
    if len(sizes) < 4 * num_dims:
        raise DataError(f"{path}: truncated inside its header. Fetch the file again")
    shape = struct.unpack(f">{num_dims}I", sizes)
    if 0 in shape:
        raise DataError(f"{path}: its header declares {_dims(shape)} values, none at all. Fetch the file again")
    return shape


def _dims(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
